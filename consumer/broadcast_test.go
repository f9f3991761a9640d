package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestJudge_Broadcast(t *testing.T) {
	fault := errors.New("no funds")
	for name, c := range map[string]struct {
		limit, attempt int
		laned          bool
		err            error
		drop           bool
		pause          time.Duration
	}{
		"first":               {attempt: 1, err: fault, pause: time.Second},
		"third":               {attempt: 3, err: fault, pause: 4 * time.Second},
		"last of the default": {attempt: 16, err: fault, pause: 30 * time.Second},
		"above the default":   {attempt: 17, err: fault, drop: true},
		"below its limit":     {limit: 2, attempt: 2, err: fault, pause: 2 * time.Second},
		"above its limit":     {limit: 2, attempt: 3, err: fault, drop: true},
		"never again":         {limit: -1, attempt: 1, err: fault, drop: true},
		"rejected":            {attempt: 1, err: fmt.Errorf("x: %w", ErrReject), drop: true},
		"after a time":        {attempt: 3, err: RetryAfter(time.Minute, fault), pause: time.Minute},
		"lane":                {laned: true, attempt: 1000, err: fault, pause: DefaultSuspendTime},
		"lane above a limit":  {laned: true, limit: 2, attempt: 3, err: fault, drop: true},
	} {
		cfg := validConfig()
		cfg.Broadcast, cfg.OffsetsDir, cfg.MaxReconsumeTimes = true, t.TempDir(), c.limit
		it := &item{queue: newProcessQueue(queueA, 0, 0, 0, orderGroups), laned: c.laned}
		it.Attempt = c.attempt
		v := newTestPush(t, cfg, ignore).judge(it, c.err)
		if v.back != nil || v.drop != c.drop || !c.drop && v.pause != c.pause {
			t.Errorf("%s: got %+v, want drop %v or a pause of %v", name, v, c.drop, c.pause)
		}
	}
}

func TestBroadcast_Config(t *testing.T) {
	cfg := validConfig()
	cfg.Broadcast = true
	t.Setenv("XDG_CONFIG_HOME", "/somewhere")
	s := newTestPush(t, cfg, ignore).settings
	if s.group != "" || s.broadcast != "g" || s.retry != "" || strings.Contains(strings.Join(s.topics, " "), message.RetryPrefix) {
		t.Errorf("got group %q, broadcast %q, topics %v", s.group, s.broadcast, s.topics)
	}
	if want := filepath.Join("/somewhere", "rmq", "offsets"); s.offsetsDir != want {
		t.Errorf("offsets: got %s, want %s", s.offsetsDir, want)
	}
	if other := newTestPush(t, cfg, ignore).settings; s.client.ClientID != other.client.ClientID || !strings.HasSuffix(s.client.ClientID, "@g") {
		t.Errorf("client id: got %q, then %q; want HOST@g both times", s.client.ClientID, other.client.ClientID)
	}
	cfg.BrokerOffsets, cfg.ClientID = true, "app@host.7"
	if s := newTestPush(t, cfg, ignore).settings; s.group != "g%BROADCAST%app%40host%2E7" || s.offsetsDir != "" || s.announcedGroup() != "g" {
		t.Errorf("offsets on the brokers: got group %q of %q", s.group, s.announcedGroup())
	}
}

func TestBroadcast_IllegalConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"a folder without broadcasting": func(c *Config) { c.OffsetsDir = "x" },
		"on brokers, without":           func(c *Config) { c.BrokerOffsets = true },
		"both":                          func(c *Config) { c.Broadcast, c.OffsetsDir, c.BrokerOffsets = true, "x", true },
	} {
		cfg := validConfig()
		change(&cfg)
		if _, err := NewPush(t.Context(), cfg, ignore); !errors.Is(err, ErrIllegalConfig) {
			t.Errorf("%s: got %v, want ErrIllegalConfig", name, err)
		}
		pull := PullConfig{NameServers: cfg.NameServers, Group: "g", Subscriptions: cfg.Subscriptions, Broadcast: cfg.Broadcast, OffsetsDir: cfg.OffsetsDir, BrokerOffsets: cfg.BrokerOffsets}
		if _, err := NewPull(t.Context(), pull); !errors.Is(err, ErrIllegalConfig) {
			t.Errorf("%s, pull: got %v, want ErrIllegalConfig", name, err)
		}
	}
	cfg := validConfig()
	cfg.Broadcast, cfg.BrokerOffsets, cfg.ClientID = true, true, strings.Repeat("x", 200)
	if _, err := NewPush(t.Context(), cfg, ignore); !errors.Is(err, message.ErrIllegalName) {
		t.Errorf("a client id that makes no group: got %v, want ErrIllegalName", err)
	}
	if _, err := NewPull(t.Context(), PullConfig{NameServers: cfg.NameServers, Subscriptions: cfg.Subscriptions, Broadcast: true, OffsetsDir: t.TempDir()}); !errors.Is(err, message.ErrIllegalName) {
		t.Errorf("broadcasting without a group: got %v, want ErrIllegalName", err)
	}
}

