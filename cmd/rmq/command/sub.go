package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message/filter"
	"github.com/rmqio/rmq/transport/protocol"
)

// subBatch is how many messages are printed between two looks at the queue.
const subBatch = 1024

// Times of a subscription.
const (
	// subIdleCheck is how long --exit-at-end believes that there is more when
	// nothing comes.
	subIdleCheck = 200 * time.Millisecond
	// subCloseTimeout bounds the commit and the goodbye at the end.
	subCloseTimeout = 5 * time.Second
)

// subFlags are the flags of `rmq sub`.
type subFlags struct {
	group       string
	from        string
	count       int
	exitAtEnd   bool
	idleTimeout time.Duration
	raw         bool
	tag, sql    string
	pop         bool
	invisible   time.Duration
	broadcast   broadcastFlags
	topics      []string
}

func (a *app) subCommand() *cobra.Command {
	var f subFlags
	c := &cobra.Command{
		Use: "sub TOPIC...", Short: "Receive messages and print them",
		Long: `Receive messages and print them.

Without --group all queues are read and nothing is remembered. With --group the
members of the group share the queues, in the order of each queue, and a message
counts as consumed once its line was written. With --pop they share messages: any
member gets any message, and what was not printed comes again, to whoever asks.

  rmq sub orders                               what comes from now on
  rmq sub orders --from earliest --exit-at-end what is there
  rmq sub orders --group billing -o ndjson     as a member of a group
  rmq sub orders --group billing --pop         beside more members than queues
  rmq sub orders --group caches --broadcast    all messages, as every member gets
  rmq sub orders --tag 'paid || open'          some tags only
  rmq sub orders --sql "amount > 100 AND region IN ('eu', 'us')"
  rmq sub orders -o ndjson | rmq pub copy --in ndjson`,
		Args: takes("TOPIC..."),
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, s string) ([]string, cobra.ShellCompDirective) {
			return a.completeTopics(cmd, nil, s)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f.topics = args
			if !f.pop && cmd.Flags().Changed("invisible") {
				return usagef("--invisible goes with --pop")
			}
			return a.sub(cmd.Context(), f)
		},
	}
	c.Flags().StringVarP(&f.group, "group", "g", "", "consumer `GROUP` to be a member of")
	c.Flags().StringVar(&f.from, "from", "latest", "`WHERE` to begin: earliest, latest, -10m (ago), a time (RFC 3339) or an offset; with --group only where it never committed")
	c.Flags().StringVar(&f.tag, "tag", "", "only messages with one of these tags: `EXPR` is 'a || b'")
	c.Flags().StringVar(&f.sql, "sql", "", "only messages for whose properties `EXPR`, as in SQL92, is true")
	c.Flags().IntVar(&f.count, "count", 0, "exit after `N` messages")
	c.Flags().BoolVar(&f.exitAtEnd, "exit-at-end", false, "exit when all that was there at the start is printed")
	c.Flags().DurationVar(&f.idleTimeout, "idle-timeout", 0, "exit when nothing came for this long")
	c.Flags().BoolVar(&f.pop, "pop", false, "with --group, share messages instead of queues")
	c.Flags().DurationVar(&f.invisible, "invisible", consumer.DefaultInvisible, "with --pop, for `HOW LONG` no other member gets a message, unless it was printed by then")
	c.Flags().BoolVar(&f.raw, "raw", false, "print bodies only, a newline after each")
	f.broadcast.register(c)
	return c
}

func (f subFlags) check(output string) error {
	switch {
	case f.raw && output != outTable:
		return usagef("--raw prints bodies only: it goes with no -o %s", output)
	case f.count < 0:
		return usagef("--count %d: want 0 (no limit) or more", f.count)
	case f.idleTimeout < 0:
		return usagef("--idle-timeout %s: want 0 (none) or more", f.idleTimeout)
	}
	return errors.Join(f.checkPop(), f.checkBroadcast(), f.checkFilter())
}

