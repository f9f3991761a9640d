package producer

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

func TestIsolation_IsRocketMQsTable(t *testing.T) {
	for _, row := range []struct{ latency, alone time.Duration }{
		{50 * time.Millisecond, 0}, {100 * time.Millisecond, 0}, {550 * time.Millisecond, 2 * time.Second},
		{1800 * time.Millisecond, 5 * time.Second}, {3 * time.Second, 6 * time.Second}, {5 * time.Second, 10 * time.Second},
		{15 * time.Second, 30 * time.Second},
	} {
		if got := isolation(row.latency); got != row.alone {
			t.Errorf("%v: got %v, want %v", row.latency, got, row.alone)
		}
		if got := isolation(row.latency - 1); got >= row.alone && row.alone > 0 {
			t.Errorf("just under %v: got %v, want less than %v", row.latency, got, row.alone)
		}
	}
	if isolation(0) != 0 || isolation(time.Hour) != 30*time.Second || isolation(exceptionLatency) != 10*time.Second {
		t.Error("the ends of the table, or the row of a failure, are wrong")
	}
}

func TestHealth_Scenarios(t *testing.T) {
	unavailable := protocol.Errorf(protocol.Unavailable, "x")
	gone := protocol.Errorf(protocol.Unreachable, "x")
	silent := protocol.Errorf(protocol.UnknownOutcome, "x")
	full := &protocol.Error{Code: protocol.Busy, RetryAfterMillis: 3000}
	const long = 3 * time.Second
	for _, tc := range []struct {
		name  string
		do    func(h *health)
		grade map[int64]grade // at a time
	}{
		{"new", func(*health) {}, map[int64]grade{0: healthy}},
		{"fast", func(h *health) { h.answered(0, 549*time.Millisecond) }, map[int64]grade{0: healthy}},
		{"slow", func(h *health) { h.answered(0, 550*time.Millisecond) }, map[int64]grade{2*sec - 1: slow, 2 * sec: healthy}},
		{"fast again", func(h *health) { h.answered(0, 5*time.Second); h.answered(sec, 1) }, map[int64]grade{sec: healthy}},
		{"unavailable", func(h *health) { h.failed(0, unavailable, 1) }, map[int64]grade{4 * ms: busy, 10 * ms: slow, 10*sec - 1: slow, 10 * sec: healthy}},
		{"unreachable", func(h *health) { h.failed(0, gone, 1) }, map[int64]grade{4 * ms: unreachable, 9 * sec: unreachable, 10 * sec: healthy}},
		{"silent", func(h *health) { h.failed(0, silent, long) }, map[int64]grade{4 * ms: unreachable, 9 * sec: unreachable, 10 * sec: healthy}},
		{"silent to a message without time", func(h *health) { h.failed(0, silent, 5) }, map[int64]grade{4 * ms: unreachable, 11 * ms: healthy}},
		{"busy says for how long", func(h *health) { h.failed(0, full, 1) }, map[int64]grade{3*sec - 1: busy, 3 * sec: healthy}},
		{"answers again", func(h *health) { h.failed(0, gone, 1); h.answered(1, 1) }, map[int64]grade{2: healthy}},
		{"probed", func(h *health) { h.failed(0, gone, 1); h.free() }, map[int64]grade{1: busy, 11 * ms: healthy}},
		{"not tolerant", func(h *health) { h.tolerant = false; h.answered(0, long); h.failed(0, unavailable, long) }, map[int64]grade{4 * ms: busy, 11 * ms: healthy}},
	} {
		h := &health{tolerant: true}
		tc.do(h)
		for at, want := range tc.grade {
			if got := h.grade(at); got != want {
				t.Errorf("%s, at %v: got grade %d, want %d", tc.name, time.Duration(at), got, want)
			}
		}
	}
}

