package consumer

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// shelfModel is a slow, obvious shelf: a list of what is there.
type shelfModel struct {
	shelf   *shelf
	now     time.Time
	there   []*shelved
	waiting map[time.Duration]int
	flying  []flying
	paused  map[string]time.Time
	fails   map[string]int
	next    int64
	ended   bool
}

type flying struct {
	broker    string
	invisible time.Duration
}

var (
	shelfTimes   = []time.Duration{time.Second, 2 * time.Second, time.Minute}
	shelfBrokers = []string{"a", "b"}
	errOver      = errors.New("over")
)

func TestShelf_AgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &shelfModel{
			shelf: newShelf(), now: time.UnixMilli(1e12), waiting: map[time.Duration]int{},
			paused: map[string]time.Time{}, fails: map[string]int{},
		}
		t.Repeat(map[string]func(*rapid.T){
			"wait": m.wait, "leave": m.leave, "pass": m.pass, "put": m.put, "take": m.take, "begin": m.begin, "land": m.land, "end": m.end,
		})
	})
}

func (m *shelfModel) wait(t *rapid.T) {
	d := rapid.SampledFrom(shelfTimes).Draw(t, "invisible")
	m.shelf.count(d, 1)
	m.waiting[d]++
}

func (m *shelfModel) leave(t *rapid.T) {
	d := rapid.SampledFrom(shelfTimes).Draw(t, "invisible")
	if m.waiting[d] == 0 {
		t.Skip()
	}
	m.shelf.count(d, -1)
	m.waiting[d]--
}

func (m *shelfModel) pass(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.Int64Range(0, 2000).Draw(t, "ms")) * time.Millisecond)
}

func (m *shelfModel) put(t *rapid.T) {
	d := rapid.SampledFrom(shelfTimes).Draw(t, "invisible")
	ps := make([]*Popped, rapid.IntRange(0, 4).Draw(t, "n"))
	for i := range ps {
		ps[i] = &Popped{offset: m.next, until: m.now.Add(d)}
		m.next++
		if !m.ended {
			m.there = append(m.there, &shelved{ps[i], d})
		}
	}
	if got := m.shelf.put(ps, d); got == m.ended {
		t.Fatalf("put: got %v", got)
	}
}

func (m *shelfModel) take(t *rapid.T) {
	d, most := rapid.SampledFrom(shelfTimes).Draw(t, "invisible"), rapid.IntRange(1, 3).Draw(t, "most")
	ps, late, changed, err := m.shelf.take(m.now, most, d)
	if (err != nil) != m.ended || m.ended && !errors.Is(err, errOver) {
		t.Fatalf("got %v", err)
	}
	var want, wantLate []*Popped
	var left []*shelved
	for _, k := range m.there {
		remains := k.until.Sub(m.now)
		fits := remains <= d && remains >= d/2
		switch {
		case remains < k.invisible/2:
			wantLate = append(wantLate, k.Popped)
		case fits && len(want) < most:
			want = append(want, k.Popped)
		default:
			left = append(left, k)
		}
	}
	m.there = left
	if !slices.Equal(ps, want) || !slices.Equal(late, wantLate) {
		t.Fatalf("got %v and late %v, want %v and %v", ps, late, want, wantLate)
	}
	if !m.ended {
		m.changes(t, changed, false)
	}
}

// changes looks whether a channel is closed.
func (m *shelfModel) changes(t *rapid.T, changed <-chan struct{}, want bool) {
	select {
	case <-changed:
		if !want {
			t.Fatal("nothing has changed")
		}
	default:
		if want {
			t.Fatal("nobody is told")
		}
	}
}

func (m *shelfModel) begin(t *rapid.T) {
	f := flying{rapid.SampledFrom(shelfBrokers).Draw(t, "broker"), rapid.SampledFrom(shelfTimes).Draw(t, "invisible")}
	started := false
	again := m.shelf.begin(f.broker, f.invisible, m.now, func() { started = true })
	same, all := 0, 0
	for _, o := range m.flying {
		if o.broker == f.broker {
			all++
		}
		if o == f {
			same++
		}
	}
	room := !m.ended && same < m.waiting[f.invisible] && all < popsAtOnce
	paused := m.now.Before(m.paused[f.broker])
	if started != (room && !paused) || again.IsZero() != !(room && paused) {
		t.Fatalf("started %v, again at %v; room %v, paused %v", started, again, room, paused)
	}
	if started {
		m.flying = append(m.flying, f)
	}
}

func (m *shelfModel) land(t *rapid.T) {
	if len(m.flying) == 0 {
		t.Skip()
	}
	i := rapid.IntRange(0, len(m.flying)-1).Draw(t, "which")
	f, failed := m.flying[i], rapid.Bool().Draw(t, "failed")
	m.flying = slices.Delete(m.flying, i, i+1)
	changed := m.shelf.changed
	asked := time.Duration(rapid.IntRange(0, 2).Draw(t, "asked")) * time.Second
	got := m.shelf.landed(f.broker, f.invisible, failed, asked, m.now)
	m.changes(t, changed, true)
	if !failed {
		m.fails[f.broker] = 0
		return
	}
	m.fails[f.broker]++
	m.paused[f.broker] = m.now.Add(max(doubled(brokerRetryFirst, brokerRetryMost, m.fails[f.broker]), asked))
	if got != m.fails[f.broker] {
		t.Fatalf("got %d failures, want %d", got, m.fails[f.broker])
	}
}

func (m *shelfModel) end(t *rapid.T) {
	if rapid.IntRange(0, 20).Draw(t, "rarely") != 0 {
		t.Skip()
	}
	left := m.shelf.end(errOver)
	if len(left) != len(m.there) {
		t.Fatalf("got %d messages, want %d", len(left), len(m.there))
	}
	m.there, m.ended = nil, true
}

func TestShelf_Faults(t *testing.T) {
	s, q := newShelf(), message.Queue{Topic: "t", Broker: "b"}
	if s.news(q, 0) || !s.news(q, protocol.Conflict) || s.news(q, protocol.Conflict) || !s.news(q, protocol.Damaged) || !s.news(q, 0) || !s.news(q, protocol.Damaged) {
		t.Error("an error counts when it is another one than before")
	}
	if len(s.told) != 1 {
		t.Errorf("got %v", s.told)
	}
	changed := s.changed
	s.report(errOver)
	select {
	case <-changed:
	default:
		t.Error("nobody is told")
	}
	for _, want := range []error{errOver, nil} {
		if _, _, _, err := s.take(time.Now(), 1, time.Second); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestShelf_BoundsThePopsOfABroker(t *testing.T) {
	s, started := newShelf(), 0
	s.count(time.Second, 2*popsAtOnce)
	for range 2 * popsAtOnce {
		s.begin("a", time.Second, time.Now(), func() { started++ })
	}
	if started != popsAtOnce {
		t.Errorf("%d are under way", started)
	}
	s.begin("b", time.Second, time.Now(), func() { started++ })
	s.landed("a", time.Second, false, 0, time.Now())
	s.begin("a", time.Second, time.Now(), func() { started++ })
	if started != popsAtOnce+2 {
		t.Errorf("%d were started", started)
	}
}
