package transaction

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// Plan says when and how often the producers of a half message are asked.
type Plan struct {
	// FirstCheck is when they are asked first, from the half message on, unless it
	// says otherwise, and CheckInterval when after each time.
	FirstCheck, CheckInterval time.Duration
	// MaxChecks is how often they are asked before the message is parked.
	MaxChecks int
}

// pause is how long after base the plan has something to do for a message.
func (p *Plan) pause(m *Message) (base int64, pause time.Duration) {
	switch {
	case m.Checks > 0:
		return m.AskedMillis, p.CheckInterval
	case m.ImmunityMillis > 0:
		return m.StoreMillis, time.Duration(m.ImmunityMillis) * time.Millisecond
	}
	return m.StoreMillis, p.FirstCheck
}

// Next is when the producers of a message are to be asked next, in Unix
// milliseconds; 0: never.
func (p *Plan) Next(m *Message) int64 {
	if m.Parked || m.Checks >= p.MaxChecks {
		return 0
	}
	base, pause := p.pause(m)
	return base + pause.Milliseconds()
}

// Schedule knows for which half messages something is to be done, and when: the
// producers of a group are to be asked, or, after they were asked as often as the
// plan says, the message is to be parked. It is a pure machine: it holds no clock.
// Nobody is asked earlier or later than planned because a clock was set: times are
// counted from when a message was put. It is not safe for concurrent use; its
// owner locks it.
type Schedule struct {
	plan    Plan
	items   map[Key]*item
	groups  map[string]*queue // what the producers of each are to be asked for
	parking queue
}

type item struct {
	Key
	due   time.Time
	group string // empty: in parking
	at    int    // in the queue
}

// NewSchedule returns an empty schedule.
func NewSchedule(p Plan) *Schedule {
	return &Schedule{plan: p, items: map[Key]*item{}, groups: map[string]*queue{}}
}

// Put takes in a message that is open, as it is now, and plans for it. A message
// that is parked is planned for no more.
func (s *Schedule) Put(now time.Time, m *Message) {
	s.Remove(m.Key)
	if m.Parked {
		return
	}
	base, pause := s.plan.pause(m)
	passed := min(max(now.UnixMilli()-base, 0), pause.Milliseconds())
	i := &item{Key: m.Key, due: now.Add(pause - time.Duration(passed)*time.Millisecond), group: m.Group}
	if m.Checks >= s.plan.MaxChecks {
		i.group = ""
	}
	s.push(i)
}

// Hasten has the producers of a message asked as soon as one is there, however
// often they were asked before and whether or not it is parked. The next Put ends
// that.
func (s *Schedule) Hasten(now time.Time, m *Message) {
	s.Remove(m.Key)
	s.push(&item{Key: m.Key, due: now, group: m.Group})
}

// Postpone puts off what is to be done for a message, because it cannot be done.
func (s *Schedule) Postpone(now time.Time, k Key) {
	if i, ok := s.items[k]; ok {
		i.due = now.Add(s.plan.CheckInterval)
		heap.Fix(s.queueOf(i), i.at)
	}
}

// Remove forgets a message that is not open any more.
func (s *Schedule) Remove(k Key) {
	i, ok := s.items[k]
	if !ok {
		return
	}
	delete(s.items, k)
	heap.Remove(s.queueOf(i), i.at)
	if g := s.groups[i.group]; g != nil && g.Len() == 0 {
		delete(s.groups, i.group)
	}
}

func (s *Schedule) push(i *item) {
	s.items[i.Key] = i
	if i.group != "" && s.groups[i.group] == nil {
		s.groups[i.group] = &queue{}
	}
	heap.Push(s.queueOf(i), i)
}

func (s *Schedule) queueOf(i *item) *queue {
	if i.group == "" {
		return &s.parking
	}
	return s.groups[i.group]
}

// DueGroups returns the groups whose producers are to be asked now, sorted.
func (s *Schedule) DueGroups(now time.Time) (names []string) {
	for name, g := range s.groups {
		if !g.items[0].due.After(now) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Due returns up to limit messages that the producers of a group are to be asked
// for now, those that have waited longest first. They stay due until the schedule
// is told otherwise.
func (s *Schedule) Due(now time.Time, groupName string, limit int) []Key {
	if g, ok := s.groups[groupName]; ok {
		return g.due(now, limit)
	}
	return nil
}

// DueParking returns up to limit messages that are to be parked now.
func (s *Schedule) DueParking(now time.Time, limit int) []Key { return s.parking.due(now, limit) }

// Turn returns which of n producers is asked for a message, 0 to n-1: at each
// check the next one, so that n checks reach all of them, whatever else they are
// asked for meanwhile.
func Turn(m *Message, n int) int {
	return int((m.Origin + uint64(m.Position) + uint64(m.Checks)) % uint64(n))
}

// queue is a heap of items by the time when they are due, and then by age.
type queue struct{ items []*item }

func (q *queue) due(now time.Time, limit int) (keys []Key) {
	var out []*item
	for q.Len() > 0 && len(out) < limit && !q.items[0].due.After(now) {
		out = append(out, heap.Pop(q).(*item))
	}
	for _, i := range out {
		keys = append(keys, i.Key)
		heap.Push(q, i)
	}
	return keys
}

// Len implements heap.Interface.
func (q *queue) Len() int { return len(q.items) }

// Less implements heap.Interface.
func (q *queue) Less(i, j int) bool {
	a, b := q.items[i], q.items[j]
	return cmp.Or(a.due.Compare(b.due), a.Compare(b.Key)) < 0
}

// Swap implements heap.Interface.
func (q *queue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.items[i].at, q.items[j].at = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	i := x.(*item)
	i.at = len(q.items)
	q.items = append(q.items, i)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	n := len(q.items) - 1
	i := q.items[n]
	q.items[n] = nil
	q.items = q.items[:n]
	return i
}
