package store

import (
	"sort"
	"sync"
)

// location is where a batch lies, as the queue index knows it.
type location struct {
	base    int64 // queue offset of the first message
	count   uint32
	tagHash uint32
	chunk   uint64 // the chunk's first log index
	pos     uint32 // in the chunk's data
	len     uint32
	millis  int64 // when it was stored
}

func (l *location) next() int64 { return l.base + int64(l.count) }

// queueIndex is the queue index of a segment that is not sealed. The applier
// adds; readers look up. Locations of a queue are consecutive, so that a slice
// handed out stays valid while more are appended behind it.
type queueIndex struct {
	mu     sync.RWMutex
	queues map[QueueKey]*[]location
}

func newQueueIndex() *queueIndex { return &queueIndex{queues: map[QueueKey]*[]location{}} }

// add enters the batches of a chunk.
func (x *queueIndex) add(c *chunk) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range c.rows() {
		r := c.row(i)
		if r.Type != BatchRecord {
			continue
		}
		all := x.queues[r.Queue]
		if all == nil {
			all = new([]location)
			x.queues[r.Queue] = all
		}
		*all = append(*all, location{
			base: r.BaseOffset, count: r.Count, tagHash: r.TagHash, millis: r.StoreMillis,
			chunk: c.first, pos: r.pos, len: r.len,
		})
	}
}

func (x *queueIndex) of(q QueueKey) []location {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if all := x.queues[q]; all != nil {
		return *all
	}
	return nil
}

// from returns the queue's locations from the one that holds offset; older is
// true when the queue has locations here but they all begin after offset.
func (x *queueIndex) from(q QueueKey, offset int64) (found []location, older bool) {
	all := x.of(q)
	i := sort.Search(len(all), func(i int) bool { return all[i].next() > offset })
	if i == len(all) {
		return nil, false
	}
	if all[i].base > offset {
		return nil, true
	}
	return all[i:], false
}

// atTime returns the first offset stored at or after millis, if there is one.
func (x *queueIndex) atTime(q QueueKey, millis int64) (int64, bool) {
	all := x.of(q)
	i := sort.Search(len(all), func(i int) bool { return all[i].millis >= millis })
	if i == len(all) {
		return 0, false
	}
	return all[i].base, true
}