func broadcastConfig(b *fakeBroker, t *testing.T, dir string) Config {
	cfg, _ := groupConfig(b, t)
	cfg.Broadcast, cfg.OffsetsDir, cfg.ClientID = true, dir, "c"
	return cfg
}

// A member keeps no lease and commits nothing at the broker; it goes on where its file
// says, also in a topic that was empty when it was there first.
func TestBroadcast_GoesOnWhereItWas(t *testing.T) {
	b := startFake(t, 2)
	cfg := broadcastConfig(b, t, t.TempDir())
	cfg.From = Latest()
	b.store(0, 5)
	b.change(func() { b.first[0] = 5 }) // before the consumer
	var seen record
	c, stop := run(t, cfg, seen.handle)
	receive(t, "ready", c.Ready())
	b.store(1, 3)
	eventually(t, "what came", func() bool { return seen.count() == 3 })
	stop()
	b.store(0, 4)
	b.store(1, 2)
	c, stop = run(t, cfg, seen.handle)
	eventually(t, "what came meanwhile", func() bool { return seen.count() == 9 })
	stop()
	seen.once(t, 9)
	b.nobody()
	if b.look(func() bool { return b.commits != 0 || len(b.fence) != 0 }) {
		t.Error("it committed, or took up leases")
	}
	if err := c.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("second Run: got %v, want ErrClosed", err)
	}
}

func TestBroadcast_FaultsOfItsFile(t *testing.T) {
	b := startFake(t, 1)
	dir := t.TempDir()
	cfg := broadcastConfig(b, t, dir)
	c, stop := run(t, cfg, ignore)
	receive(t, "ready", c.Ready())
	if err := newTestPush(t, cfg, ignore).Run(t.Context()); !errors.Is(err, ErrOffsetsInUse) {
		t.Errorf("a second member: got %v, want ErrOffsetsInUse", err)
	}
	pull := PullConfig{NameServers: cfg.NameServers, Group: "g", Subscriptions: cfg.Subscriptions, Broadcast: true, OffsetsDir: dir, ClientID: "c"}
	if _, err := NewPull(t.Context(), pull); !errors.Is(err, ErrOffsetsInUse) {
		t.Errorf("a second member that pulls: got %v, want ErrOffsetsInUse", err)
	}
	stop()
	if err := replaceFile(filepath.Join(dir, "c", "g", ledgerName), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := newTestPush(t, cfg, ignore).Run(t.Context()); !errors.Is(err, ErrOffsetsDamaged) {
		t.Errorf("got %v, want ErrOffsetsDamaged", err)
	}
	b.nobody()
}

// A message that fails too often is dropped and told of, and holds nothing up.
func TestBroadcast_DropsWhatFails(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 3)
	cfg := broadcastConfig(b, t, t.TempDir())
	cfg.MaxReconsumeTimes = 2
	faults := make(chan error, 10)
	cfg.OnError = func(err error) { faults <- err }
	var seen record
	c, stop := run(t, cfg, func(ctx context.Context, d *Delivery) error {
		switch string(d.Body) {
		case "0/0":
			return RetryAfter(0, errors.Join(seen.handle(ctx, d), errors.New("no funds")))
		case "0/1":
			return ErrReject
		}
		return seen.handle(ctx, d)
	})
	receive(t, "ready", c.Ready())
	for range 2 {
		var typed *Error
		if err := receive(t, "a fault", faults); !errors.Is(err, ErrDropped) || !errors.As(err, &typed) {
			t.Errorf("got %v, want ErrDropped", err)
		}
	}
	eventually(t, "the handlers", func() bool { return seen.count() == 4 }) // 0/0 three times, 0/2
	stop()
	if l, err := openLedger(cfg.OffsetsDir, "c", "g"); err != nil || l.offsets[message.Queue{Topic: "t", Broker: fakeName}] != 3 {
		t.Errorf("got %v and %+v, want offset 3", err, l)
	} else {
		l.close()
	}
}

