//go:build linux

package churn

import (
	"math"
	"path/filepath"

	"github.com/rmqio/rmq/broker"
	brokergroup "github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
)

// span is a lease, from its record to the record of its end. Times of records are
// whole milliseconds, given here in microseconds.
type span struct {
	member   string
	fence    uint64
	from, to int64
}

const forEver = math.MaxInt64

// commit is a row of offsets in the log.
type commit struct {
	queue  int
	offset int64
	fence  uint64
	when   int64
	// counted says that by the rules the group's offset moved.
	counted bool
}

// ledger is what the broker's log says, by the plainest reading of the rules: a
// queue has one owner, and only its owner's commits count.
type ledger struct {
	spans     map[int][]span // by queue, in their order
	commits   []commit
	committed map[int]int64
}

// ReadLog takes what the log of a stopped server says into the history. Data is the
// server's folder.
func (h *History) ReadLog(data string) error {
	h.ledger = ledger{spans: map[int][]span{}, committed: map[int]int64{}}
	log, err := store.Open(filepath.Join(data, broker.LogDir), store.Options{Apply: h.ledger.apply})
	if err != nil {
		return err
	}
	return log.Close()
}

func (l *ledger) apply(r store.Committed) error {
	switch r.Type {
	case store.LeasesRecord:
		leases, err := brokergroup.DecodeLeases(r.Data)
		if err != nil || leases.Group != group {
			return err
		}
		for _, q := range leases.Queues {
			l.lease(q, leases, r)
		}
	case store.OffsetsRecord:
		name, rows, err := brokergroup.DecodeOffsets(r.Data)
		if err != nil || name != group {
			return err
		}
		for _, o := range rows {
			l.commit(o, r.StoreMillis)
		}
	}
	return nil
}

// current is the lease of a queue that has not ended.
func (l *ledger) current(queue int) *span {
	spans := l.spans[queue]
	if n := len(spans); n > 0 && spans[n-1].to == forEver {
		return &spans[n-1]
	}
	return nil
}

func (l *ledger) lease(queue int, leases brokergroup.Leases, r store.Committed) {
	now := r.StoreMillis * 1000
	held := l.current(queue)
	switch {
	case leases.Release && held != nil && (leases.Client == "" || leases.Client == held.member):
		held.to = now
	case !leases.Release && held == nil:
		l.spans[queue] = append(l.spans[queue], span{member: leases.Client, fence: r.Index, from: now, to: forEver})
	}
}

func (l *ledger) commit(o brokergroup.Offset, millis int64) {
	c := commit{queue: o.Queue, offset: o.Offset, fence: o.Fence, when: millis * 1000}
	if held := l.current(o.Queue); held != nil && held.fence == o.Fence && o.Offset > l.committed[o.Queue] {
		l.committed[o.Queue] = o.Offset
		c.counted = true
	}
	l.commits = append(l.commits, c)
}

// spanOf is the lease under which a member did something at a time.
func (l *ledger) spanOf(queue int, member string, when int64) *span {
	millis := when / 1000 * 1000
	for i, s := range l.spans[queue] {
		if s.member == member && s.from <= millis && millis <= s.to {
			return &l.spans[queue][i]
		}
	}
	return nil
}

// byFence is the lease that had a fence.
func (l *ledger) byFence(queue int, fence uint64) *span {
	for i, s := range l.spans[queue] {
		if s.fence == fence {
			return &l.spans[queue][i]
		}
	}
	return nil
}