func (f subFlags) checkFilter() error {
	if f.tag != "" && f.sql != "" {
		return usagef("--tag and --sql: want one of them")
	}
	if _, err := filter.ParseTags(f.tag); err != nil {
		return usagef("--tag: %v", err)
	}
	if f.sql == "" {
		return nil
	}
	if _, err := filter.Compile(f.sql); err != nil {
		return usagef("--sql: %v", err)
	}
	return nil
}

// startPosition is the position as the consumer wants it.
func (p position) startPosition() consumer.StartPosition {
	switch p.kind {
	case fromEarliest:
		return consumer.Earliest()
	case fromOffset:
		return consumer.AtOffset(p.offset)
	case fromTime:
		return consumer.AtTime(p.time)
	}
	return consumer.Latest()
}

func (a *app) sub(ctx context.Context, f subFlags) error {
	if err := f.check(a.output); err != nil {
		return err
	}
	from, err := parsePosition("--from", f.from, a.now())
	if err != nil {
		return err
	}
	if err := a.expectTopics(ctx, f.topics, f.exitAtEnd); err != nil {
		return err
	}
	if f.pop {
		return a.subPop(ctx, f, from)
	}
	c, err := a.newPull(ctx, f, from)
	if err != nil {
		return err
	}
	s := &subscription{app: a, flags: f, consumer: c, out: newStream(a), line: deliveryLine{raw: f.raw}}
	return s.run(ctx)
}

func (a *app) newPull(ctx context.Context, f subFlags, from position) (*consumer.Pull, error) {
	cfg := consumer.PullConfig{
		NameServers: a.reach.nameServers, ConfigFile: a.reach.configFile,
		LookupEnv: a.lookupEnv, NameServerEndpoint: a.reach.endpoint,
		Group: f.group, From: from.startPosition(), Subscriptions: f.subscriptions(),
	}
	f.broadcast.apply(&cfg)
	c, err := consumer.NewPull(ctx, cfg)
	if errors.Is(err, consumer.ErrNoNameServer) {
		cfg.NameServers = []string{defaultNameServer}
		return consumer.NewPull(ctx, cfg)
	}
	return c, err
}

func (f subFlags) subscriptions() []consumer.Subscription {
	list := make([]consumer.Subscription, len(f.topics))
	for i, t := range f.topics {
		list[i] = consumer.Subscription{Topic: t, Tag: f.tag, SQL: f.sql}
	}
	return list
}

// expectTopics fails when no server answers, so that a wrong address is not
// waited for. A topic that does not exist is waited for, with a word to stderr;
// when only what is there is wanted, it is a failure.
func (a *app) expectTopics(ctx context.Context, topics []string, mustExist bool) error {
	ctx, cancel := context.WithTimeout(ctx, a.reach.timeout)
	defer cancel()
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	defer ad.Close()
	known, err := ad.TopicNames(ctx)
	if err != nil {
		return err
	}
	for _, t := range topics {
		if slices.Contains(known, t) || routed(ctx, ad, t) {
			continue
		}
		f := notFound(protocol.TopicNotFound, unknownTopicText(t), t, known, "rmq topic list")
		if mustExist {
			return f
		}
		a.note("%s yet; waiting for it (%s)", f.Message, f.Hint)
	}
	return nil
}

// routed asks for one topic, as reserved ones may not be listed.
func routed(ctx context.Context, ad *admin.Admin, topic string) bool {
	_, err := ad.TopicRoute(ctx, topic)
	return err == nil
}

// note says something to people on stderr.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// subscription is one run of `rmq sub`.
type subscription struct {
	app      *app
	flags    subFlags
	consumer *consumer.Pull
	out      *stream
	line     deliveryLine
	printed  int
	// remaining is, with --exit-at-end, what is still to come of each queue.
	remaining remaining
}

// run prints until an end is reached, then gives the queues back.
func (s *subscription) run(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	var announcing sync.WaitGroup
	announcing.Go(func() { s.announce(reading) })
	err := s.begin(ctx)
	if err == nil {
		err = s.receive(ctx)
	}
	stop()
	announcing.Wait()
	return leaveGroup(ctx, s.consumer.Close, errors.Join(err, s.out.close()))
}

