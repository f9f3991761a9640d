package pop

import (
	"fmt"
	"math"
	"sync"

	"github.com/rmqio/rmq/broker/store"
)

// View is what all groups have popped. Reading methods may be called from any
// goroutine. Apply methods, SetBack, Finish, the Drop methods, Load and Changes
// belong to the one goroutine that applies the log.
type View struct {
	// changed holds the rows that differ from those that Changes has handed over;
	// only the applying goroutine uses it.
	changed map[row]struct{}

	mu     sync.RWMutex
	queues map[Key]*queue
}

// New returns an empty view.
func New() *View { return &View{changed: map[row]struct{}{}, queues: map[Key]*queue{}} }

// Progress tells where a group is in a queue; false: it has popped nothing of it.
func (v *View) Progress(k Key) (Progress, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q, ok := v.queues[k]
	if !ok {
		return Progress{}, false
	}
	return Progress{Floor: q.floor(), Next: q.next, Last: q.last, Unfinished: q.entries.Len(), Waiting: q.waiting}, true
}

// Counts counts the unfinished messages of a queue as of a time in Unix milliseconds,
// without those below an offset; false: the group has popped nothing of it.
func (v *View) Counts(k Key, now, from int64) (c Counts, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q, ok := v.queues[k]
	if !ok {
		return c, false
	}
	c = q.counts(now)
	q.entries.Ascend(entry{}, func(e *entry) bool {
		if e.offset >= from {
			c.Oldest = e.offset
			return false
		}
		c.Unfinished--
		switch {
		case !q.hasTurn(e):
		case e.deadline > now:
			c.InFlight--
		default:
			c.Ready--
		}
		return true
	})
	return c, true
}

// InFlight reports whether a message of a queue is handed out at a time in Unix
// milliseconds.
func (v *View) InFlight(k Key, now int64) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q, ok := v.queues[k]
	return ok && q.ready(now) < q.turns.Len()
}

// Due lists messages that were looked at before and can be handed out at a time in
// Unix milliseconds, those that are due longest first, at most limit of them. The
// slice is the caller's.
func (v *View) Due(k Key, now int64, limit int) (due []Message) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q, ok := v.queues[k]
	if !ok {
		return nil
	}
	q.turns.Ascend(turn{}, func(t *turn) bool {
		if t.deadline > now || len(due) == limit {
			return false
		}
		due = append(due, q.get(t.offset).message())
		return true
	})
	return due
}

func (e *entry) message() Message {
	return Message{Offset: e.offset, Deadline: e.deadline, Fence: e.fence, Attempts: int(e.attempts)}
}

// NextDue is when, in Unix milliseconds, the first message of some queues can be
// handed out that was looked at before; math.MaxInt64: there is none.
func (v *View) NextDue(keys []Key) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	next := int64(math.MaxInt64)
	for _, k := range keys {
		if q, ok := v.queues[k]; ok && q.turns.Len() > 0 {
			next = min(next, q.turns.First().deadline)
		}
	}
	return next
}

// NextDueAfter is NextDue of those that can be handed out only after a time.
func (v *View) NextDueAfter(keys []Key, now int64) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	next := int64(math.MaxInt64)
	for _, k := range keys {
		if q, ok := v.queues[k]; ok {
			q.turns.Ascend(turn{deadline: now + 1}, func(t *turn) bool {
				next = min(next, t.deadline)
				return false
			})
		}
	}
	return next
}

// Busy reports whether a message of a lane is unfinished in a queue.
func (v *View) Busy(k Key, lane uint32) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q, ok := v.queues[k]
	if !ok {
		return false
	}
	_, busy := q.heads[lane]
	return busy
}

// HandedOut returns those of the offsets that the record at index has handed out and
// that are unfinished still, in their order.
func (v *View) HandedOut(k Key, index uint64, offsets []int64) (handed []Message) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q, ok := v.queues[k]
	if !ok {
		return nil
	}
	for _, o := range offsets {
		if e := q.get(o); e != nil && e.fence == index {
			handed = append(handed, e.message())
		}
	}
	return handed
}

// Judge hands over what each of some handles of one fence is worth, in their order.
func (v *View) Judge(k Key, fence uint64, offsets []int64, visit func(offset int64, verdict Verdict)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	q := v.queues[k]
	for _, o := range offsets {
		if q == nil {
			visit(o, Unknown)
		} else {
			visit(o, q.judge(fence, o))
		}
	}
}

// ApplyHandout applies a record with what EncodeHandout wrote. It does nothing when
// the queue was popped or set back after the record was decided, and reports whether
// it did something.
func (v *View) ApplyHandout(r store.Committed, h *Handout) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	q, ok := v.queues[h.Key]
	switch {
	case ok && q.last != h.After, !ok && h.After != 0:
		return false
	case !ok:
		q = v.addLocked(h.Key)
		q.next = h.First // there is nothing that could be unfinished
	}
	q.handOut(r.Index, h, r.StoreMillis+h.InvisibleMillis)
	v.changed[row{key: h.Key, block: header}] = struct{}{}
	return true
}

func (v *View) addLocked(k Key) *queue {
	q := newQueue(func(offset int64) { v.changed[row{key: k, block: offset / blockOffsets}] = struct{}{} })
	v.queues[k] = q
	return q
}

// ApplyAck applies a record with what EncodeAck wrote: to the messages that nobody
// was handed since.
func (v *View) ApplyAck(r store.Committed, a *Ack) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if q, ok := v.queues[a.Key]; ok {
		q.settle(a, r.StoreMillis+a.InvisibleMillis)
	}
}

// Finish finishes what is below an offset: the group has committed it. A queue that
// was not popped is left alone.
func (v *View) Finish(k Key, offset int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if q, ok := v.queues[k]; ok && offset > q.floor() {
		q.finishBelow(offset)
		v.changed[row{key: k, block: header}] = struct{}{}
	}
}

// SetBack forgets what is unfinished in a queue, and goes on at an offset, whether it
// is before or behind: the record at index sets the group's offset, or gives the
// queue to one member. A queue that was not popped is left alone.
func (v *View) SetBack(index uint64, k Key, offset int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if q, ok := v.queues[k]; ok {
		q.setBack(index, offset)
		v.changed[row{key: k, block: header}] = struct{}{}
	}
}

// DropTopic forgets all queues of a topic that is deleted.
func (v *View) DropTopic(id uint64) { v.drop(func(k Key) bool { return k.Topic == id }) }

// DropGroup forgets all queues of a group that is deleted.
func (v *View) DropGroup(name string) { v.drop(func(k Key) bool { return k.Group == name }) }

func (v *View) drop(match func(Key) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, q := range v.queues {
		if match(k) {
			q.setBack(0, 0)
			v.changed[row{key: k, block: header}] = struct{}{}
			delete(v.queues, k)
		}
	}
}

// Len is how many messages are unfinished in all queues.
func (v *View) Len() (n int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, q := range v.queues {
		n += q.entries.Len()
	}
	return n
}

func (k Key) String() string {
	return fmt.Sprintf("group %q, topic %d, queue %d", k.Group, k.Topic, k.Queue)
}
