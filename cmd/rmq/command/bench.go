package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
)

// The verbs of `rmq bench`.
const (
	benchPub = "pub"
	benchSub = "sub"
	benchE2E = "e2e"
	benchTx  = "tx"
	// benchDelay is benchE2E with delayed messages.
	benchDelay = "delay"
)

// Limits and defaults of `rmq bench`.
const (
	// benchTopic is the name that RocketMQ's own benchmarks use.
	benchTopic      = "BenchmarkTest"
	benchWindow     = 16384
	benchTxWindow   = 256 // each has a goroutine
	benchPoll       = 1024
	maxBenchClients = 10000
	maxBenchWindow  = 1 << 24
	maxBenchTopics  = 1 << 20
)

// benchFlags are the flags of `rmq bench`.
type benchFlags struct {
	verb     string
	topic    string
	topics   int
	queues   int
	size     byteSize
	clients  int
	batch    int
	window   int
	async    bool
	sync     bool
	rate     float64
	warmup   time.Duration
	duration time.Duration
	count    int
	group    string
	from     string
	idle     time.Duration
	delay    time.Duration
	mode     string // of benchSub
	tag      string
}

func (a *app) benchCommand() *cobra.Command {
	return noun("bench", "Measure a running server", a.benchPubCommand(), a.benchSubCommand(), a.benchE2ECommand(), a.benchTxCommand(), a.benchDelayCommand())
}

func (a *app) benchPubCommand() *cobra.Command {
	f := benchFlags{verb: benchPub}
	c := a.benchVerb(&f, "Measure sending: from the call to the acknowledgement", `Measure sending: from the call to the acknowledgement.

Without --rate each client sends as fast as it may: --async (the default) with up
to --window messages on their way, --sync one call after another. With --rate the
times of the messages are fixed beforehand and latency counts from there, so that
waiting is not left out when the server is slow.

  rmq bench pub --size 128 --duration 30s
  rmq bench pub --sync --clients 64
  rmq bench pub --batch 500 --sync
  rmq bench pub --rate 20000 -o json`)
	f.declareSending(c)
	c.Flags().IntVar(&f.topics, "topics", 1, "send to `N` topics in turn, TOPIC-0 and so on")
	c.Flags().StringVar(&f.tag, "tag", "", "`TAG` of the messages")
	return c
}

func (a *app) benchSubCommand() *cobra.Command {
	f := benchFlags{verb: benchSub, topics: 1, window: 1, size: 0}
	c := a.benchVerb(&f, "Measure receiving of what is there and what comes", `Measure receiving of what is there and what comes, by the members of one group
that commits its offsets. Time runs from the first message to the last; latency is
from storing to receiving, by the clocks of both machines, to the millisecond.

  --mode pull     ask for messages, commit offsets now and then (the default)
  --mode push     a handler is called with each message, many at once
  --mode orderly  the same, the messages of a queue one after another
  --mode pop      members share messages, and acknowledge each batch

  rmq bench sub --count 1000000
  rmq bench sub --mode push --clients 2 --count 1000000
  rmq bench sub --tag paid --count 10000
  rmq bench sub --from latest --duration 30s --clients 4`)
	c.Flags().IntVar(&f.batch, "batch", benchPoll, "with pull and pop, take up to `N` messages at once (pop: 1024 at most)")
	c.Flags().StringVar(&f.mode, "mode", benchPull, "`HOW` to consume: pull, push, orderly or pop")
	c.Flags().StringVar(&f.tag, "tag", "", "only messages with one of these tags: `EXPR` is 'a || b'")
	c.Flags().StringVarP(&f.group, "group", "g", "", "consumer `GROUP` to be a member of (default: a new one, deleted at the end)")
	c.Flags().StringVar(&f.from, "from", "earliest", "`WHERE` to begin when the group never committed: earliest, latest, -10m (ago), a time (RFC 3339) or an offset")
	c.Flags().DurationVar(&f.warmup, "warmup", 0, "do not count what comes in this time after the first message")
	return c
}

func (a *app) benchE2ECommand() *cobra.Command {
	f := benchFlags{verb: benchE2E, topics: 1, from: "latest"}
	c := a.benchVerb(&f, "Measure the whole way: from the call of a producer to a consumer", `Measure the whole way: from the call of a producer to a consumer's hands, both
in this process. Without --rate what is measured is mostly how long messages queue.

  rmq bench e2e --rate 10000
  rmq bench e2e --rate 50000 --size 128 --duration 1m -o json`)
	f.declareSending(c)
	return c
}

func (a *app) benchTxCommand() *cobra.Command {
	f := benchFlags{verb: benchTx, topics: 1}
	c := a.benchVerb(&f, "Measure transactions: from the half message to the commit's answer", `Measure transactions: from the half message to the commit's answer.

  rmq bench tx --window 64
  rmq bench tx --rate 1000 -o json`)
	f.declareSending(c)
	c.Flags().Lookup("window").DefValue = strconv.Itoa(benchTxWindow)
	f.window = benchTxWindow
	return c
}

func (a *app) benchDelayCommand() *cobra.Command {
	f := benchFlags{verb: benchDelay, topics: 1, from: "latest"}
	c := a.benchVerb(&f, "Measure delayed messages: how late they arrive", `Measure delayed messages: how late they arrive at a consumer, counted from the
time that they were to be delivered at. Producer, broker and consumer should have
one clock.

  rmq bench delay --rate 1000 --delay 2s
  rmq bench delay --count 100000 --delay 10s`)
	f.declareSending(c)
	c.Flags().DurationVar(&f.delay, "delay", 3*time.Second, "how long each message is delayed")
	return c
}

