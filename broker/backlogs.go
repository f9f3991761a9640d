package broker

import (
	"container/list"
	"errors"
	"sync"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// maxBacklogs is how many queues of groups with filters are kept counted.
	maxBacklogs = 20_000
	// lagSteps and lagBytes are the most that one request looks at to count what
	// filters let through.
	lagSteps = 200_000
	lagBytes = 64 << 20
)

// lagBudget is what one request may look at.
func lagBudget() store.Budget { return store.Budget{Steps: lagSteps, Bytes: lagBytes} }

// backlogs keeps, for each queue that a group reads with a filter, how many messages
// the filter lets through of those that the group has to consume: what was counted
// is not counted again. Its zero value is ready for use, by any goroutine.
type backlogs struct {
	filters filters

	mu    sync.Mutex
	byKey map[backlogKey]*list.Element
	used  list.List // of *backlog, those used last in front
}

type backlogKey struct {
	group string
	queue store.QueueKey
}

// of is the backlog of a group in a queue; a new one has counted nothing.
func (b *backlogs) of(key backlogKey) *backlog {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.byKey[key]; e != nil {
		b.used.MoveToFront(e)
		return e.Value.(*backlog)
	}
	if b.byKey == nil {
		b.byKey = map[backlogKey]*list.Element{}
	}
	c := &backlog{key: key}
	b.byKey[key] = b.used.PushFront(c)
	if b.used.Len() > maxBacklogs {
		delete(b.byKey, b.used.Remove(b.used.Back()).(*backlog).key)
	}
	return c
}

// backlog is what a filter lets through of a part of a queue.
type backlog struct {
	key backlogKey

	mu       sync.Mutex
	filter   protocol.Filter
	from, to int64 // the part
	n        int64 // messages of it that match
	// oldest is an offset of the part before which nothing matches; found says that
	// something in its batch does.
	oldest int64
	found  bool
}

// waiting is what a group has to consume in a queue.
type waiting struct {
	n int64
	// oldest is in the batch of the first of them; when n is not exact, that may be
	// a later one.
	oldest int64
	exact  bool // else there are n at least
}

// count counts what matches between two offsets, going on from what was counted
// before: it looks at what came to the queue since, and once more at what the group
// has consumed since. When the budget is spent, or damage is in the way, the result
// is not exact, and the next call goes on from there. ErrOutOfRange says that
// retention has moved the queue's beginning meanwhile.
func (b *backlog) count(log *store.Log, f *messageFilter, from, end int64, budget *store.Budget) (waiting, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	// It is begun anew, too, when less is left of the part than was consumed.
	if b.filter != f.key || from < b.from || from-b.from > b.to-from {
		b.begin(f.key, from)
	}
	if err := b.consume(log, f, from, budget); err != nil {
		b.begin(f.key, from)
	}
	if err := errors.Join(b.extend(log, f, end, budget), b.seek(log, f, budget)); errors.Is(err, store.ErrOutOfRange) {
		return waiting{}, err
	}
	w := waiting{n: max(b.n-(from-b.from), 0), oldest: max(b.oldest, from)}
	w.exact = b.from == from && b.to == end && (b.found || b.n == 0)
	return w, nil
}

// begin forgets what was counted.
func (b *backlog) begin(f protocol.Filter, from int64) {
	b.filter, b.from, b.to, b.n, b.oldest, b.found = f, from, from, 0, from, false
}

// consume takes what lies before from out of the part.
func (b *backlog) consume(log *store.Log, f *messageFilter, from int64, budget *store.Budget) error {
	if b.from >= from || budget.Spent() {
		return nil
	}
	c, err := log.CountMatching(b.key.queue, b.from, from, f, budget)
	b.n, b.from = b.n-c.Matched, c.Next
	if b.oldest < b.from {
		b.oldest, b.found = b.from, false
	}
	return err
}

// extend takes what lies before end into the part.
func (b *backlog) extend(log *store.Log, f *messageFilter, end int64, budget *store.Budget) error {
	if b.to >= end || budget.Spent() {
		return nil
	}
	c, err := log.CountMatching(b.key.queue, b.to, end, f, budget)
	if b.n == 0 {
		b.oldest, b.found = c.Next, c.First >= 0
		if b.found {
			b.oldest = c.First
		}
	}
	b.n, b.to = b.n+c.Matched, c.Next
	return err
}

// seek finds the oldest that matches, if it was consumed.
func (b *backlog) seek(log *store.Log, f *messageFilter, budget *store.Budget) error {
	if b.found || b.n == 0 || budget.Spent() {
		return nil
	}
	c, err := log.FirstMatching(b.key.queue, b.oldest, b.to, f, budget)
	b.oldest, b.found = c.Next, c.First >= 0
	if b.found {
		b.oldest = c.First
	}
	return err
}
