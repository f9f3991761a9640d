package store

import (
	"os"
	"slices"
	"sync"
)

// catalog is what readers may see: the segments, and the end of each queue as
// far as it is committed. The applier advances it; the writer adds segments.
type catalog struct {
	mu   sync.RWMutex
	list []*segment // oldest first; replaced, never changed
	ends queueEnds
	// firsts are the queues' first offsets as far as they are known: a queue that
	// lost messages to retention, or that was asked for since the start. They only
	// grow.
	firsts map[QueueKey]int64
	last   uint64 // log index of the last record that was applied
	// millis is the store time of that record.
	millis int64
	// damage is what the scrubber found, by segment.
	damage map[*segment]error
}

// setDamage notes what was found in a segment, nil for nothing, and reports
// whether that is news.
func (c *catalog) setDamage(s *segment, err error) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.damage[s]
	if err == nil {
		delete(c.damage, s)
	} else {
		if c.damage == nil {
			c.damage = map[*segment]error{}
		}
		c.damage[s] = err
	}
	return (before == nil) != (err == nil)
}

// damaged lists what was found, in log order.
func (c *catalog) damaged() (errs []error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, s := range c.list {
		if err := c.damage[s]; err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

func (c *catalog) segments() []*segment {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.list
}

func (c *catalog) addSegment(s *segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(slices.Clip(c.list), s)
}

func (c *catalog) lastIndex() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.last
}

// dropOldest takes the oldest segment from what readers see. The queues in it
// begin where it ended for them, or later. It returns what the scrubber found in it.
func (c *catalog) dropOldest(ends map[QueueKey]int64) (damage error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	damage = c.damage[c.list[0]]
	delete(c.damage, c.list[0])
	c.list = slices.Clone(c.list[1:])
	if ends == nil {
		c.firsts = nil // not known: looked up when asked for
		return damage
	}
	for q, end := range ends {
		c.setFirstLocked(q, end)
	}
	return damage
}

// setFirstLocked does nothing for a queue whose topic was deleted.
func (c *catalog) setFirstLocked(q QueueKey, first int64) {
	if _, ok := c.ends[q.Topic]; !ok {
		return
	}
	if c.firsts == nil {
		c.firsts = map[QueueKey]int64{}
	}
	c.firsts[q] = max(c.firsts[q], min(first, c.ends.get(q)))
}

// trim hides what lies below an offset. A queue whose first offset is not known
// is left alone.
func (c *catalog) trim(q QueueKey, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.firsts[q]; known || c.list[0].info.First == 1 {
		c.setFirstLocked(q, offset)
	}
}

// bounds returns a queue's end and, if it is known, its first offset. In a log
// that still has its first record every queue begins at 0.
func (c *catalog) bounds(q QueueKey) (first, end int64, known bool, segments []*segment) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	end = c.ends.get(q)
	first, known = c.firsts[q]
	if !known && (end == 0 || c.list[0].info.First == 1) {
		return 0, end, true, nil
	}
	return first, end, known, c.list
}

// learnFirst keeps what was looked up in segments, unless one was dropped since.
func (c *catalog) learnFirst(q QueueKey, first int64, segments []*segment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list[0] == segments[0] {
		c.setFirstLocked(q, first)
	}
}

// atEnd returns the queues' ends and the store time as of the last record.
func (c *catalog) atEnd() (queueEnds, int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ends.clone(), c.millis
}

func (c *catalog) copyEnds() queueEnds {
	ends, _ := c.atEnd()
	return ends
}

// advance takes in the rows of a committed chunk.
func (c *catalog) advance(ch *chunk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range ch.rows() {
		r := ch.row(i)
		switch r.Type {
		case BatchRecord:
			c.ends.set(r.Queue, r.BaseOffset+int64(r.Count))
		case TopicDeleteRecord:
			for q := range c.ends[r.Queue.Topic] {
				delete(c.firsts, QueueKey{r.Queue.Topic, uint32(q)})
			}
			delete(c.ends, r.Queue.Topic)
		}
	}
	c.last = ch.next() - 1
	c.millis = ch.row(ch.rows() - 1).StoreMillis
}

// waiters are those who wait for messages of queues.
type waiters struct {
	mu     sync.Mutex
	queues map[QueueKey][]*Waiter
}

// Waiter waits for messages of some queues; Log.Wait makes one. C gets one value
// when a queue got messages after Wait returned, and no more after that.
type Waiter struct {
	C      chan struct{}
	queues []QueueKey
	all    *waiters
}

// Wait begins to wait for messages of the queues. The caller reads after Wait
// and before it looks at C, so that nothing is missed, and calls Stop.
func (l *Log) Wait(queues []QueueKey) *Waiter {
	w := &Waiter{C: make(chan struct{}, 1), queues: queues, all: &l.waiters}
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	for _, q := range queues {
		w.all.queues[q] = append(w.all.queues[q], w)
	}
	return w
}

// Stop ends the waiting.
func (w *Waiter) Stop() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	for _, q := range w.queues {
		left := slices.DeleteFunc(w.all.queues[q], func(o *Waiter) bool { return o == w })
		if len(left) == 0 {
			delete(w.all.queues, q)
		} else {
			w.all.queues[q] = left
		}
	}
}

// notify wakes those who wait for a queue of the chunk.
func (w *waiters) notify(ch *chunk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queues) == 0 {
		return
	}
	for i := range ch.rows() {
		r := ch.row(i)
		if r.Type != BatchRecord {
			continue
		}
		for _, waiter := range w.queues[r.Queue] {
			select {
			case waiter.C <- struct{}{}:
			default: // it has been told
			}
		}
	}
}

// fileBytes is the size of a file; 0 when it cannot be read.
func fileBytes(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