func TestHealth_PauseGrowsAndFramesThatFailTogetherCountOnce(t *testing.T) {
	h, now, err := &health{}, int64(0), protocol.Errorf(protocol.Unavailable, "x")
	for i, most := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		most *= time.Millisecond
		pause := h.failed(now, err, 1)
		if pause < most/2 || pause > most {
			t.Fatalf("failure %d: got a pause of %v, want %v to %v", i, pause, most/2, most)
		}
		if again := h.failed(now+1, err, 1); again != 0 {
			t.Errorf("failure %d: the second frame adds a pause of %v", i, again)
		}
		now = h.until.Load()
	}
	h.answered(now, 1)
	if pause := h.failed(now, err, 1); pause > 10*time.Millisecond {
		t.Errorf("after an answer: got a pause of %v, want it to begin anew", pause)
	}
}

// A random run against what the rules say of the last events.
func TestHealth_AgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &health{tolerant: rapid.Bool().Draw(t, "tolerant")}
		var now, until, alone, probe int64
		lost := false
		codes := []protocol.ErrorCode{protocol.Busy, protocol.Unavailable, protocol.Unreachable, protocol.UnknownOutcome}
		isolate := func(d time.Duration) {
			if alone <= now {
				probe = now + 2*sec
			}
			alone = now + int64(d)
		}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			now += rapid.Int64Range(0, 4*sec).Draw(t, "later")
			took := time.Duration(rapid.Int64Range(0, 20*sec).Draw(t, "took"))
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				h.answered(now, took)
				until, lost = 0, false
				if d := isolation(took); h.tolerant && d > 0 {
					isolate(d)
				} else {
					alone = 0
				}
			case 1:
				code := rapid.SampledFrom(codes).Draw(t, "code")
				pause := h.failed(now, protocol.Errorf(code, "x"), took)
				lost = code == protocol.Unreachable || code == protocol.UnknownOutcome
				if until <= now {
					until = now + int64(pause)
				} else if pause != 0 {
					t.Fatalf("a pause of %v within a pause", pause)
				}
				blame := code != protocol.Busy && !(code == protocol.UnknownOutcome && took < 550*time.Millisecond)
				if h.tolerant && blame {
					isolate(10 * time.Second)
				}
			case 2:
				h.free()
				alone, lost = 0, false
			case 3:
				want := alone > now && probe <= now
				if got := h.probe(now); got != want {
					t.Fatalf("at %d: got probe %v, want %v", now, got, want)
				}
				if want {
					probe = now + 2*sec
				}
			}
			want := healthy
			switch {
			case until <= now && alone <= now:
			case lost:
				want = unreachable
			case until > now:
				want = busy
			default:
				want = slow
			}
			if got := h.grade(now); got != want {
				t.Fatalf("at %d: got grade %d, want %d", now, got, want)
			}
			if got := h.next(now); (got > 0) != (alone > now) || got > 0 && got != probe {
				t.Fatalf("at %d: got the next probe at %d, want %d, isolated until %d", now, got, probe, alone)
			}
		}
	})
}

// RocketMQ's order: available and another broker, reachable and another broker,
// anything.
func TestInTurn_PicksByHealth(t *testing.T) {
	_, f, outs := newTestFan("a", "b", "c")
	for _, o := range outs {
		o.health.tolerant = true
	}
	avoid := f.queues[0] // of a
	picked := func() string {
		broker := f.inTurn(0, avoid, 5).Broker
		for turn := range uint64(6) {
			if got := f.inTurn(turn, avoid, 5); got.Broker != broker || got == avoid {
				return fmt.Sprint("in turn ", turn, ": ", got.Queue)
			}
		}
		return broker
	}
	outs["b"].health.answered(0, time.Second)
	if got := picked(); got != "c" {
		t.Errorf("b is slow: got %s, want c", got)
	}
	outs["c"].health.failed(0, protocol.Errorf(protocol.Unreachable, "x"), 1)
	if got := picked(); got != "b" {
		t.Errorf("b is slow and c unreachable: got %s, want b", got)
	}
	if !f.elsewhere(avoid, 5, false) {
		t.Error("a slow broker is not better than one that fails")
	}
	outs["b"].health.failed(0, protocol.Errorf(protocol.Unreachable, "x"), 1)
	if got := picked(); got != "a" {
		t.Errorf("b and c are unreachable: got %s, want the other queue of a", got)
	}
	if f.elsewhere(avoid, 5, false) {
		t.Error("a broker that cannot be reached is better than one that fails")
	}
	outs["a"].health.failed(0, &protocol.Error{Code: protocol.Busy, RetryAfterMillis: 1000}, 1)
	if got := f.inTurn(3, nil, 5); got.Broker != "a" {
		t.Errorf("a is busy, b and c are unreachable: got %v, want a", got.Queue)
	}
}

