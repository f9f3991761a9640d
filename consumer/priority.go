package consumer

import (
	"math/bits"

	"github.com/rmqio/rmq/message"
)

// turns is the order in which queues with something ready hand it out: those
// whose next message has the highest priority first, and of equal ones each in
// turn. A higher priority goes before a lower one for as long as there is any of
// it: the lower may wait for ever, which is what priorities are for.
//
// A queue takes its place by the message that is in front then. Only a drain can
// put another one there: one of lower priority moves the queue back before it is
// handed out, one of higher priority goes out when the old one's turn has come.
type turns struct {
	levels [message.MaxPriority + 1]fifo[*holding] // by priority
	lined  uint16                                  // bit p: there is a queue in levels[p]
}

func (t *turns) empty() bool { return t.lined == 0 }

// push lines up a queue that has something ready.
func (t *turns) push(h *holding) {
	p := h.priority()
	t.levels[p].push(h)
	t.lined |= 1 << p
}

// pop takes the queue whose turn it is, which may have nothing to hand out any
// more; nil when none is lined up.
func (t *turns) pop() *holding {
	for t.lined != 0 {
		p := bits.Len16(t.lined) - 1
		h := t.levels[p].pop()
		if t.levels[p].len() == 0 {
			t.lined &^= 1 << p
		}
		if !h.takable() || h.priority() >= p {
			return h
		}
		t.push(h)
	}
	return nil
}

// priority is that of the message in front of a queue; there must be one.
func (q *processQueue) priority() int { return int((*q.ready.front()).priority) }

// levelOf is a message's priority as it was pulled, whatever the program does to
// the Delivery, and whatever a broker lets pass.
func levelOf(m *message.Stored) uint8 { return uint8(min(max(m.Priority, 0), message.MaxPriority)) }
