package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

// The forms of input of `rmq pub`.
const (
	inRaw    = "raw"
	inLines  = "lines"
	inNDJSON = "ndjson"
)

const (
	minRate     = 0.001       // messages a second
	maxPubBatch = pubInFlight // a batch is sent when all of it has been gathered
)

// pubFlags are the flags and arguments of `rmq pub`.
type pubFlags struct {
	topic       string
	body        string
	hasBody     bool // else the bodies come from stdin
	tag         string
	keys        []string
	group       string
	props       []string
	in          string
	count       int
	special     specialFlags
	template    string
	rate        float64
	batch       int
	transaction string // a decision; empty: no transactions
	async       bool
	sync        bool
	oneway      bool
	queue       string
	sendTimeout time.Duration
	noReceipts  bool
}

func (a *app) pubCommand() *cobra.Command {
	var f pubFlags
	c := &cobra.Command{
		Use: "pub TOPIC [BODY|-]", Short: "Send messages",
		Long: `Send messages.

The body is an argument, or comes from stdin: as one message (--in raw), as one
message a line (--in lines), or as one JSON object a line with the fields that
` + "`rmq sub -o ndjson`" + ` prints (--in ndjson).

  rmq pub orders hello --tag paid --key 42
  rmq pub orders - < file
  rmq pub orders later --delay 30s
  rmq pub orders --template '{"n":{{.N}},"id":"{{uuid}}"}' --count 1000 --rate 50
  tail -f log | rmq pub logs --in lines
  rmq sub orders -o ndjson | rmq pub copy --in ndjson`,
		Args:              takes("TOPIC", "[BODY]"),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.topic = args[0]
			if len(args) == 2 && args[1] != "-" {
				f.body, f.hasBody = args[1], true
			}
			if err := f.check(cmd, a.now()); err != nil {
				return err
			}
			if len(args) == 1 && f.readsInput() && isTerminal(a.in) {
				m := usagef("argument BODY is missing")
				m.Hint = "usage: " + cmd.UseLine()
				return m
			}
			return a.pub(cmd.Context(), f)
		},
	}
	f.declare(c)
	return c
}

func (f *pubFlags) declare(c *cobra.Command) {
	c.Flags().StringVar(&f.tag, "tag", "", "tag of the messages")
	c.Flags().StringArrayVar(&f.keys, "key", nil, "key of the messages (repeatable)")
	c.Flags().StringVar(&f.group, "message-group", "", "message group: its messages stay in order")
	c.Flags().StringArrayVar(&f.props, "prop", nil, "property `NAME=VALUE` (repeatable)")
	c.Flags().StringVar(&f.in, "in", inRaw, "form of stdin: raw, lines or ndjson")
	c.Flags().IntVar(&f.count, "count", 1, "send the body `N` times")
	f.special.declare(c)
	c.Flags().StringVar(&f.template, "template", "", "make each body of a Go `TEMPLATE`; it knows .N (from 1), .Line (of stdin, with --in lines), now, uuid, random LIMIT")
	c.Flags().Float64Var(&f.rate, "rate", 0, "send `N` messages a second, at even intervals; 0: as fast as it goes")
	c.Flags().IntVar(&f.batch, "batch", 0, "send explicit batches of `N` messages, each to one queue")
	c.Flags().BoolVar(&f.async, "async", false, "send on while answers are under way (the default)")
	c.Flags().BoolVar(&f.sync, "sync", false, "wait for each answer before the next message")
	c.Flags().BoolVar(&f.oneway, "oneway", false, "wait for no answers")
	c.Flags().StringVar(&f.transaction, "transaction", "", "send each message in a transaction and `DECIDE` commit, rollback or unknown")
	c.Flags().StringVar(&f.queue, "queue", "", "only to the queue `BROKER/N`, or N of the first broker that has it")
	c.Flags().DurationVar(&f.sendTimeout, "send-timeout", time.Minute, "how long to try to send a message")
	c.Flags().BoolVar(&f.noReceipts, "no-receipts", false, "print nothing for what was sent")
	complete(c, "in", inRaw, inLines, inNDJSON)
	complete(c, "transaction", decisionNames...)
}

func (f *pubFlags) check(cmd *cobra.Command, now time.Time) error {
	switch {
	case f.in != inRaw && f.in != inLines && f.in != inNDJSON:
		u := usagef("--in %q is not known", f.in)
		u.Hint = "one of: raw, lines, ndjson"
		return u
	case f.in != inRaw && f.hasBody:
		return usagef("--in %s reads stdin, but a body is given too", f.in)
	case f.in != inRaw && cmd.Flags().Changed("count"):
		return usagef("--count repeats one body; it goes with no --in %s", f.in)
	case f.count < 1:
		return usagef("--count %d: want at least 1", f.count)
	case f.sendTimeout <= 0:
		return usagef("--send-timeout %s: want more than 0", f.sendTimeout)
	case math.IsNaN(f.rate) || math.IsInf(f.rate, 0) || f.rate != 0 && f.rate < minRate:
		return usagef("--rate %v: want 0, or at least %v", f.rate, minRate)
	case f.batch < 0 || f.batch > maxPubBatch:
		return usagef("--batch %d: want 0 to %d", f.batch, maxPubBatch)
	case f.template != "" && (f.hasBody || f.in == inNDJSON):
		return usagef("--template makes the bodies; it goes with no BODY and no --in ndjson")
	case f.in != inLines && strings.Contains(f.template, ".Line"):
		return usagef("--template knows .Line only with --in lines")
	}
	if _, known := decisions[f.transaction]; f.transaction != "" && !known {
		u := usagef("--transaction %q is not known", f.transaction)
		u.Hint = "one of: " + strings.Join(decisionNames, ", ")
		return u
	}
	for _, modes := range [][]string{{"async", "sync", "oneway", "batch"}, {"async", "oneway", "batch", "transaction"}, {"queue", "batch"}} {
		if err := exclusive(cmd, modes...); err != nil {
			return err
		}
	}
	if err := f.checkTemplate(); err != nil {
		return err
	}
	if err := f.special.check(cmd, f.group, now); err != nil {
		return err
	}
	if err := message.CheckTopic(f.topic); err != nil {
		return err
	}
	if _, err := f.properties(); err != nil {
		return err
	}
	_, err := f.sendOptions()
	return err
}

