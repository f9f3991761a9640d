package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// maxBuried is how many messages of a queue one pop makes dead letters.
	maxBuried = 32
	// tellAfterPassed is how many messages that a filter does not let through a pop
	// keeps to itself until it ends: so far a group's offset may be behind.
	tellAfterPassed = 1000
)

// draft is what a pop takes of one queue, from the choice to the record applied.
type draft struct {
	queue   *poppedQueue
	claim   *claim
	handout pop.Handout
	offsets []int64 // of what is handed out, ascending
	batches []byte
	looked  int64 // others need not look at the queue before
	err     error
	done    chan landing // nil: nothing was to be written
}

// landing is the outcome of a record.
type landing struct {
	index uint64
	err   error
}

// take chooses messages of a queue, and appends the record that hands them out. So
// many queues are left, this one included.
func (o *popping) take(ctx context.Context, q *poppedQueue, c *claim, left int) *draft {
	f := &draft{queue: q, claim: c}
	if f.err = o.free(ctx, q.key); f.err == nil {
		f.err = o.choose(ctx, f, left)
	}
	if len(f.offsets) == 0 && (f.err != nil || !o.worthTelling(f)) {
		return f
	}
	o.send(f)
	return f
}

// free looks whether the queue is nobody's. The lease of a client that is gone is
// ended.
func (o *popping) free(ctx context.Context, k pop.Key) error {
	if _, _, held := o.state.groups.Lease(k.Group, k.Topic, int(k.Queue)); !held {
		return nil
	}
	return o.clients.endDeadLease(ctx, k)
}

// choose decides what is handed out: what is due again, and then what nobody has
// looked at.
func (o *popping) choose(ctx context.Context, f *draft, left int) error {
	from, err := o.begin(f)
	if err != nil {
		return refusal(err)
	}
	k := picker{
		filter: f.queue.filter, busy: func(lane uint32) bool { return o.state.pops.Busy(f.queue.key, lane) },
		from: from, count: o.count, room: o.bytes, some: o.bytes < int(o.request.MaxBytes), behind: maxBehind,
	}
	if p, ok := o.state.pops.Progress(f.queue.key); ok {
		k.behind = max(maxBehind-p.Waiting, 0)
	}
	err = o.chooseDue(ctx, f, &k)
	if k.count > 0 {
		err = cmp.Or(err, o.chooseFresh(f, &k, left))
	} else {
		f.looked = from
	}
	f.offsets = append(slices.Clone(f.handout.Again), k.offsets...)
	o.count, o.bytes = k.count, max(k.room, 0)
	return err
}

// begin fills in how things are, and returns the first offset that nobody has looked
// at.
func (o *popping) begin(f *draft) (from int64, err error) {
	h, key := &f.handout, f.queue.key
	*h = pop.Handout{Key: key, Committed: o.state.groups.Committed(key.Group, key.Topic, int(key.Queue)), InvisibleMillis: o.request.InvisibleMillis}
	var end int64
	h.First, end = o.state.log.Bounds(f.queue.store)
	p, known := o.state.pops.Progress(key)
	if known {
		h.After, from = p.Last, p.Next
		if q := f.queue.passed; q.after == p.Last && q.after != 0 {
			from = max(from, q.next)
		}
	} else {
		at := group.Progress{Committed: h.Committed, Client: o.request.ClientID}
		from, err = o.state.next(f.queue.store, at, o.clients.starts(key.Group))
	}
	from = max(min(from, end), h.First)
	if !known {
		h.First = from
	}
	h.Next, f.looked = from, end
	return from, err
}

// chooseDue takes messages whose time is over, those due longest first, and makes
// dead letters of those that were handed out often enough.
func (o *popping) chooseDue(ctx context.Context, f *draft, k *picker) error {
	due := o.state.pops.Due(f.queue.key, o.now().UnixMilli(), k.count+maxBuried)
	due = slices.DeleteFunc(due, func(m pop.Message) bool { return m.Offset < f.handout.First })
	alive := due[:0]
	var spent []pop.Message
	for _, m := range due {
		if m.Attempts > group.RetryMax(o.config) {
			spent = append(spent, m)
		} else {
			alive = append(alive, m)
		}
	}
	err := o.bury(ctx, f.queue, spent[:min(len(spent), maxBuried)])
	alive = alive[:min(len(alive), k.count)]
	slices.SortFunc(alive, func(a, b pop.Message) int { return cmp.Compare(a.Offset, b.Offset) })
	var unread error
	f.batches, f.handout.Again, unread = k.again(o.state.log, f.queue.store, alive)
	return cmp.Or(err, refusal(unread))
}

