package broker

import (
	"sync/atomic"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// maxSendBatches bounds the batches of one request.
const maxSendBatches = 4096

// sender takes messages. It answers a request when the last of its batches is
// on disk or refused; each batch has a result of its own.
type sender struct{ state *state }

func (s *sender) register(m *transport.Mux) { m.HandleAsync(protocol.SendMessage, s.sendMessage) }

// sending is a request whose batches are on their way to the disk.
type sending struct {
	request *transport.Request
	results []protocol.SendResult
	left    atomic.Int32
}

// sendMessage runs on the connection's receiving goroutine and does not block:
// batches of one connection are appended in the order they came.
func (s *sender) sendMessage(r *transport.Request) {
	batches, err := split(r.Payload)
	if err != nil {
		r.Fail(err)
		return
	}
	q := &sending{request: r, results: make([]protocol.SendResult, len(batches))}
	q.left.Store(int32(len(batches)))
	for i, b := range batches {
		if err := s.append(q, i, b); err != nil {
			q.finish(i, protocol.SendResult{Err: protocol.AsError(err)})
		}
	}
}

// split cuts a request into its batches by their headers.
func split(payload []byte) (batches [][]byte, err error) {
	for rest := payload; len(rest) > 0; {
		h, err := batch.ParseHeader(rest)
		if err != nil {
			return nil, protocol.Errorf(protocol.IllegalMessage, "batch %d: %v", len(batches), err)
		}
		if len(batches) == maxSendBatches {
			return nil, protocol.Errorf(protocol.IllegalMessage, "more than %d batches in a request", maxSendBatches)
		}
		batches = append(batches, rest[:h.Length])
		rest = rest[h.Length:]
	}
	if len(batches) == 0 {
		return nil, protocol.Errorf(protocol.IllegalMessage, "a request without batches")
	}
	return batches, nil
}

func (s *sender) append(q *sending, i int, b []byte) error {
	h, err := batch.Check(b)
	if err != nil {
		return protocol.Errorf(protocol.IllegalMessage, "%v", err)
	}
	key, err := s.writable(h.Topic, h.Queue)
	if err != nil {
		return err
	}
	r := store.Record{Type: store.BatchRecord, Queue: key, Count: uint32(h.Count), TagHash: h.TagHash, Data: b}
	return refusal(s.state.log.Append(r, func(c store.Committed, err error) {
		result := protocol.SendResult{BaseOffset: c.BaseOffset, StoreMillis: c.StoreMillis}
		if err != nil {
			result = protocol.SendResult{Err: protocol.AsError(refusal(err))}
		}
		q.finish(i, result)
	}))
}

// finish sets one result; the last one sends the answer.
func (q *sending) finish(i int, r protocol.SendResult) {
	q.results[i] = r
	if q.left.Add(-1) == 0 {
		q.request.Reply(&protocol.SendResponse{Results: q.results})
	}
}

func (s *sender) writable(name string, queue int) (store.QueueKey, error) {
	if message.IsReserved(name) {
		return store.QueueKey{}, protocol.Errorf(protocol.NoPermission, "topic %q is reserved for the broker", name)
	}
	t, err := s.state.topic(name)
	switch {
	case err != nil:
		return store.QueueKey{}, err
	case !t.Perm.CanWrite():
		return store.QueueKey{}, protocol.Errorf(protocol.NoPermission, "topic %q is not writable", name)
	}
	return queueOf(t, queue, t.WriteQueues)
}