// benchVerb makes a command with the flags that all benchmarks have.
func (a *app) benchVerb(f *benchFlags, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: f.verb, Short: short, Long: long, Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			return a.bench(cmd.Context(), *f)
		},
	}
	c.Flags().StringVar(&f.topic, "topic", benchTopic, "`TOPIC`; it is created when it does not exist")
	c.Flags().IntVar(&f.queues, "queues", admin.DefaultQueues, "queues of a topic that is created")
	c.Flags().IntVar(&f.clients, "clients", 1, "`N` clients, each with its own connections")
	c.Flags().DurationVar(&f.duration, "duration", 10*time.Second, "how long to measure")
	c.Flags().IntVar(&f.count, "count", 0, "measure `N` messages instead, however long it takes")
	c.Flags().DurationVar(&f.idle, "idle-timeout", 10*time.Second, "exit when nothing came for this long")
	return c
}

// declareSending declares the flags of benchmarks that send.
func (f *benchFlags) declareSending(c *cobra.Command) {
	f.size = 1024
	c.Flags().Var(&f.size, "size", "size of a body: 128, 128B, 1KiB, 1MB")
	c.Flags().IntVar(&f.batch, "batch", 1, "hand over `N` messages with each call")
	c.Flags().IntVar(&f.window, "window", benchWindow, "with --async, messages of a client that wait for their answer at most")
	c.Flags().BoolVar(&f.async, "async", false, "send on while answers are under way (the default)")
	c.Flags().BoolVar(&f.sync, "sync", false, "wait for each answer before the next call")
	c.Flags().Float64Var(&f.rate, "rate", 0, "messages a second of all clients together; 0: as fast as may be")
	c.Flags().DurationVar(&f.warmup, "warmup", time.Second, "send for this long before measuring")
}

// check names the first mistake of the command line.
func (f *benchFlags) check(cmd *cobra.Command) error {
	for _, flags := range [][]string{{"async", "sync"}, {"sync", "window"}, {"count", "duration"}} {
		if err := exclusive(cmd, flags...); err != nil {
			return err
		}
	}
	for _, n := range []struct {
		flag       string
		value, max int
	}{
		{"clients", f.clients, maxBenchClients}, {"batch", f.batch, maxBenchWindow}, {"window", f.window, maxBenchWindow},
		{"topics", f.topics, maxBenchTopics}, {"queues", f.queues, topic.MaxQueues},
	} {
		if n.value < 1 || n.value > n.max {
			return usagef("--%s %d: want 1 to %d", n.flag, n.value, n.max)
		}
	}
	if cmd.Flags().Changed("count") && f.count < 1 {
		return usagef("--count %d: want at least 1", f.count)
	}
	return errors.Join(f.checkTimes(), f.checkSize(), f.checkWay(), message.CheckTopic(f.topic))
}

// checkWay looks at how and what `bench sub` consumes.
func (f *benchFlags) checkWay() error {
	if f.verb != benchSub {
		return nil
	}
	if !slices.Contains(benchModes, f.mode) {
		return usagef("--mode %s: want one of %s", f.mode, strings.Join(benchModes, ", "))
	}
	return subFlags{tag: f.tag}.checkFilter()
}

func (f *benchFlags) checkTimes() error {
	switch {
	case f.duration <= 0:
		return usagef("--duration %s: want more than 0", f.duration)
	case f.warmup < 0:
		return usagef("--warmup %s: want 0 (none) or more", f.warmup)
	case f.idle <= 0:
		return usagef("--idle-timeout %s: want more than 0", f.idle)
	case f.verb == benchDelay && (f.delay <= 0 || f.delay > message.MaxDelay):
		return usagef("--delay %s: want more than 0 and at most %s", f.delay, message.MaxDelay)
	case f.verb == benchTx && f.batch > 1:
		return usagef("--batch %d: a transaction has one message", f.batch)
	case f.rate < 0 || math.IsNaN(f.rate) || math.IsInf(f.rate, 0):
		return usagef("--rate %v: want 0 (no limit) or more", f.rate)
	}
	return nil
}

func (f *benchFlags) checkSize() error {
	least := byteSize(0)
	if f.verb == benchE2E || f.verb == benchDelay {
		least = stampBytes
	}
	if f.size < least && f.verb != benchSub || f.size > message.MaxBodyBytes {
		return usagef("--size %d: want %d to %d bytes", f.size, least, message.MaxBodyBytes)
	}
	return nil
}

// bench carries out one benchmark and prints its result.
func (a *app) bench(ctx context.Context, f benchFlags) error {
	b := newBenchmark(a, f)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	var err error
	switch f.verb {
	case benchPub, benchTx:
		err = b.pub(ctx)
	case benchSub:
		err = b.sub(ctx)
	case benchE2E, benchDelay:
		err = b.e2e(ctx)
	}
	if err != nil && !b.began() {
		return err
	}
	r := b.result()
	a.warnRate(r)
	if printed := a.printBench(r); printed != nil {
		return printed
	}
	return b.verdict(ctx, r, err)
}

// byteSize is a flag with a number of bytes.
type byteSize int

// byteUnits are the suffixes of sizes.
var byteUnits = []struct {
	suffix string
	bytes  int
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"B", 1}}

func (s *byteSize) String() string { return strconv.Itoa(int(*s)) }

// Type is how help shows the value.
func (s *byteSize) Type() string { return "BYTES" }

// Set implements pflag.Value.
func (s *byteSize) Set(text string) error {
	digits, unit := text, 1
	for _, u := range byteUnits {
		if d, ok := strings.CutSuffix(strings.ToUpper(text), strings.ToUpper(u.suffix)); ok {
			digits, unit = strings.TrimSpace(d), u.bytes
			break
		}
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n > math.MaxInt/unit {
		return fmt.Errorf("want a number of bytes such as 128, 128B or 1KiB")
	}
	*s = byteSize(n * unit)
	return nil
}
