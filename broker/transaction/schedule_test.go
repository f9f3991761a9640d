package transaction

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var plan = Plan{FirstCheck: 6 * time.Second, CheckInterval: 30 * time.Second, MaxChecks: 15}

func at(seconds float64) time.Time {
	return time.UnixMilli(1_000_000).Add(time.Duration(seconds * float64(time.Second)))
}

// half1 is a message of group g that came at a time.
func half1(origin uint64, stored time.Time) Message {
	return Message{Key: Key{Origin: origin}, Group: "g", StoreMillis: stored.UnixMilli()}
}

func wantDue(t testing.TB, s *Schedule, now time.Time, asking []uint64, parking ...uint64) {
	t.Helper()
	origins := func(keys []Key) (o []uint64) {
		for _, k := range keys {
			o = append(o, k.Origin)
		}
		return o
	}
	if got := origins(s.Due(now, "g", 100)); !slices.Equal(got, asking) {
		t.Errorf("at %v: to be asked for are %v, want %v", now.Sub(at(0)), got, asking)
	}
	if got := origins(s.DueParking(now, 100)); !slices.Equal(got, parking) {
		t.Errorf("at %v: to be parked are %v, want %v", now.Sub(at(0)), got, parking)
	}
	if got, want := s.DueGroups(now), len(asking) > 0; (len(got) > 0) != want {
		t.Errorf("at %v: due groups are %v", now.Sub(at(0)), got)
	}
}

// TestDefaultPlan follows one message from its coming to its parking: asked after
// 6 s, then every 30 s, 15 times, and parked 30 s after the last time.
func TestDefaultPlan(t *testing.T) {
	s := NewSchedule(plan)
	m := half1(1, at(0))
	s.Put(at(0), &m)
	due := 6.0
	for check := 1; check <= plan.MaxChecks; check++ {
		wantDue(t, s, at(due-0.001), nil)
		wantDue(t, s, at(due), []uint64{1})
		if got := plan.Next(&m); got != at(due).UnixMilli() {
			t.Errorf("check %d is listed at %v, want %v", check, got, at(due).UnixMilli())
		}
		m.Checks, m.AskedMillis = check, at(due).UnixMilli()
		s.Put(at(due), &m)
		due += 30
	}
	if got := plan.Next(&m); got != 0 {
		t.Errorf("after the last check the next is listed at %d", got)
	}
	wantDue(t, s, at(due-0.001), nil)
	wantDue(t, s, at(due), nil, 1)
	m.Parked = true
	s.Put(at(due), &m)
	wantDue(t, s, at(1e6), nil)
	if got := plan.Next(&m); got != 0 {
		t.Errorf("the next check of a parked message is listed at %d", got)
	}
}

