package broker

import (
	"sync/atomic"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// maxSendBatches bounds the batches of one request.
const maxSendBatches = 4096

// sender takes messages. It answers a request when the last of its batches is
// on disk or refused; each batch has a result of its own.
type sender struct {
	state        *state
	quotas       *quotas
	timers       *timers
	transactions *transactions
}

func (s *sender) register(m *transport.Mux) { m.HandleAsync(protocol.SendMessage, s.sendMessage) }

// sending is a request whose batches are on their way to the disk.
type sending struct {
	request       *transport.Request
	client, group string // who sends
	results       []protocol.SendResult
	left          atomic.Int32
}

// parcel is one batch on its way. Once it is checked it has its topic, and who is
// told the outcome.
type parcel struct {
	batch.Header
	bytes         []byte
	topic         topic.Topic
	queue         store.QueueKey
	client, group string
	done          func(protocol.SendResult) // called once; must not block
}

// sendMessage runs on the connection's receiving goroutine and does not block:
// batches of one connection are appended in the order they came.
func (s *sender) sendMessage(r *transport.Request) {
	var req protocol.SendRequest
	err := protocol.Unmarshal(r.Payload, &req)
	var parcels []parcel
	if err == nil {
		parcels, err = split(req.Batches)
	}
	if err != nil {
		r.Fail(err)
		return
	}
	q := &sending{request: r, client: req.ClientID, group: req.Group, results: make([]protocol.SendResult, len(parcels))}
	q.left.Store(int32(len(parcels)))
	for i := range parcels {
		if err := s.take(q, i, &parcels[i]); err != nil {
			q.finish(i, protocol.SendResult{Err: protocol.AsError(err)})
		}
	}
}

// split cuts a request into its batches by their headers.
func split(payload []byte) (parcels []parcel, err error) {
	for rest := payload; len(rest) > 0; {
		h, err := batch.ParseHeader(rest)
		if err != nil {
			return nil, protocol.Errorf(protocol.IllegalMessage, "batch %d: %v", len(parcels), err)
		}
		if len(parcels) == maxSendBatches {
			return nil, protocol.Errorf(protocol.IllegalMessage, "more than %d batches in a request", maxSendBatches)
		}
		if parcels == nil { // most batches of a request are of about one size
			parcels = make([]parcel, 0, min(len(payload)/h.Length+1, maxSendBatches))
		}
		parcels = append(parcels, parcel{Header: h, bytes: rest[:h.Length]})
		rest = rest[h.Length:]
	}
	if len(parcels) == 0 {
		return nil, protocol.Errorf(protocol.IllegalMessage, "a request without batches")
	}
	return parcels, nil
}

// take checks one batch and, unless it is known already, has it charged and
// placed. With an error nothing was done.
func (s *sender) take(q *sending, i int, p *parcel) (err error) {
	err = p.Check(p.bytes)
	switch {
	case err != nil:
		return protocol.Errorf(protocol.IllegalMessage, "%v", err)
	case p.Uses.Any&batch.UsesOrigin != 0:
		return protocol.Errorf(protocol.IllegalMessage, "only a broker says what a message is a copy of")
	case p.Release.Origin != 0:
		return protocol.Errorf(protocol.IllegalMessage, "only a broker releases messages that it held back")
	}
	if p.topic, p.queue, err = s.writable(p.Topic, p.Queue); err != nil {
		return err
	}
	p.client, p.group = q.client, q.group
	p.done = func(r protocol.SendResult) {
		s.count(p, &r)
		q.finish(i, r)
	}
	return s.state.once.take(p, s.charge)
}

// charge holds a new batch to its topic's type, counts it against the quotas, and
// has it placed. With an error nothing was done.
func (s *sender) charge(p *parcel) error {
	if err := checkKind(&p.topic, &p.Header); err != nil {
		return err
	}
	if err := s.quotas.charge(p); err != nil {
		return err
	}
	if err := s.place(p); err != nil {
		s.quotas.refund(p)
		return err
	}
	return nil
}

// place gives a batch to where its purpose says. With an error nothing was done.
func (s *sender) place(p *parcel) error {
	switch p.Purpose {
	case batch.ToQueue:
		return s.append(p)
	case batch.ToTimer:
		return s.timers.hold(p)
	case batch.ToTransaction:
		return s.transactions.hold(p)
	}
	return protocol.Errorf(protocol.IllegalMessage, "a batch of purpose %d", p.Purpose)
}

// append stores a batch in its queue.
func (s *sender) append(p *parcel) error {
	r := store.Record{Type: store.BatchRecord, Queue: p.queue, Count: uint32(p.Count), TagHash: p.TagHash, Data: p.bytes}
	return refusal(s.state.log.Append(r, func(c store.Committed, err error) { p.done(stored(c, err)) }))
}

// stored is the result of a batch that was appended to its queue.
func stored(c store.Committed, err error) protocol.SendResult {
	if err != nil {
		return protocol.SendResult{Err: protocol.AsError(outcome(err))}
	}
	return protocol.SendResult{BaseOffset: c.BaseOffset, StoreMillis: c.StoreMillis}
}

// count takes a batch that was stored into the metrics.
func (s *sender) count(p *parcel, r *protocol.SendResult) {
	if r.Err == nil && !r.Duplicate {
		s.state.meters.Stored(p.topic.ID, meterKind(&p.Header), p.Count, p.Length)
	}
}

// finish sets one result; the last one sends the answer.
func (q *sending) finish(i int, r protocol.SendResult) {
	q.results[i] = r
	if q.left.Add(-1) == 0 {
		q.request.Reply(&protocol.SendResponse{Results: q.results})
	}
}

func (s *sender) writable(name string, queue int) (topic.Topic, store.QueueKey, error) {
	if message.IsReserved(name) {
		return topic.Topic{}, store.QueueKey{}, protocol.Errorf(protocol.NoPermission, "topic %q is reserved for the broker", name)
	}
	t, err := s.state.topic(name)
	switch {
	case err != nil:
		return t, store.QueueKey{}, err
	case !t.Perm.CanWrite():
		return t, store.QueueKey{}, protocol.Errorf(protocol.NoPermission, "topic %q is not writable", name)
	}
	key, err := queueOf(t, queue, t.WriteQueues)
	return t, key, err
}