// leaveGroup ends a consumer after what it was run for has ended with an error or
// nil, and returns what the command ends with.
func leaveGroup(ctx context.Context, leave func(context.Context) error, err error) error {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), subCloseTimeout)
	defer cancel()
	closed := leave(ending)
	switch {
	case readerGone(err):
		return nil
	case err != nil:
		return err
	}
	return closed
}

// announce says on stderr when the consumer reads, for whoever waits for that.
func (s *subscription) announce(ctx context.Context) {
	select {
	case <-s.consumer.Ready():
		s.app.note("reading %d queues of %s", len(s.consumer.Assigned()), strings.Join(s.flags.topics, ", "))
	case <-ctx.Done():
	}
}

// begin finds out, with --exit-at-end, how much there is.
func (s *subscription) begin(ctx context.Context) error {
	if !s.flags.exitAtEnd {
		return nil
	}
	select {
	case <-s.consumer.Ready():
	case <-s.consumer.Ended():
		_, err := s.poll(ctx)
		return err
	case <-ctx.Done():
		return s.interrupted(ctx)
	}
	lag, err := s.consumer.Lag(ctx)
	s.remaining = newRemaining(lag)
	return err
}

func (s *subscription) receive(ctx context.Context) error {
	for !s.done() {
		ds, err := s.poll(ctx)
		if err := s.print(ds); err != nil {
			return s.undo(ctx, ds, err)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return s.interrupted(ctx)
		case errors.Is(err, errIdle):
			return s.flags.short(s.printed)
		case s.flags.exitAtEnd, errors.Is(err, consumer.ErrRefused):
			return err
		default:
			s.app.note("warning: %v", err)
		}
	}
	return nil
}

func (s *subscription) done() bool {
	return s.flags.count > 0 && s.printed >= s.flags.count || s.flags.exitAtEnd && s.remaining.empty()
}

// interrupted is how a signal ends a subscription: SIGTERM is its ordinary end.
func (s *subscription) interrupted(ctx context.Context) error { return interruption(ctx) }

// interruption is how a signal ends what would go on for ever: SIGTERM is the
// ordinary end.
func interruption(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errInterrupted) {
		return context.Cause(ctx)
	}
	return nil
}

// errIdle says that nothing came for --idle-timeout.
var errIdle = errors.New("nothing came")

// poll waits for messages, for as long as the flags allow.
func (s *subscription) poll(ctx context.Context) ([]*consumer.Delivery, error) {
	most := subBatch
	if s.flags.count > 0 {
		most = min(most, s.flags.count-s.printed)
	}
	wait := s.flags.idleTimeout
	if s.flags.exitAtEnd {
		wait = subIdleCheck
	}
	if wait == 0 {
		return s.consumer.Poll(ctx, most)
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ds, err := s.consumer.Poll(waiting, most)
	if err == nil || waiting.Err() == nil || ctx.Err() != nil {
		return ds, err
	}
	if s.flags.exitAtEnd {
		return nil, s.remaining.refresh(ctx, s.consumer)
	}
	return nil, errIdle
}

// short is nil, or a failure when --count was not reached.
func (f subFlags) short(printed int) error {
	if f.count == 0 {
		return nil
	}
	return &Failure{
		Code: "TIMED_OUT", Message: fmt.Sprintf("%d of %d messages came, then none for %s", printed, f.count, f.idleTimeout),
		exit: exitUnavailable,
	}
}

// print writes all messages; only then the next poll lets them count as consumed.
func (s *subscription) print(ds []*consumer.Delivery) error {
	for _, d := range ds {
		s.line.Delivery = d
		if err := s.out.add(&s.line); err != nil {
			return err
		}
		s.remaining.came(d)
	}
	s.printed += len(ds)
	return s.out.flush()
}

// undo takes back messages that could not be written, so that they do not count
// as consumed.
func (s *subscription) undo(ctx context.Context, ds []*consumer.Delivery, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), subCloseTimeout)
	defer cancel()
	undone := make(map[string]bool)
	for _, d := range ds {
		if q := d.Queue.String(); !undone[q] {
			undone[q] = true
			if err := s.consumer.Seek(ctx, d.Queue, consumer.AtOffset(d.QueueOffset)); err != nil {
				cause = errors.Join(cause, err)
			}
		}
	}
	return cause
}