func TestSchedule(t *testing.T) {
	asked := func(m Message, checks int, seconds float64) Message {
		m.Checks, m.AskedMillis = checks, at(seconds).UnixMilli()
		return m
	}
	immune := func(m Message, d time.Duration) Message {
		m.ImmunityMillis = d.Milliseconds()
		return m
	}
	parked := func(m Message) Message {
		m.Parked = true
		return m
	}
	put := func(now float64, m Message) func(*Schedule) { return func(s *Schedule) { s.Put(at(now), &m) } }
	for _, c := range []struct {
		name    string
		do      []func(*Schedule)
		at      float64
		asking  []uint64
		parking []uint64
	}{
		{"immunity delays the first check", []func(*Schedule){put(0, immune(half1(1, at(0)), time.Minute))}, 59.9, nil, nil},
		{"immunity ends", []func(*Schedule){put(0, immune(half1(1, at(0)), time.Minute))}, 60, []uint64{1}, nil},
		{"immunity brings the first check forward", []func(*Schedule){put(0, immune(half1(1, at(0)), time.Second))}, 1, []uint64{1}, nil},
		{"immunity is for the first check alone", []func(*Schedule){put(0, asked(immune(half1(1, at(0)), time.Hour), 1, 6))}, 36, []uint64{1}, nil},
		{"found at a start, overdue", []func(*Schedule){put(1000, half1(1, at(0)))}, 1000, []uint64{1}, nil},
		{"found at a start, half waited for", []func(*Schedule){put(4, half1(1, at(0)))}, 5.9, nil, nil},
		{"found at a start, due at its time", []func(*Schedule){put(4, half1(1, at(0)))}, 6, []uint64{1}, nil},
		{"the clock was behind at a start", []func(*Schedule){put(-5000, half1(1, at(0)))}, -4994, []uint64{1}, nil},
		{"the clock was behind at a start, between checks", []func(*Schedule){put(-5000, asked(half1(1, at(0)), 3, 6))}, -4970, []uint64{1}, nil},
		{"not before the pause, with a clock that was behind", []func(*Schedule){put(-5000, asked(half1(1, at(0)), 3, 6))}, -4970.1, nil, nil},
		{"decided", []func(*Schedule){put(0, half1(1, at(0))), func(s *Schedule) { s.Remove(Key{Origin: 1}) }}, 100, nil, nil},
		{"decided twice", []func(*Schedule){func(s *Schedule) { s.Remove(Key{Origin: 1}) }}, 100, nil, nil},
		{"the longest waiting first", []func(*Schedule){put(0, half1(2, at(0))), put(0, half1(3, at(-1))), put(0, half1(1, at(0)))}, 100, []uint64{3, 1, 2}, nil},
		{"hastened", []func(*Schedule){put(0, half1(1, at(0))), func(s *Schedule) { m := half1(1, at(0)); s.Hasten(at(1), &m) }}, 1, []uint64{1}, nil},
		{"hastened and asked", []func(*Schedule){
			func(s *Schedule) { m := half1(1, at(0)); s.Hasten(at(1), &m) }, put(1, asked(half1(1, at(0)), 1, 1)),
		}, 30.9, nil, nil},
		{"hastened when parked", []func(*Schedule){func(s *Schedule) { m := parked(half1(1, at(0))); s.Hasten(at(1), &m) }}, 1, []uint64{1}, nil},
		{"asked when parked", []func(*Schedule){
			func(s *Schedule) { m := parked(half1(1, at(0))); s.Hasten(at(1), &m) }, put(1, parked(asked(half1(1, at(0)), 16, 1))),
		}, 1e6, nil, nil},
		{"hastened after the last check", []func(*Schedule){
			put(0, asked(half1(1, at(0)), 15, 0)), func(s *Schedule) { m := asked(half1(1, at(0)), 15, 0); s.Hasten(at(1), &m) },
		}, 100, []uint64{1}, nil},
		{"postponed", []func(*Schedule){put(0, half1(1, at(0))), func(s *Schedule) { s.Postpone(at(10), Key{Origin: 1}) }}, 39.9, nil, nil},
		{"postponed for an interval", []func(*Schedule){put(0, half1(1, at(0))), func(s *Schedule) { s.Postpone(at(10), Key{Origin: 1}) }}, 40, []uint64{1}, nil},
		{"parking postponed", []func(*Schedule){put(0, asked(half1(1, at(0)), 15, 0)), func(s *Schedule) { s.Postpone(at(30), Key{Origin: 1}) }}, 60, nil, []uint64{1}},
		{"postponed when decided", []func(*Schedule){func(s *Schedule) { s.Postpone(at(10), Key{Origin: 1}) }}, 100, nil, nil},
		{"positions of one record", []func(*Schedule){
			put(0, half1(1, at(0))), put(0, Message{Key: Key{Origin: 1, Position: 1}, Group: "g", StoreMillis: at(0).UnixMilli()}),
			func(s *Schedule) { s.Remove(Key{Origin: 1}) },
		}, 6, []uint64{1}, nil},
		{"another group's", []func(*Schedule){put(0, Message{Key: Key{Origin: 1}, Group: "h", StoreMillis: at(0).UnixMilli()})}, 5, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewSchedule(plan)
			for _, do := range c.do {
				do(s)
			}
			wantDue(t, s, at(c.at), c.asking, c.parking...)
		})
	}
}

func TestDueIsBoundedAndLeavesItDue(t *testing.T) {
	s := NewSchedule(plan)
	for i := range uint64(10) {
		m := half1(i+1, at(float64(i)))
		s.Put(at(0), &m)
		m.Group = "h"
		m.Origin += 100
		s.Put(at(0), &m)
	}
	for range 2 {
		if got := s.Due(at(100), "g", 3); len(got) != 3 || got[0].Origin != 1 || got[2].Origin != 3 {
			t.Errorf("got %v, want the oldest three", got)
		}
	}
	if got := s.DueGroups(at(100)); !slices.Equal(got, []string{"g", "h"}) {
		t.Errorf("got groups %v", got)
	}
	if got := s.Due(at(100), "x", 3); got != nil {
		t.Errorf("got %v of a group without messages", got)
	}
}

