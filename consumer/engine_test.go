package consumer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// record is what handlers saw.
type record struct {
	mu   sync.Mutex
	seen []string // bodies, in the order of arrival
}

func (r *record) handle(_ context.Context, d *Delivery) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, string(d.Body))
	return nil
}

func (r *record) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// once fails when something was seen twice, or not n things.
func (r *record) once(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	sorted := slices.Sorted(slices.Values(r.seen))
	if distinct := slices.Compact(slices.Clone(sorted)); len(distinct) != len(sorted) || len(sorted) != n {
		t.Fatalf("got %d messages, %d distinct, want %d once: %v", len(sorted), len(distinct), n, sorted)
	}
}

// logs collects what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) has(text string) bool { return strings.Contains(l.String(), text) }

func groupConfig(b *fakeBroker, t *testing.T) (Config, *logs) {
	l := &logs{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l)
		}
	})
	return Config{
		NameServers: []string{b.addr}, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(),
		CommitInterval: 10 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, l
}

// run runs a push consumer; stop drains it and is called at the end at the latest.
func run(t *testing.T, cfg Config, h Handler) (c *Push, stop func()) {
	t.Helper()
	c = newTestPush(t, cfg, h)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, "end of Run", ran); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func TestPushConsumesCommitsAndLeaves(t *testing.T) {
	b := startFake(t, 4)
	for q := range 4 {
		b.store(q, 10)
	}
	cfg, _ := groupConfig(b, t)
	var seen record
	c, stop := run(t, cfg, seen.handle)
	receive(t, "ready", c.Ready())
	eventually(t, "all messages", func() bool { return seen.count() == 40 })
	b.store(0, 1)
	eventually(t, "a message that comes later", func() bool { return seen.count() == 41 })
	stop()
	seen.once(t, 41)
	if b.committedAt(0) != 11 || b.committedAt(3) != 10 {
		t.Errorf("committed: got %d and %d, want 11 and 10", b.committedAt(0), b.committedAt(3))
	}
	b.nobody()
	if err := c.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("second Run: got %v, want ErrClosed", err)
	}
}

func TestPushCommitsAtItsInterval(t *testing.T) {
	b := startFake(t, 2)
	b.store(0, 5)
	cfg, _ := groupConfig(b, t)
	cfg.From = Latest()
	c, _ := run(t, cfg, ignore)
	receive(t, "ready", c.Ready())
	eventually(t, "the start positions are committed", func() bool {
		return b.look(func() bool { return b.committedLocked(0) == 5 && b.committedLocked(1) == 0 })
	})
	b.store(1, 3)
	eventually(t, "what is finished is committed", func() bool { return b.look(func() bool { return b.committed[1] == 3 }) })
}

func TestMembersShareAndHandOver(t *testing.T) {
	b := startFake(t, 8)
	cfg, _ := groupConfig(b, t)
	var seen record
	c1, _ := run(t, cfg, seen.handle)
	receive(t, "first is ready", c1.Ready())
	total := 0
	storeAll := func() {
		for q := range 8 {
			b.store(q, 25, "", "a", "b")
			total += 25
		}
	}
	storeAll()
	c2, stop2 := run(t, cfg, seen.handle)
	receive(t, "second is ready", c2.Ready())
	counts := map[string]int{}
	b.change(func() {
		for _, owner := range b.owner {
			counts[owner]++
		}
	})
	for id, n := range counts {
		if n != 4 || len(counts) != 2 {
			t.Errorf("member %s owns %d queues of %v, want 4", id, n, counts)
		}
	}
	storeAll()
	stop2()
	storeAll()
	eventually(t, "all messages", func() bool { return seen.count() >= total })
	seen.once(t, total)
}

func TestPushGoesOnAfterARestartOfTheServer(t *testing.T) {
	b := startFake(t, 4)
	cfg, _ := groupConfig(b, t)
	cfg.CommitInterval = time.Hour // so that what is not kept in memory comes twice
	var seen record
	c, _ := run(t, cfg, seen.handle)
	receive(t, "ready", c.Ready())
	for q := range 4 {
		b.store(q, 10)
	}
	eventually(t, "messages before the restart", func() bool { return seen.count() == 40 })
	fences := b.grants()
	b.restart()
	for q := range 4 {
		b.store(q, 10)
	}
	eventually(t, "messages after the restart", func() bool { return seen.count() >= 80 })
	seen.once(t, 80)
	if got := b.grants(); got != fences {
		t.Errorf("leases: got fences %v, want %v as before", got, fences)
	}
}