// chooseFresh takes messages that nobody has looked at.
func (o *popping) chooseFresh(f *draft, k *picker, left int) (err error) {
	if k.from >= f.looked {
		return nil
	}
	var batches []byte
	var next int64
	o.budget.Spend(left, func(part *store.Budget) {
		k.budget = part
		batches, next, err = k.pick(o.state.log, f.queue.store)
	})
	switch {
	case errors.Is(err, store.ErrOutOfRange): // retention was quicker
		return nil
	case err != nil:
		return refusal(err)
	}
	if !k.blocked {
		f.looked = next // others may take what is behind
	}
	f.batches, f.handout.Fresh, f.handout.Next = append(f.batches, batches...), k.runs, next
	return nil
}

// worthTelling reports whether a record is to be written though it hands nothing out:
// it says where the group begins, messages wait for their lanes, retention has dropped
// some that were unfinished, or many were passed over. What is not told the pop
// remembers.
func (o *popping) worthTelling(f *draft) bool {
	h := &f.handout
	p, known := o.state.pops.Progress(f.queue.key)
	if !known || len(h.Fresh) > 0 || p.Floor < h.First && p.Unfinished > 0 || h.Next-p.Next >= tellAfterPassed {
		return true
	}
	if h.Next > p.Next {
		f.queue.passed, o.untold = passed{after: p.Last, next: h.Next}, true
	}
	return false
}

// send appends the record.
func (o *popping) send(f *draft) {
	done := make(chan landing, 1)
	r := store.Record{Type: store.PopRecord, Data: pop.EncodeHandout(&f.handout)}
	if err := o.state.log.Append(r, func(c store.Committed, err error) { done <- landing{c.Index, err} }); err != nil {
		f.err = refusal(err)
		return
	}
	f.done, f.claim.wrote = done, true
}

// land waits until the record is applied, and tells what it has handed out. It does
// not end with the request: the outcome is needed for the next pop.
func (o *popping) land(f *draft) protocol.PoppedQueue {
	got := protocol.PoppedQueue{Topic: f.queue.topic, Queue: int(f.queue.key.Queue)}
	defer o.release(f.claim, f.looked)
	if f.done != nil {
		at := <-f.done
		f.err = outcome(at.err)
		if f.err == nil {
			got.Fence, f.queue.passed = at.index, passed{}
			for _, m := range o.state.pops.HandedOut(f.queue.key, at.index, f.offsets) {
				got.Messages = append(got.Messages, protocol.PoppedMessage{Offset: m.Offset, Attempt: m.Attempts})
			}
		}
	}
	switch {
	case len(got.Messages) > 0:
		got.Batches = f.batches
		o.state.meters.Reader(f.queue.key.Group, f.queue.key.Topic).Given(len(got.Messages), len(f.batches))
	case f.err != nil:
		got.Err = protocol.AsError(f.err)
	}
	return got
}

// complete tells what was passed over, as the pop ends or has waited for a while.
func (o *popping) complete(resp *protocol.PopResponse) *protocol.PopResponse {
	o.untold = false
	for i := range o.queues {
		q := &o.queues[i]
		p, _ := o.state.pops.Progress(q.key)
		if q.passed.after == 0 || q.passed.after != p.Last || q.passed.next <= p.Next {
			continue
		}
		if c := o.claim(q.key); c != nil {
			f := &draft{queue: q, claim: c, looked: q.passed.next}
			f.handout = pop.Handout{Key: q.key, After: p.Last, Committed: p.Floor, First: p.Floor, Next: q.passed.next}
			o.send(f)
			o.land(f)
		}
	}
	return resp
}

// bury makes dead letters of messages, and finishes them. One that fails holds up no
// other; the error is that of the first.
func (o *popping) bury(ctx context.Context, q *poppedQueue, spent []pop.Message) (err error) {
	for _, m := range spent {
		err = cmp.Or(err, o.buryOne(ctx, q, m))
	}
	return err
}

func (o *popping) buryOne(ctx context.Context, q *poppedQueue, m pop.Message) error {
	original, err := o.backs.at(q.store, m.Offset)
	if err != nil {
		return err
	}
	r := &protocol.SendBackRequest{
		Group: q.key.Group, ClientID: o.request.ClientID, Topic: o.request.Topics[q.topic].Topic, Queue: int(q.key.Queue), Offset: m.Offset,
		Fence: m.Fence, Attempts: m.Attempts, Error: fmt.Sprintf("it was handed out %d times and never acknowledged", m.Attempts),
	}
	if _, err := o.backs.bury(ctx, r, original); err != nil {
		return err
	}
	done := pop.Ack{Key: q.key, Sets: []pop.Set{{Fence: m.Fence, Offsets: []int64{m.Offset}}}}
	return o.state.append(ctx, store.Record{Type: store.AckRecord, Data: pop.EncodeAck(&done)})
}