// readsInput reports that bodies come from stdin.
func (f *pubFlags) readsInput() bool {
	return !f.hasBody && (f.template == "" || f.in != inRaw)
}

// bulk reports that there may be many messages.
func (f *pubFlags) bulk() bool { return f.in != inRaw || f.count > 1 }

func (f *pubFlags) properties() (map[string]string, error) {
	if len(f.props) == 0 {
		return nil, nil
	}
	props := make(map[string]string, len(f.props))
	for _, p := range f.props {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("--prop %q: want NAME=VALUE", p)
		}
		props[name] = value
	}
	return props, nil
}

// sendOptions chooses the queue of --queue.
func (f *pubFlags) sendOptions() ([]producer.SendOption, error) {
	if f.queue == "" {
		return nil, nil
	}
	broker, number, named := strings.Cut(f.queue, "/")
	if !named {
		broker, number = "", f.queue
	}
	id, err := strconv.Atoi(number)
	if err != nil || id < 0 || named && broker == "" {
		return nil, usagef("--queue %q: want BROKER/N or N", f.queue)
	}
	if named {
		return []producer.SendOption{producer.ToQueue(message.Queue{Topic: f.topic, Broker: broker, ID: id})}, nil
	}
	return []producer.SendOption{producer.WithSelector(func(queues []message.Queue, _ *message.Message) int {
		for i, q := range queues {
			if q.ID == id {
				return i
			}
		}
		return -1
	})}, nil
}

// apply sets what the flags say of every message.
func (f *pubFlags) apply(m *message.Message, props map[string]string) {
	m.Topic = f.topic
	f.special.apply(m)
	if f.tag != "" {
		m.Tag = f.tag
	}
	if len(f.keys) > 0 {
		m.Keys = f.keys
	}
	if f.group != "" {
		m.Group = f.group
	}
	if m.Properties == nil {
		m.Properties = props
		return
	}
	for name, value := range props {
		m.Properties[name] = value
	}
}

func (a *app) pub(ctx context.Context, f pubFlags) error {
	if err := a.expectServer(ctx); err != nil {
		return err
	}
	opts, err := f.sendOptions()
	if err != nil {
		return err
	}
	p, err := a.newProducer(ctx, f.config())
	if err != nil {
		return err
	}
	begun := time.Now()
	run := newPublication(a, f, p, opts)
	err = run.run(ctx)
	if f.bulk() {
		seconds := time.Since(begun).Seconds()
		a.note("sent %d messages in %.2f s (%.0f msg/s)", run.sent, seconds, float64(run.sent)/seconds)
	}
	if readerGone(err) {
		return nil
	}
	return run.failure(ctx, err)
}

// config is the producer's. One that sends in transactions answers what it is
// asked for later as it decided.
func (f *pubFlags) config() producer.Config {
	cfg := producer.Config{SendTimeout: f.sendTimeout}
	if f.transaction != "" {
		cfg.TransactionTopics = []string{f.topic}
		cfg.Checker = func(context.Context, *message.Stored) producer.Decision { return decisions[f.transaction] }
	}
	return cfg
}

// newProducer opens the SDK, falling back on the local server's address.
func (a *app) newProducer(ctx context.Context, cfg producer.Config) (*producer.Producer, error) {
	cfg.NameServers, cfg.ConfigFile = a.reach.nameServers, a.reach.configFile
	cfg.LookupEnv, cfg.NameServerEndpoint = a.lookupEnv, a.reach.endpoint
	p, err := producer.New(ctx, cfg)
	if errors.Is(err, producer.ErrNoNameServer) {
		cfg.NameServers = []string{defaultNameServer}
		return producer.New(ctx, cfg)
	}
	return p, err
}

// expectServer fails when no name server answers, so that a wrong address is
// not tried for all of --send-timeout.
func (a *app) expectServer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.reach.timeout)
	defer cancel()
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	defer ad.Close()
	_, err = ad.TopicNames(ctx)
	return err
}

// failure says how far it came when it did not come to the end.
func (r *publication) failure(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	f := *explain(ctx, r.named(ctx, err))
	if r.flags.bulk() {
		f.Message += fmt.Sprintf("; %d messages were sent", r.sent)
	}
	if r.failed > 1 {
		f.Message += fmt.Sprintf(", %d failed", r.failed)
	}
	if r.sent > 0 && f.exit != exitInterrupted {
		f.exit = exitPartial
	}
	return &f
}

// named adds near names to a topic that does not exist.
func (r *publication) named(ctx context.Context, err error) error {
	if !errors.Is(err, producer.ErrTopicNotFound) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.app.reach.timeout)
	defer cancel()
	ad, failed := r.app.admin(ctx)
	if failed != nil {
		return err
	}
	defer ad.Close()
	return topicError(ctx, ad, r.flags.topic, err)
}
