package consumer

import (
	"fmt"
	"slices"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// pullWait is how long a broker keeps a pull when there is nothing
	// (RocketMQ: brokerSuspendMaxTimeMillis, 20 s).
	pullWait = 20 * time.Second
	// pullBytes is the most that one pull asks for.
	pullBytes = 1 << 20
	// pullsAtOnce is over how many pulls the queues of a broker are spread of which
	// it has more: while one is answered others cross the network and are decoded.
	// Above it there is nothing to gain.
	pullsAtOnce = 8
)

// draft is a pull to be made: of the queues, in the order of the request.
type draft struct {
	broker  string
	queues  []*processQueue
	spread  bool // of queues that the broker has more of
	request protocol.PullRequest
	filters []*topicFilter // those of the request
}

// draft makes a pull of queues of a broker that have room and are in no other
// pull: of some of those known to have more, as long as there may be another pull
// of such, else of all others. Next is when a queue that is being left alone may
// be pulled. Queues come in random order, so
// that none is always served first.
func (b *buffer) draft(broker string, now time.Time) (d draft, next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	share, all := b.shareLocked(), 0
	var behind, others []*processQueue
	for _, h := range b.queues {
		if h.queue.Broker != broker {
			continue
		}
		all++
		switch {
		case h.pulling || !h.room(share):
		case h.retryAt.After(now):
			if next.IsZero() || h.retryAt.Before(next) {
				next = h.retryAt
			}
		case h.behind:
			behind = append(behind, h.processQueue)
		default:
			others = append(others, h.processQueue)
		}
	}
	d.broker, d.queues = broker, others
	if len(behind) > 0 && b.spread[broker] < pullsAtOnce {
		b.spread[broker]++
		d.spread, d.queues = true, behind[:min(len(behind), (all+pullsAtOnce-1)/pullsAtOnce)]
	}
	d.ask(share.half())
	d.sift(b.filters)
	return d, next
}

// ask makes the request. Each queue has so much room.
func (d *draft) ask(room bounds) {
	for _, q := range d.queues {
		q.pulling = true
		d.request.Queues = append(d.request.Queues, protocol.PullQueue{
			Topic: q.queue.Topic, Queue: q.queue.ID, Offset: q.window.next, Fence: q.fence,
		})
	}
	d.request.WaitMillis = pullWait.Milliseconds()
	d.request.MaxBytes = int64(min(room.bytes*max(len(d.queues), 1), pullBytes))
	d.request.MaxCount = int64(room.count)
}

// pulled is what a pull brought for one queue.
type pulled struct {
	queue    *processQueue
	items    []item
	next     int64
	min, end int64
	bytes    int
	err      error
}

// decode turns the answer into messages. It works without a lock.
func (d *draft) decode(resp *protocol.PullResponse, broker string) []pulled {
	list := make([]pulled, 0, len(resp.Queues))
	for _, r := range resp.Queues {
		if r.Index >= len(d.queues) {
			continue
		}
		p := pulled{queue: d.queues[r.Index], next: r.Next, min: r.Min, end: r.End, bytes: len(r.Batches)}
		if len(resp.Queues) > 1 {
			r.Batches = slices.Clone(r.Batches) // so that a slow queue does not keep the others' memory
		}
		if r.Err != nil {
			p.err = r.Err
		} else {
			p.items, p.err = decodeBatches(r.Batches, broker)
			p.items = d.wanted(r.Index, p.items)
		}
		list = append(list, p)
	}
	return list
}

// decodeBatches decodes into the items themselves, which are made at once: a
// message is large beside a short body, and to move it costs more than to decode
// it.
func decodeBatches(b []byte, broker string) ([]item, error) {
	n, err := batch.VerifyAll(b)
	items := make([]item, 0, n)
	place := func() *message.Stored {
		items = items[:len(items)+1]
		return &items[len(items)-1].Stored
	}
	for err == nil && len(b) > 0 {
		b, err = batch.DecodeVerified(b, broker, place)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.Damaged, err)
	}
	return items, nil
}

// landed ends a pull: its queues may be part of the next.
func (b *buffer) landed(d draft) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range d.queues {
		q.pulling = false
	}
	if d.spread {
		b.spread[d.broker]--
	}
}

// admit takes in what a pull brought for a queue. It reports whether the queue
// has moved on; an answer for a queue that was lost meanwhile does nothing.
func (b *buffer) admit(p pulled) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.holdingLocked(p.queue)
	if h == nil {
		return true
	}
	before := h.window.next
	h.admit(p.items, p.next, p.bytes)
	h.failures, h.behind = 0, p.next < p.end
	if h.window.next == before && h.state == queueOpen {
		return false
	}
	b.takeTurnLocked(h)
	signal(b.ready) // also without a message: a reader may wait for the position
	return true
}

// jump goes on where the queue has messages, after the offset that was asked
// for is out of its range. It returns where that is.
func (b *buffer) jump(p pulled) (from, to int64, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.holdingLocked(p.queue)
	if h == nil {
		return 0, 0, true
	}
	from = h.window.next
	switch {
	case from < p.min:
		h.window.skip(p.min)
		signal(b.ready)
		return from, p.min, true
	case from > p.end:
		b.restartLocked(h, p.end)
		return from, p.end, true
	default:
		return from, from, false
	}
}

// leaveAlone puts the next pull of a queue off. It returns how often in a row
// the pulls of the queue have failed.
func (b *buffer) leaveAlone(q *processQueue, now time.Time) (failures int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.failures++
	q.retryAt = now.Add(doubled(queueRetryFirst, queueRetryMost, q.failures))
	return q.failures
}

// confirm ends what leaveAlone began: the broker says that the queue is ours.
func (b *buffer) confirm(queue message.Queue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.queues[queue]; h != nil && !h.retryAt.IsZero() {
		h.retryAt = time.Time{}
		signal(h.fetcher)
	}
}

// shareLocked is what each queue may hold: an equal part of the bytes, so that
// one whose handlers hang does not starve the others.
func (b *buffer) shareLocked() bounds {
	return bounds{count: b.bounds.count, bytes: b.bounds.bytes / max(len(b.queues), 1)}
}

// roomLocked reports whether the queue may be pulled.
func (b *buffer) roomLocked(h *holding) bool { return h.room(b.shareLocked()) }