func TestPushFollowsAReset(t *testing.T) {
	b := startFake(t, 2)
	b.store(0, 10)
	cfg, _ := groupConfig(b, t)
	var seen record
	run(t, cfg, seen.handle)
	eventually(t, "all messages", func() bool { return seen.count() == 10 })
	eventually(t, "the commit", func() bool { return b.look(func() bool { return b.committed[0] == 10 }) })
	b.reset(0, 7)
	eventually(t, "the last three again", func() bool { return seen.count() == 13 })
	eventually(t, "the commit again", func() bool { return b.look(func() bool { return b.committed[0] == 10 }) })
}

// A reset while a handler runs: its context ends, what it returns is ignored.
func TestPushEndsHandlersOfALostQueue(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 1)
	cfg, _ := groupConfig(b, t)
	started, causes := make(chan struct{}), make(chan error, 1)
	var first atomic.Bool
	run(t, cfg, func(ctx context.Context, _ *Delivery) error {
		if first.Swap(true) {
			return nil
		}
		close(started)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return nil
	})
	receive(t, "the handler", started)
	b.reset(0, 0)
	if err := receive(t, "end of the handler", causes); !errors.Is(err, ErrLeaseLost) {
		t.Fatalf("cause: got %v, want ErrLeaseLost", err)
	}
	eventually(t, "the message again, and its commit", func() bool { return b.look(func() bool { return b.committed[0] == 1 }) })
}

func TestPushReportsDamageAndSkipsNothing(t *testing.T) {
	b := startFake(t, 2)
	b.store(0, 1)
	b.store(1, 1)
	b.change(func() {
		b.refuse = func(q protocol.PullQueue) *protocol.Error {
			if q.Queue == 0 {
				return protocol.Errorf(protocol.Damaged, "checksum")
			}
			return nil
		}
	})
	cfg, l := groupConfig(b, t)
	faults := make(chan error, 100)
	cfg.OnError = func(err error) { faults <- err }
	var seen record
	run(t, cfg, seen.handle)
	err := receive(t, "the report", faults)
	var e *Error
	if !errors.Is(err, protocol.Damaged) || !errors.As(err, &e) || e.Topic != "t" || e.Broker != fakeName {
		t.Fatalf("got %v, want Damaged with topic and broker", err)
	}
	eventually(t, "the other queue", func() bool { return seen.count() == 1 })
	b.change(func() { b.refuse = nil })
	eventually(t, "the message when it can be read again", func() bool { return seen.count() == 2 })
	seen.once(t, 2)
	if len(faults) != 0 || !l.has("level=ERROR") {
		t.Errorf("got %d more reports of one fault, logged %v", len(faults), l.has("level=ERROR"))
	}
}

func TestPushGoesWhereTheQueueHasMessages(t *testing.T) {
	b := startFake(t, 2)
	b.store(0, 10)
	b.store(0, 10)
	b.store(1, 5)
	b.change(func() {
		b.first[0], b.committed[0] = 10, 0 // the oldest are dropped, the group is at 0
		b.committed[1] = 100               // the group is above the end
	})
	cfg, l := groupConfig(b, t)
	var seen record
	run(t, cfg, seen.handle)
	eventually(t, "what is left of queue 0", func() bool { return seen.count() == 10 })
	b.store(1, 2)
	eventually(t, "new messages of queue 1", func() bool { return seen.count() == 12 })
	seen.once(t, 12)
	if !l.has("offset is not in the queue") {
		t.Error("nothing is logged")
	}
}

