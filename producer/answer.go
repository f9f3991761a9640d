package producer

import (
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// answer is news for callbacks: a parcel that is stored, or sends that failed.
type answer struct {
	parcel   *parcel
	first    Receipt // of the parcel's first message
	origin   uint64  // of what is held back
	failures []outcome
}

// answers hands news to the callbacks, one at a time, on a goroutine of its
// own: a slow callback holds up other callbacks and nothing else.
type answers struct {
	wake chan struct{}

	mu   sync.Mutex
	list []answer
}

func (a *answers) push(news answer) {
	a.mu.Lock()
	a.list = append(a.list, news)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *answers) take(spare []answer) []answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := a.list
	a.list = spare
	return list
}

// runAnswers calls callbacks until stop is closed and nothing is left.
func (p *Producer) runAnswers(stop <-chan struct{}) {
	var list []answer
	for {
		list = p.answers.take(list[:0])
		for i := range list {
			p.callBack(&list[i])
		}
		clear(list)
		if len(list) > 0 {
			continue
		}
		select {
		case <-p.answers.wake:
		case <-stop:
			if list = p.answers.take(nil); len(list) == 0 {
				return
			}
			for i := range list {
				p.callBack(&list[i])
			}
		}
	}
}

// callBack gives the bytes back first, so that a callback may send.
func (p *Producer) callBack(news *answer) {
	if news.parcel == nil {
		p.callBackFailures(news.failures)
		return
	}
	entries := news.parcel.entries
	p.release(entries)
	for i := range entries {
		if e := &entries[i]; e.done != nil && !e.finished {
			e.done(news.first.at(i, e.id, news.origin), nil)
		}
	}
	p.recycle(news.parcel)
}

func (p *Producer) callBackFailures(failures []outcome) {
	for i := range failures {
		f := &failures[i]
		p.budget.release(int64(f.size))
		f.done(f.receipt(), f.err)
		f.epoch.leave(1)
	}
}

// at is the receipt of a message with its place in the parcel. An origin is that
// of messages that the broker holds back; Offset is then -1 less the place of the
// first among them.
func (r Receipt) at(i int, id message.ID, origin uint64) Receipt {
	r.MessageID = id
	if origin != 0 {
		r.RecallHandle = heldHandle(r.Queue, id, origin, i+int(-1-r.Offset)).String()
		r.Offset = -1
		return r
	}
	r.Offset += int64(i)
	return r
}

// stored answers those who wait for a parcel: calls at once, callbacks on their
// goroutine.
func (p *Producer) stored(q *queue, b *parcel, r protocol.SendResult) {
	first := Receipt{Queue: q.Queue, Offset: r.BaseOffset, StoreTime: time.UnixMilli(r.StoreMillis), Duplicate: r.Duplicate}
	if r.Duplicate {
		first.Queue.ID = r.Queue
	}
	if b.sequence.Again {
		p.doubts.settle(b.entries[0].id)
	}
	for i := range b.entries {
		e := &b.entries[i]
		if e.finished || e.call == nil && e.trace == nil {
			continue
		}
		receipt := first.at(i, e.id, r.Index)
		p.traced(e.trace, receipt, nil)
		if e.call != nil {
			e.call.complete(e.index, receipt, nil)
		}
	}
	if b.async {
		p.answers.push(answer{parcel: b, first: first, origin: r.Index})
		return
	}
	p.release(b.entries)
	p.recycle(b)
}

// release gives back the bytes of what was not answered before.
func (p *Producer) release(entries []entry) {
	size := 0
	for i := range entries {
		if !entries[i].finished {
			size += entries[i].size
		}
	}
	p.budget.release(int64(size))
}

// recycle counts a parcel's sends out and keeps its memory for another.
func (p *Producer) recycle(b *parcel) {
	for i := 0; i < len(b.entries); {
		e, n := b.entries[i].epoch, int64(0)
		for ; i < len(b.entries) && b.entries[i].epoch == e; i++ {
			if !b.entries[i].finished {
				n++
			}
		}
		if n > 0 {
			e.leave(n)
		}
	}
	clear(b.entries)
	b.entries = b.entries[:0]
	p.parcels.Put(b)
}

// receipt is what a failed send leaves: a message that may be stored may be so
// in its queue only.
func (f *outcome) receipt() Receipt {
	r := Receipt{MessageID: f.id}
	if f.sent && f.queue != nil {
		r.Queue = f.queue.Queue
	}
	return r
}

// fail answers sends that failed in a queue.
func (p *Producer) fail(q *queue, failures []outcome) {
	var callbacks []outcome
	for i := range failures {
		f := &failures[i]
		f.err, f.queue = sendError(f.m.Topic, q.Broker, f.err), q
		if f.sent && f.number.known {
			p.doubts.enter(f.id, doubt{q, f.number})
		}
		p.traced(f.trace, f.receipt(), f.err)
		if f.done == nil {
			p.budget.release(int64(f.size))
		}
		if f.call != nil {
			f.call.complete(f.index, f.receipt(), f.err)
		}
		switch {
		case f.done != nil:
			callbacks = append(callbacks, *f)
			continue
		case f.call == nil:
			p.logLost(f.m.Topic, f.id, f.err)
		}
		f.epoch.leave(1)
	}
	if len(callbacks) > 0 {
		p.answers.push(answer{failures: callbacks})
	}
}