// A topic that is deleted takes its offsets with it: the next one of its name is another.
func TestBroadcast_ForgetsAQueueThatIsGone(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 5)
	cfg := broadcastConfig(b, t, t.TempDir())
	var seen record
	c, _ := run(t, cfg, seen.handle)
	eventually(t, "all messages", func() bool { return seen.count() == 5 })
	receive(t, "ready", c.Ready())
	ledger, queue := c.engine.ledger, message.Queue{Topic: "t", Broker: fakeName}
	eventually(t, "they are written down", func() bool { at, _ := ledger.of(queue); return at == 5 })
	told := false
	b.change(func() {
		b.refuse = func(protocol.PullQueue) *protocol.Error {
			if told {
				return nil
			}
			told = true
			return protocol.Errorf(protocol.TopicNotFound, "deleted")
		}
	})
	eventually(t, "those of the new topic, which look the same", func() bool { return seen.count() == 10 })
}

// What was written down is not written again, and what could not be written is tried again.
func TestBroadcast_Commits(t *testing.T) {
	e := &engine{buffer: newTestBuffer(t, orderGroups), ledger: mustOpenLedger(t, t.TempDir()), wake: make(chan struct{}, 1)}
	e.log = slog.New(slog.DiscardHandler)
	admitTo(e.buffer, holdIn(e.buffer, queueA, nil), 2)
	e.buffer.finish(mustTake(t, e.buffer))
	commit := func() error { return e.commit(t.Context(), e.buffer.uncommitted(queueA)) }
	inTheWay := e.ledger.path + ".new"
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := commit(); err == nil || len(e.buffer.uncommitted(queueA)) != 1 {
		t.Errorf("a write that fails: got %v", err)
	}
	if err := errors.Join(os.Remove(inTheWay), commit()); err != nil {
		t.Fatal(err)
	}
	if at, _ := e.ledger.of(queueA); at != 1 || len(e.buffer.uncommitted(queueA)) != 0 {
		t.Errorf("got offset %d and %v to be committed, want 1 and nothing", at, e.buffer.uncommitted(queueA))
	}
	e.buffer.finish(mustTake(t, e.buffer))
	late := e.buffer.uncommitted(queueA)
	e.lose(late[0].queue, protocol.TopicNotFound)
	if err := e.commit(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if at, known := e.ledger.of(queueA); known {
		t.Errorf("a queue that is lost is written down again, with %d", at)
	}
}

func TestSuspend_BeforeAndDuringRun(t *testing.T) {
	b := startFake(t, 2)
	b.store(0, 1)
	cfg, _ := groupConfig(b, t)
	cfg.Rate = 100
	var seen record
	c := newTestPush(t, cfg, seen.handle)
	c.Suspend()
	c.ResumeQueues(message.Queue{Topic: "t", Broker: fakeName, ID: 1})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }() // received below
	receive(t, "ready", c.Ready())
	b.store(1, 1)
	eventually(t, "the message of the queue that is not suspended", func() bool { return seen.count() == 1 })
	said := func() (s protocol.Subscription) {
		b.look(func() bool {
			for _, h := range b.sessions {
				s = h.Consumers[0]
			}
			return true
		})
		return s
	}
	eventually(t, "the broker knows the configured rate", func() bool { return said().RatePerHour == 360_000 })
	if err := c.SetRate(2, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the broker knows", func() bool { return said().Suspended && said().RatePerHour == 7200 })
	if err := c.SetRate(-1, 0); !errors.Is(err, ErrIllegalConfig) {
		t.Errorf("got %v, want ErrIllegalConfig", err)
	}
	c.Resume("t")
	eventually(t, "the other message", func() bool { return seen.count() == 2 })
	c.Resume()
	eventually(t, "the broker knows that nothing is suspended", func() bool { return !said().Suspended })
	if err := c.SetRate(0, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the broker knows that there is no rate", func() bool { return said().RatePerHour == 0 })
	cancel()
	if err := receive(t, "end of Run", ran); err != nil {
		t.Error(err)
	}
	c.Suspend() // does nothing any more
	seen.once(t, 2)
}
