package command

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/internal/machine"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/transport/protocol"
)

// benchmark is one run of `rmq bench`: a clock, and a tally for each client.
type benchmark struct {
	app       *app
	flags     benchFlags
	latencyOf string

	begun     time.Time     // zero of the clock
	first     time.Duration // what is measured begins here
	tallies   []*tally
	schedules []*benchSchedule
	firstErr  error // once there is a result
}

func newBenchmark(a *app, f benchFlags) *benchmark {
	of := map[string]string{
		benchPub: "send to acknowledgement", benchSub: "store to receive", benchE2E: "send to receive",
		benchTx: "half message to commit", benchDelay: "time of delivery to receive",
	}
	b := &benchmark{app: a, flags: f, latencyOf: of[f.verb], first: f.warmup}
	for range f.clients {
		b.tallies = append(b.tallies, newTally())
	}
	return b
}

func (b *benchmark) clock() time.Duration { return time.Since(b.begun) }

func (b *benchmark) began() bool { return !b.begun.IsZero() }

// prepare creates the topics that do not exist.
func (b *benchmark) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.app.reach.timeout+time.Duration(b.flags.topics)*10*time.Millisecond)
	defer cancel()
	ad, err := b.app.admin(ctx)
	if err != nil {
		return err
	}
	defer ad.Close()
	known, err := ad.TopicNames(ctx)
	if err != nil {
		return err
	}
	exists := make(map[string]bool, len(known))
	for _, name := range known {
		exists[name] = true
	}
	return b.createTopics(ctx, ad, exists)
}

// createTopics makes the topics that do not exist, many at a time.
func (b *benchmark) createTopics(ctx context.Context, ad *admin.Admin, exists map[string]bool) error {
	const atOnce = 64
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for _, name := range b.topics() {
		if exists[name] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := ad.CreateTopic(ctx, admin.TopicSpec{Name: name, ReadQueues: b.flags.queues, WriteQueues: b.flags.queues}, admin.Target{})
			if err == nil || errors.Is(err, protocol.Conflict) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return first
}

// topics are the names of the topics to send to.
func (b *benchmark) topics() []string {
	if b.flags.topics == 1 {
		return []string{b.flags.topic}
	}
	names := make([]string, b.flags.topics)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", b.flags.topic, i)
	}
	return names
}

// start makes the schedules of the clients that send and sets the clock going.
func (b *benchmark) start() {
	f := b.flags
	share, rest := f.count/f.clients, f.count%f.clients
	for i := range f.clients {
		s := &benchSchedule{clock: b.clock, warmup: f.warmup, left: -1}
		if f.rate > 0 {
			s.interval = float64(f.clients) / f.rate * float64(time.Second)
		}
		if f.count == 0 {
			s.end = f.warmup + f.duration
		} else if s.left = share; i < rest {
			s.left++
		}
		b.schedules = append(b.schedules, s)
	}
	b.begun = time.Now()
}

// watch shows how it goes, once a second, when stderr is a terminal.
func (b *benchmark) watch(ctx context.Context) {
	if b.app.quiet || !isTerminal(b.app.err) {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var before int64
	for at := 1; ; at++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var seen int64
		for _, t := range b.tallies {
			seen += t.progress()
		}
		b.app.note("%4d s  %d msg/s", at, seen-before)
		before = seen
	}
}

// result sums up; the clients have ended.
func (b *benchmark) result() benchResult {
	sum := newTally()
	for _, t := range b.tallies {
		sum.add(t)
	}
	b.firstErr = sum.err
	seconds := max(sum.last-b.first, 0).Seconds()
	return benchResult{
		Benchmark: b.flags.verb, Messages: sum.messages, Seconds: seconds, Errors: sum.errors,
		MessagesPerSecond: perSecond(sum.messages, seconds), BytesPerSecond: perSecond(sum.bytes, seconds),
		LatencyOf: b.latencyOf, LatencyMillis: latencyOf(sum.latency), Rate: b.rate(seconds),
		Settings: b.flags.settings(), Build: thisBuild(), Machine: machine.Look(),
	}
}

func (b *benchmark) rate(seconds float64) *benchRate {
	if b.flags.rate == 0 {
		return nil
	}
	var behind time.Duration
	for _, s := range b.schedules {
		behind = max(behind, s.lateness())
	}
	slack := max(rateSlack, time.Duration(seconds*float64(time.Second))/rateSlackPer)
	return &benchRate{Asked: b.flags.rate, Held: behind <= slack, BehindMillis: float64(behind.Microseconds()) / 1000}
}

func (f *benchFlags) settings() benchSettings {
	s := benchSettings{
		Topic: f.topic, Topics: f.topics, Queues: f.queues, Size: int(f.size), Clients: f.clients, Mode: "async",
		Batch: f.batch, Window: f.window, Rate: f.rate, WarmupSeconds: f.warmup.Seconds(), Count: f.count,
	}
	switch {
	case f.verb == benchSub:
		s.Mode = f.mode
	case f.sync:
		s.Mode, s.Window = "sync", f.batch
	}
	if f.count == 0 {
		s.DurationSeconds = f.duration.Seconds()
	}
	return s
}

// newProducer opens a producer whose sends give up after --timeout.
func (b *benchmark) newProducer(ctx context.Context) (*producer.Producer, error) {
	cfg := producer.Config{SendTimeout: b.app.reach.timeout}
	if b.flags.verb == benchTx {
		cfg.TransactionTopics = b.topics()
		cfg.Checker = func(context.Context, *message.Stored) producer.Decision { return producer.Commit }
	}
	return b.app.newProducer(ctx, cfg)
}

// benchBody is a body as RocketMQ's benchmarks have it: letters and digits in no
// order, the same at each run.
func benchBody(size int) []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	r := mathrand.New(mathrand.NewPCG(1, 2))
	body := make([]byte, size)
	for i := range body {
		body[i] = letters[r.IntN(len(letters))]
	}
	return body
}

// freshGroup is a consumer group that no one else has.
func (b *benchmark) freshGroup() string {
	return b.flags.topic + "-" + strings.ToLower(rand.Text()[:12])
}

// deleteGroup removes a group that was made for the run, as far as that can be.
func (b *benchmark) deleteGroup(ctx context.Context, group string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.app.reach.timeout)
	defer cancel()
	ad, err := b.app.admin(ctx)
	if err == nil {
		defer ad.Close()
		_, err = ad.DeleteGroup(ctx, group, admin.Target{})
	}
	if err != nil && !errors.Is(err, protocol.GroupNotFound) {
		b.app.note("warning: group %s is left behind: %v", group, err)
	}
}
