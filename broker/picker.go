package broker

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message/batch"
)

// maxBehind is how many messages of a queue may wait for others of their message
// groups: looking for more ends there.
const maxBehind = 1024

// picker chooses, of messages that nobody has looked at, those that one pop hands
// out. It is a store.Filter for one scan, on one goroutine.
type picker struct {
	filter *messageFilter         // nil: all match
	busy   func(lane uint32) bool // whether a message of it is unfinished
	from   int64
	count  int // of messages that may be handed out still
	room   int // of bytes; one message is given in any case
	behind int // of messages that may wait for their lanes still
	budget *store.Budget

	runs    []pop.Run
	offsets []int64 // of what is handed out
	lanes   map[uint32]struct{}
	some    bool  // it, or who asks, has a message
	stop    int64 // the offset where it had to end; -1: nowhere
	blocked bool  // because of too many messages that wait for their lanes
}

// Judge implements store.Filter. What may match is looked at, for the sake of message
// groups.
func (k *picker) Judge(tagHash uint32) store.Verdict {
	if k.filter != nil && k.filter.Judge(tagHash) == store.Skip {
		return store.Skip
	}
	return store.Look
}

// Count implements store.Filter; a picker counts nothing.
func (k *picker) Count([]byte, int, int) (int, error) { return 0, nil }

// Select implements store.Filter.
func (k *picker) Select(dst, b []byte) ([]byte, int, error) {
	h, err := batch.ParseHeader(b)
	if err != nil {
		return dst, 0, err
	}
	runs, offsets, at := len(k.runs), len(k.offsets), h.BaseOffset-1
	dst, n, err := batch.Select(dst, b, func(g *batch.Glance) bool {
		at++
		return k.stop < 0 && at >= k.from && k.match(g) && k.take(at, g)
	})
	if err != nil {
		k.runs, k.offsets = k.runs[:runs], k.offsets[:offsets]
	}
	if k.count == 0 && k.stop < 0 {
		k.stop = h.NextOffset()
	}
	if k.stop >= 0 {
		*k.budget = store.Budget{} // ends the scan
	}
	return dst, n, err
}

func (k *picker) match(g *batch.Glance) bool { return k.filter == nil || k.filter.match(g) }

// take reports whether a message is handed out; it may have to wait for its lane, or
// be too much.
func (k *picker) take(offset int64, g *batch.Glance) bool {
	lane := laneOf(g)
	waits := lane != 0 && k.isBusy(lane)
	switch {
	case waits && k.behind == 0, !waits && (k.count == 0 || k.some && g.Size() > k.room):
		k.stop, k.blocked = offset, waits
		return false
	case waits:
		k.behind--
	default:
		k.count, k.room, k.some = k.count-1, k.room-g.Size(), true
		k.offsets = append(k.offsets, offset)
	}
	if lane != 0 && k.lanes == nil {
		k.lanes = map[uint32]struct{}{}
	}
	if lane != 0 {
		k.lanes[lane] = struct{}{}
	}
	k.runs = addRun(k.runs, pop.Run{First: offset, Count: 1, Lane: lane, Waits: waits})
	return !waits
}

func (k *picker) isBusy(lane uint32) bool {
	_, own := k.lanes[lane]
	return own || k.busy(lane)
}

// laneOf is the lane of a message; 0: it has no message group.
func laneOf(g *batch.Glance) uint32 {
	name := g.Group()
	if len(name) == 0 {
		return 0
	}
	return batch.TagHash(string(name))
}

// addRun adds a message to runs, if it can to the last one.
func addRun(runs []pop.Run, r pop.Run) []pop.Run {
	if n := len(runs); n > 0 && r.Lane == 0 && runs[n-1].Lane == 0 && runs[n-1].First+runs[n-1].Count == r.First {
		runs[n-1].Count++
		return runs
	}
	return append(runs, r)
}

// pick scans a queue. It returns the batches and the offset that is to be looked at
// next.
func (k *picker) pick(log *store.Log, key store.QueueKey) (batches []byte, next int64, err error) {
	k.stop = -1
	found, err := log.FindMatching(key, k.from, math.MaxInt, 0, k, k.budget)
	if err == nil && found.Size > 0 {
		batches, err = found.Append(make([]byte, 0, found.Size))
	}
	if err != nil {
		return nil, k.from, err
	}
	if k.stop >= 0 {
		return batches, k.stop, nil
	}
	return batches, found.Next, nil
}

// again reads unfinished messages, which ascend, as far as there is room. What cannot
// be read is left out: the error says why of the first of them. What retention has
// dropped meanwhile is no error.
func (k *picker) again(log *store.Log, key store.QueueKey, due []pop.Message) (batches []byte, offsets []int64, err error) {
	for full := false; len(due) > 0 && !full; {
		read, failed := log.Read(key, due[0].Offset, 1, 1)
		n := 0
		if failed == nil {
			batches, n, full, failed = k.ofBatch(batches, read.Data, due)
		}
		for _, m := range due[:n] {
			offsets = append(offsets, m.Offset)
		}
		if failed != nil {
			n++
		}
		if !errors.Is(failed, store.ErrOutOfRange) {
			err = cmp.Or(err, failed)
		}
		due = due[n:]
	}
	return batches, offsets, err
}

// ofBatch takes the first n of the messages that are due out of the batch that has the
// first of them, until it is full.
func (k *picker) ofBatch(dst, b []byte, due []pop.Message) (_ []byte, n int, full bool, err error) {
	h, err := batch.ParseHeader(b)
	if err != nil {
		return dst, 0, false, err
	}
	at := h.BaseOffset - 1
	dst, _, err = batch.Select(dst, b, func(g *batch.Glance) bool {
		at++
		if full || n == len(due) || due[n].Offset != at {
			return false
		}
		if full = k.count == 0 || k.some && g.Size() > k.room; full {
			return false
		}
		k.count, k.room, k.some = k.count-1, k.room-g.Size(), true
		n++
		return true
	})
	switch {
	case err != nil:
		return dst, 0, false, fmt.Errorf("%w: %w", store.ErrDamaged, err)
	case n == 0 && !full:
		err = fmt.Errorf("%w: the batch at offset %d does not have it", store.ErrDamaged, due[0].Offset)
	}
	return dst, n, full, err
}