// prober is a broker that answers how it is.
func (s *site) prober(name string, status func() (*protocol.BrokerStatusResponse, error)) *standIn {
	return s.brokerWith(name, 2, func(m *transport.Mux) {
		transport.Handle(m, func(context.Context, *protocol.BrokerStatusRequest) (*protocol.BrokerStatusResponse, error) {
			return status()
		})
	})
}

func (p *Producer) outboxOf(broker string) *outbox {
	p.topics.mu.Lock()
	defer p.topics.mu.Unlock()
	return p.outboxes[broker]
}

func TestFault_FreeMessagesStayAwayUntilTheBrokerAnswersAProbe(t *testing.T) {
	s := startSite(t)
	var writable atomic.Bool
	var asked atomic.Int32
	a := s.prober("a", func() (*protocol.BrokerStatusResponse, error) {
		defer asked.Add(1)
		return &protocol.BrokerStatusResponse{Writable: writable.Load()}, nil
	})
	s.broker("b", 2)
	p := newProducer(t, s, nil)
	a.setScript(firstN(1, protocol.Errorf(protocol.Unavailable, "scripted")))
	send := func(n int, opts ...SendOption) (toA int) {
		t.Helper()
		for range n {
			r, err := p.Send(t.Context(), msg("x"), opts...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Queue.Broker == "a" {
				toA++
			}
		}
		return toA
	}
	send(4)
	out := p.outboxOf("a")
	eventually(t, "the pause is over", func() bool { return !out.health.paused(p.clock()) })
	if n := send(8); n != 0 || out.health.grade(p.clock()) != slow {
		t.Errorf("got %d messages at a broker that has failed, grade %d", n, out.health.grade(p.clock()))
	}
	now := p.clock() + 3600*sec // when this test probes, and the producer does not
	out.health.mu.Lock()
	out.health.isolated.Store(now + 10*sec)
	out.health.probeAt = now + 2*sec
	out.health.mu.Unlock()
	if next := p.probe(t.Context(), now+2*sec-1); next != now+2*sec || asked.Load() != 0 {
		t.Errorf("got %d probes before it is time, the next in %v", asked.Load(), time.Duration(next-now))
	}
	p.probe(t.Context(), now+2*sec)
	eventually(t, "the broker is asked", func() bool { return asked.Load() == 1 })
	if n := send(4); n != 0 { // its disk is full
		t.Errorf("got %d messages at a broker that takes none", n)
	}
	writable.Store(true)
	p.probe(t.Context(), now+3*sec) // not yet again
	probes := int32(1)
	eventually(t, "the broker is free", func() bool { // when it does not answer in time it is asked again
		if asked.Load() == probes {
			probes++
			p.probe(t.Context(), now+2*int64(probes)*sec)
		}
		return out.health.grade(p.clock()) == healthy
	})
	if n := asked.Load(); n > probes {
		t.Errorf("got %d probes, %d were due", n, probes)
	}
	if n := send(8); n == 0 {
		t.Error("a broker that is free gets no messages")
	}
}

func TestFault_ASuccessfulSendFreesTheBroker(t *testing.T) {
	s := startSite(t)
	a := s.broker("a", 2)
	s.broker("b", 2)
	p := newProducer(t, s, nil)
	a.setScript(firstN(1, protocol.Errorf(protocol.Unavailable, "scripted")))
	if _, err := p.Send(t.Context(), msg("x"), ToQueue(message.Queue{Broker: "a"})); err != nil {
		t.Fatal(err)
	}
	if got := p.outboxOf("a").health.grade(p.clock()); got != healthy {
		t.Errorf("got grade %d, want healthy", got)
	}
}

func TestFault_CanBeSwitchedOff(t *testing.T) {
	s := startSite(t)
	a := s.broker("a", 2)
	s.broker("b", 2)
	p := newProducer(t, s, func(c *Config) { c.NoLatencyFault = true })
	a.setScript(firstN(1, protocol.Errorf(protocol.Unavailable, "scripted")))
	for range 4 {
		if _, err := p.Send(t.Context(), msg("x")); err != nil {
			t.Fatal(err)
		}
	}
	out := p.outboxOf("a")
	eventually(t, "the pause is over", func() bool { return !out.health.paused(p.clock()) })
	if got := out.health.grade(p.clock()); got != healthy {
		t.Errorf("got grade %d, want healthy after the pause", got)
	}
}

// The prober runs by itself: it is woken when a broker is isolated.
func TestProber_Runs(t *testing.T) {
	s := startSite(t)
	s.prober("a", func() (*protocol.BrokerStatusResponse, error) {
		return &protocol.BrokerStatusResponse{Writable: true}, nil
	})
	p := newProducer(t, s, nil)
	if _, err := p.Send(t.Context(), msg("x")); err != nil {
		t.Fatal(err)
	}
	h := &p.outboxOf("a").health
	h.mu.Lock()
	h.isolated.Store(p.clock() + 3600*sec)
	h.probeAt = 0
	h.mu.Unlock()
	p.probeSoon()
	eventually(t, "the broker is free", func() bool { return h.grade(p.clock()) == healthy })
}

// What an answer says of the broker, and that the prober hears of it.
func TestOutbox_NotesAnswers(t *testing.T) {
	ok, all := protocol.SendResult{}, protocol.SendResult{Err: protocol.Errorf(protocol.Unavailable, "x")}
	own := protocol.SendResult{Err: protocol.Errorf(protocol.IllegalMessage, "x")}
	for _, tc := range []struct {
		name    string
		took    time.Duration
		results []protocol.SendResult
		grade   grade
		probe   bool
	}{
		{"quick", 0, []protocol.SendResult{ok, ok}, healthy, false},
		{"slow", time.Second, []protocol.SendResult{ok}, slow, true},
		{"refused as a whole", 0, []protocol.SendResult{all}, busy, true},
		{"in part", 0, []protocol.SendResult{all, ok}, busy, true},
		{"in the other part", 0, []protocol.SendResult{ok, all}, busy, true},
		{"not because of the broker", 0, []protocol.SendResult{own}, healthy, false},
	} {
		p := &Producer{start: time.Now(), isolated: make(chan struct{}, 1), cfg: Config{Logger: slog.New(slog.DiscardHandler)}}
		for _, before := range []bool{false, true} {
			o := &outbox{p: p}
			o.health.tolerant = true
			if before {
				o.health.failed(p.clock(), protocol.Errorf(protocol.Unreachable, "x"), 0)
			}
			o.note(tc.results, tc.took)
			if before && tc.grade == busy && tc.results[0].Err != nil && len(tc.results) == 1 {
				continue // the pause that there was goes on
			}
			// A pause of 5 ms may be over when it is looked at.
			if got := o.health.grade(p.clock()); got != tc.grade && (got != slow || tc.grade != busy) {
				t.Errorf("%s, after a failure %v: got grade %d, want %d", tc.name, before, got, tc.grade)
			}
			if got := len(p.isolated) > 0; got != tc.probe {
				t.Errorf("%s: the prober is told: %v, want %v", tc.name, got, tc.probe)
			}
		}
	}
}