// Each producer is asked as often as the others, whatever else is asked for: with
// n of them, n checks of a message reach all.
func TestTurns(t *testing.T) {
	for origin := range uint64(5) {
		asked := map[int]int{}
		for checks := range 12 {
			asked[Turn(&Message{Key: Key{Origin: origin, Position: 2}, Checks: checks}, 3)]++
		}
		if asked[0] != 4 || asked[1] != 4 || asked[2] != 4 {
			t.Errorf("of 12 turns among 3 got %v", asked)
		}
	}
}

// TestScheduleAgainstModel runs random events against a map of times.
func TestScheduleAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &scheduleModel{schedule: NewSchedule(plan), now: at(0), due: map[Key]planned{}}
		t.Repeat(map[string]func(*rapid.T){
			"put":      m.put,
			"remove":   m.remove,
			"hasten":   m.hasten,
			"postpone": m.postpone,
			"pass":     m.pass,
			"":         m.check,
		})
	})
}

type planned struct {
	due     time.Time
	group   string
	parking bool
}

type scheduleModel struct {
	schedule *Schedule
	now      time.Time
	due      map[Key]planned
}

func drawMessage(t *rapid.T, now time.Time) Message {
	m := Message{Key: Key{Origin: rapid.Uint64Range(1, 6).Draw(t, "origin"), Position: rapid.IntRange(0, 1).Draw(t, "position")}}
	m.Group = fmt.Sprint("g", m.Origin%3)
	m.StoreMillis = now.UnixMilli() - rapid.Int64Range(-100_000, 100_000).Draw(t, "age")
	m.ImmunityMillis = rapid.SampledFrom([]int64{0, 1000, 90_000}).Draw(t, "immunity")
	m.Checks = rapid.SampledFrom([]int{0, 1, 14, 15, 16}).Draw(t, "checks")
	m.AskedMillis = now.UnixMilli() - rapid.Int64Range(-100_000, 100_000).Draw(t, "asked")
	m.Parked = rapid.IntRange(0, 4).Draw(t, "parked") == 0
	return m
}

func (m *scheduleModel) put(t *rapid.T) {
	h := drawMessage(t, m.now)
	m.schedule.Put(m.now, &h)
	delete(m.due, h.Key)
	if h.Parked {
		return
	}
	base, pause := h.StoreMillis, int64(6000)
	if h.Checks > 0 {
		base, pause = h.AskedMillis, 30_000
	} else if h.ImmunityMillis > 0 {
		pause = h.ImmunityMillis
	}
	left := base + pause - m.now.UnixMilli()
	if left < 0 {
		left = 0
	} else if left > pause {
		left = pause
	}
	m.due[h.Key] = planned{m.now.Add(time.Duration(left) * time.Millisecond), h.Group, h.Checks >= 15}
}

func (m *scheduleModel) remove(t *rapid.T) {
	k := drawMessage(t, m.now).Key
	m.schedule.Remove(k)
	delete(m.due, k)
}

func (m *scheduleModel) hasten(t *rapid.T) {
	h := drawMessage(t, m.now)
	m.schedule.Hasten(m.now, &h)
	m.due[h.Key] = planned{m.now, h.Group, false}
}

func (m *scheduleModel) postpone(t *rapid.T) {
	k := drawMessage(t, m.now).Key
	m.schedule.Postpone(m.now, k)
	if p, ok := m.due[k]; ok {
		p.due = m.now.Add(30 * time.Second)
		m.due[k] = p
	}
}

func (m *scheduleModel) pass(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
}

func (m *scheduleModel) want(which func(planned) bool) (keys []Key) {
	for k, p := range m.due {
		if which(p) && !p.due.After(m.now) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Or(m.due[a].due.Compare(m.due[b].due), a.Compare(b)) })
	return keys
}

func (m *scheduleModel) check(t *rapid.T) {
	var groups []string
	for _, g := range []string{"g0", "g1", "g2"} {
		want := m.want(func(p planned) bool { return p.group == g && !p.parking })
		if got := m.schedule.Due(m.now, g, 100); !slices.Equal(got, want) {
			t.Fatalf("due of %s: got %v, want %v", g, got, want)
		}
		if len(want) > 0 {
			groups = append(groups, g)
		}
	}
	if got := m.schedule.DueGroups(m.now); !slices.Equal(got, groups) {
		t.Fatalf("got groups %v, want %v", got, groups)
	}
	want := m.want(func(p planned) bool { return p.parking })
	if got := m.schedule.DueParking(m.now, 100); !slices.Equal(got, want) {
		t.Fatalf("to be parked: got %v, want %v", got, want)
	}
}