func TestPushWaitsForItsTopic(t *testing.T) {
	b := startFake(t, 1)
	cfg, l := groupConfig(b, t)
	cfg.From = Latest()
	cfg.Subscriptions = []Subscription{{Topic: "new"}}
	var seen record
	run(t, cfg, seen.handle)
	eventually(t, "the log", func() bool { return l.has("topic does not exist") })
	if n := strings.Count(l.String(), "topic does not exist"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
}

// The prefetch stops while the handler hangs, and other queues go on.
func TestPushBoundsThePrefetch(t *testing.T) {
	b := startFake(t, 2)
	for range 50 {
		b.store(0, 2, "slow")
	}
	cfg, _ := groupConfig(b, t)
	cfg.MaxPrefetch = 10
	release := make(chan struct{})
	var seen record
	run(t, cfg, func(ctx context.Context, d *Delivery) error {
		if d.Group == "slow" {
			<-release
		}
		return seen.handle(ctx, d)
	})
	furthest := func() (offset int64) {
		for _, p := range b.pulls {
			for _, q := range p.Queues {
				if q.Queue == 0 {
					offset = max(offset, q.Offset)
				}
			}
		}
		return offset
	}
	eventually(t, "the prefetch begins", func() bool { return b.look(func() bool { return furthest() >= 4 }) })
	b.store(1, 20)
	eventually(t, "the other queue", func() bool { return seen.count() == 20 })
	b.change(func() {
		if got := furthest(); got > 5 {
			t.Errorf("pulled at offset %d with %d messages held; 5 is half of the bound", got, got)
		}
	})
	close(release)
	eventually(t, "all messages", func() bool { return seen.count() == 120 })
	seen.once(t, 120)
}

// Running handlers finish, what was not started is left, and nothing twice.
func TestPushDrain(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 50)
	cfg, l := groupConfig(b, t)
	cfg.Concurrency = 3
	started, release := make(chan struct{}, 50), make(chan struct{})
	var seen record
	h := func(ctx context.Context, d *Delivery) error {
		started <- struct{}{}
		<-release
		return seen.handle(ctx, d)
	}
	c := newTestPush(t, cfg, h)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	for range 3 {
		receive(t, "running handlers", started)
	}
	cancel()
	eventually(t, "the drain begins", func() bool { return l.has("consumer stops") })
	select {
	case err := <-ran:
		t.Fatalf("Run returns %v while handlers run", err)
	default:
	}
	close(release)
	if err := receive(t, "end of Run", ran); err != nil {
		t.Fatal(err)
	}
	seen.once(t, seen.count())
	if n := seen.count(); int64(n) != b.committedAt(0) || n == 50 {
		t.Fatalf("handled %d, committed %d of 50; want the same, and not all", n, b.committedAt(0))
	}
}

func TestPushDrainEndsHandlersThatTakeTooLong(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 1)
	cfg, _ := groupConfig(b, t)
	cfg.ShutdownTimeout = time.Millisecond
	started, causes := make(chan struct{}), make(chan error, 1)
	_, stop := run(t, cfg, func(ctx context.Context, _ *Delivery) error {
		close(started)
		<-ctx.Done()
		causes <- context.Cause(ctx)
		return ctx.Err()
	})
	receive(t, "the handler", started)
	stop()
	if err := <-causes; !errors.Is(err, ErrShutdown) {
		t.Fatalf("cause: got %v, want ErrShutdown", err)
	}
	if got := b.committedAt(0); got > 0 {
		t.Fatalf("committed %d, want 0", got)
	}
}

// A queue whose handler hangs goes to the new member when the time is over.
func TestRebalanceDoesNotWaitForever(t *testing.T) {
	b := startFake(t, 2)
	cfg, _ := groupConfig(b, t)
	cfg.RebalanceTimeout = 10 * time.Millisecond
	started, release := make(chan struct{}, 10), make(chan struct{})
	h := func(ctx context.Context, _ *Delivery) error {
		started <- struct{}{}
		select {
		case <-ctx.Done():
		case <-release:
		}
		return nil
	}
	c1, _ := run(t, cfg, h)
	receive(t, "first is ready", c1.Ready())
	b.store(0, 1)
	b.store(1, 1)
	receive(t, "handler of one queue", started)
	receive(t, "handler of the other", started)
	c2, _ := run(t, cfg, h)
	receive(t, "second is ready", c2.Ready())
	close(release)
}
