package meter

import (
	"sync"
	"sync/atomic"
)

type groupKey struct {
	group string
	topic uint64
}

type deadKey struct{ group, topic string }

// groupMeter counts for a group in a topic.
type groupMeter struct {
	out traffic

	mu     sync.Mutex
	queues []reach // by queue
}

// reach is how far the holder of a queue's lease was given it.
type reach struct {
	fence uint64
	next  int64
}

// Reader counts what a group is given of a topic.
type Reader struct{ of *groupMeter }

// Reader finds the counters of a group in a topic; the group is empty for readers
// without one.
func (m *Meters) Reader(group string, topic uint64) Reader {
	return Reader{m.groups.of(groupKey{group, topic})}
}

// Given counts messages that were given out.
func (r Reader) Given(messages, bytes int) { r.of.out.add(int64(messages), int64(bytes)) }

// Reached says that the holder of a queue's lease with this fence was given all
// messages below an offset that the group is to have.
func (r Reader) Reached(queue int, fence uint64, next int64) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	for len(r.of.queues) <= queue {
		r.of.queues = append(r.of.queues, reach{})
	}
	switch q := &r.of.queues[queue]; {
	case fence > q.fence:
		*q = reach{fence, next}
	case fence == q.fence:
		q.next = max(q.next, next)
	}
}

// Reach is the offset that Reached has named for a queue with this fence; false when
// it has not.
func (m *Meters) Reach(group string, topic uint64, queue int, fence uint64) (next int64, ok bool) {
	g := m.groups.find(groupKey{group, topic})
	if g == nil || fence == 0 {
		return 0, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if queue >= len(g.queues) || g.queues[queue].fence != fence {
		return 0, false
	}
	return g.queues[queue].next, true
}

// Group is what was counted for a group in a topic.
type Group struct {
	// Name and Topic are empty and 0 for those beyond the limit together.
	Name  string
	Topic uint64
	Out   Traffic
}

// Groups returns what was counted, in no order, and forgets what does not exist any
// more.
func (m *Meters) Groups(exists func(group string, topic uint64) bool) (list []Group) {
	keep := func(k groupKey) bool { return exists(k.group, k.topic) }
	m.groups.each(keep, func(k groupKey, g *groupMeter) {
		list = append(list, Group{Name: k.group, Topic: k.topic, Out: g.out.read()})
	})
	return list
}

// Buried counts a message of a topic that has become a dead letter of a group.
func (m *Meters) Buried(group, topic string) { m.dead.of(deadKey{group, topic}).Add(1) }

// DeadLetters is how many there were of a group, by the topic that they were sent
// to.
type DeadLetters struct {
	// Group and Topic are empty for those beyond the limit together.
	Group, Topic string
	Messages     int64
}

// DeadLetters returns what was counted, in no order, and forgets groups that do not
// exist any more.
func (m *Meters) DeadLetters(exists func(group string) bool) (list []DeadLetters) {
	keep := func(k deadKey) bool { return exists(k.group) }
	m.dead.each(keep, func(k deadKey, n *atomic.Int64) {
		list = append(list, DeadLetters{Group: k.group, Topic: k.topic, Messages: n.Load()})
	})
	return list
}
