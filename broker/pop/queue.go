package pop

import (
	"cmp"

	"github.com/rmqio/rmq/broker/sorted"
)

// entry is a message that is not finished.
type entry struct {
	offset   int64
	deadline int64  // Unix milliseconds; 0: it was never handed out
	fence    uint64 // 0: likewise
	attempts uint32
	lane     uint32 // 0: none
}

// turn is the place of an entry among those that could be handed out.
type turn struct{ deadline, offset int64 }

func byOffset(a, b entry) int { return cmp.Compare(a.offset, b.offset) }

func byDeadline(a, b turn) int {
	return cmp.Or(cmp.Compare(a.deadline, b.deadline), cmp.Compare(a.offset, b.offset))
}

// queue is what a group has popped of one queue. An entry has a turn unless an
// earlier one has its lane; then its offset is in behind. It is not safe for
// concurrent use.
type queue struct {
	next    int64
	born    uint64 // the record with which it began or was set back: older handles count no more
	last    uint64 // Progress.Last
	entries sorted.List[entry]
	turns   sorted.List[turn]
	heads   map[uint32]struct{} // lanes of entries that have turns
	behind  map[uint32][]int64  // by lane, ascending; none is empty
	waiting int                 // in behind
	// touched is called with the offset of each entry that changes.
	touched func(offset int64)
}

func newQueue(touched func(int64)) *queue {
	return &queue{entries: sorted.By(byOffset), turns: sorted.By(byDeadline), touched: touched}
}

// floor is the lowest offset that is not finished.
func (q *queue) floor() int64 {
	if e := q.entries.First(); e != nil {
		return e.offset
	}
	return q.next
}

func (q *queue) get(offset int64) *entry { return q.entries.Get(entry{offset: offset}) }

// hasTurn reports whether an entry is not behind another.
func (q *queue) hasTurn(e *entry) bool {
	return e.lane == 0 || q.turns.Get(turn{e.deadline, e.offset}) != nil
}

// add adds an entry above all others. Behind one of its lane it is not handed out,
// whatever it says.
func (q *queue) add(e entry) {
	q.touched(e.offset)
	if _, busy := q.heads[e.lane]; busy {
		e.deadline, e.fence, e.attempts = 0, 0, 0
		if q.behind == nil {
			q.behind = map[uint32][]int64{}
		}
		q.behind[e.lane] = append(q.behind[e.lane], e.offset)
		q.waiting++
		q.entries.Insert(e)
		return
	}
	if e.lane != 0 {
		if q.heads == nil {
			q.heads = map[uint32]struct{}{}
		}
		q.heads[e.lane] = struct{}{}
	}
	q.entries.Insert(e)
	q.turns.Insert(turn{e.deadline, e.offset})
}

// hand hands an entry out that has a turn; one that is not there, or is behind
// another, stays as it is.
func (q *queue) hand(offset int64, fence uint64, deadline int64) {
	e := q.get(offset)
	if e == nil || !q.hasTurn(e) {
		return
	}
	q.postpone(e, deadline)
	e.fence = fence
	e.attempts++
}

// postpone gives an entry that has a turn another deadline.
func (q *queue) postpone(e *entry, deadline int64) {
	q.touched(e.offset)
	q.turns.Remove(turn{e.deadline, e.offset})
	e.deadline = deadline
	q.turns.Insert(turn{deadline, e.offset})
}

// finish takes an entry away that has a turn; the next one of its lane has one then.
func (q *queue) finish(e entry) {
	q.touched(e.offset)
	q.entries.Remove(e)
	q.turns.Remove(turn{e.deadline, e.offset})
	next := q.behind[e.lane]
	if len(next) == 0 {
		delete(q.heads, e.lane)
		return
	}
	q.turns.Insert(turn{0, next[0]})
	q.waiting--
	if len(next) == 1 {
		delete(q.behind, e.lane)
	} else {
		q.behind[e.lane] = next[1:]
	}
}

// finishBelow finishes all below an offset: the first of a lane has a turn.
func (q *queue) finishBelow(offset int64) {
	for e := q.entries.First(); e != nil && e.offset < offset; e = q.entries.First() {
		q.finish(*e)
	}
	q.next = max(q.next, offset)
}

// setBack forgets all entries and goes on at an offset.
func (q *queue) setBack(index uint64, offset int64) {
	q.entries.Ascend(entry{}, func(e *entry) bool { q.touched(e.offset); return true })
	touched := q.touched
	*q = *newQueue(touched)
	q.next, q.born, q.last = offset, index, index
}

// handOut applies a record at index, whose messages have a deadline.
func (q *queue) handOut(index uint64, h *Handout, deadline int64) {
	q.finishBelow(min(h.First, q.next))
	for _, o := range h.Again {
		q.hand(o, index, deadline)
	}
	for i := range h.Fresh {
		q.handFresh(index, &h.Fresh[i], deadline)
	}
	q.next, q.last = max(q.next, h.Next), index
}

// handFresh leaves out what was finished since the record was decided.
func (q *queue) handFresh(index uint64, r *Run, deadline int64) {
	e := entry{deadline: deadline, fence: index, attempts: 1, lane: r.Lane}
	if r.Waits {
		e = entry{lane: r.Lane}
	}
	for e.offset = max(r.First, q.next); e.offset < r.end(); e.offset++ {
		q.add(e)
	}
}

// settle applies an acknowledgement, or another deadline, to what is live.
func (q *queue) settle(a *Ack, deadline int64) {
	for _, s := range a.Sets {
		for _, o := range s.Offsets {
			e := q.get(o)
			switch {
			case e == nil || e.fence != s.Fence || e.fence == 0:
			case a.Again:
				q.postpone(e, deadline)
			default:
				q.finish(*e)
			}
		}
	}
}

// judge says what a handle is worth.
func (q *queue) judge(fence uint64, offset int64) Verdict {
	e := q.get(offset)
	switch {
	case fence == 0 || fence > q.last:
		return Unknown
	case fence <= q.born:
		return Expired // it was given before the queue was set back
	case offset < 0 || offset >= q.next || e != nil && e.fence == 0:
		return Unknown
	case e == nil:
		return Finished
	case e.fence == fence:
		return Live
	}
	return Expired
}

// counts are as of a time in Unix milliseconds.
func (q *queue) counts(now int64) Counts {
	ready := q.ready(now)
	return Counts{Unfinished: int64(q.entries.Len()), Ready: int64(ready), InFlight: int64(q.turns.Len() - ready), Oldest: q.next, Next: q.next}
}

// ready is how many could be handed out now.
func (q *queue) ready(now int64) int { return q.turns.Below(turn{deadline: now + 1}) }
