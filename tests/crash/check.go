//go:build linux

package crash

import (
	"context"
	"errors"
	"fmt"

	"github.com/rmqio/rmq/broker/store"
)

// smallSegments make a log roll over, seal and retain all the time.
func smallSegments() store.Options {
	return store.Options{FirstSegmentBytes: 64 << 10, SegmentBytes: 128 << 10}
}

// Check opens what a writer left and holds it to its ledger: it opens, each queue
// is dense from a first offset that retention may have made to its end, every
// message is right, every record reaches the views once, the log takes more, and
// every byte passes store.Verify. lost is how many acknowledged messages are
// missing from the ends of the queues; everything else that is wrong is an error.
func Check(ctx context.Context, dir string, l *Ledger) (lost int64, err error) {
	if err := l.complaint(); err != nil {
		return 0, err
	}
	views := &views{}
	o := smallSegments()
	o.Apply = views.apply
	log, err := store.Open(dir, o)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	lost, err = checkQueues(log, l)
	if err == nil {
		err = appendMore(log)
	}
	err = errors.Join(err, views.check(log), log.Close())
	return lost, errors.Join(err, verify(ctx, dir))
}

func checkQueues(log *store.Log, l *Ledger) (lost int64, err error) {
	if refusing := log.Status().Refusing; refusing != nil {
		return 0, fmt.Errorf("the log refuses appends: %w", refusing)
	}
	for q := range Queues {
		first, end, err := readQueue(log, q)
		if err != nil {
			return lost, fmt.Errorf("queue %d, %d to %d: %w", q, first, end, err)
		}
		if first > l.Trim[q] {
			return lost, fmt.Errorf("queue %d begins at %d, retention was let at what is below %d only", q, first, l.Trim[q])
		}
		lost += max(0, l.Acked[q]-end)
	}
	return lost, nil
}

// appendMore appends a batch to each queue.
func appendMore(log *store.Log) error {
	for q := range Queues {
		_, end := log.Bounds(queueKey(q))
		c, err := appendWait(log, record(q, end, 2))
		if err != nil || c.BaseOffset != end {
			return fmt.Errorf("append to queue %d at %d: got offset %d, %w", q, end, c.BaseOffset, err)
		}
		if _, got, err := readQueue(log, q); err != nil || got != end+2 {
			return fmt.Errorf("queue %d ends at %d after an append at %d: %w", q, got, end, err)
		}
	}
	return nil
}

func appendWait(log *store.Log, r store.Record) (store.Committed, error) {
	type answer struct {
		c   store.Committed
		err error
	}
	answers := make(chan answer, 1)
	if err := log.Append(r, func(c store.Committed, err error) { answers <- answer{c, err} }); err != nil {
		return store.Committed{}, err
	}
	a := <-answers
	return a.c, a.err
}

// views are what a log hands its records to.
type views struct {
	first, last uint64
	ends        map[store.QueueKey]int64
}

// apply expects every record once, and no offset of a queue twice.
func (v *views) apply(c store.Committed) error {
	if v.first == 0 {
		v.first, v.last, v.ends = c.Index, c.Index-1, map[store.QueueKey]int64{}
	}
	if c.Index != v.last+1 {
		return fmt.Errorf("record %d comes after record %d", c.Index, v.last)
	}
	v.last = c.Index
	if end, ok := v.ends[c.Queue]; ok && c.BaseOffset != end {
		return fmt.Errorf("record %d of queue %d begins at offset %d, the one before it ends at %d", c.Index, c.Queue.Queue, c.BaseOffset, end)
	}
	v.ends[c.Queue] = c.BaseOffset + int64(c.Count)
	return nil
}

// check compares what came with what the log has. It is called when nothing is
// being appended.
func (v *views) check(log *store.Log) error {
	if s := log.Status(); v.first != s.FirstIndex || v.last != s.LastIndex {
		return fmt.Errorf("the views got records %d to %d, the log has %d to %d", v.first, v.last, s.FirstIndex, s.LastIndex)
	}
	return nil
}

func verify(ctx context.Context, dir string) error {
	var errs []error
	err := store.Verify(ctx, dir, func(r store.SegmentReport) { errs = append(errs, r.Err) })
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return nil
}
