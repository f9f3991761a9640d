package broker

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// querier finds messages by key, id or log index. The store's index names
// batches that may have them; the messages themselves are looked at here.
type querier struct{ state *state }

func (q *querier) register(m *transport.Mux) { transport.Handle(m, q.queryMessages) }

func (q *querier) queryMessages(ctx context.Context, r *protocol.QueryMessagesRequest) (*protocol.QueryMessagesResponse, error) {
	if r.Max < 1 || r.Max > protocol.MaxQueryMessages {
		return nil, protocol.Errorf(protocol.InvalidArgument, "query of %d messages; 1 to %d are allowed", r.Max, protocol.MaxQueryMessages)
	}
	switch {
	case r.ID != "":
		return q.byID(ctx, r)
	case r.LogIndex != 0:
		return q.collect(ctx, r, []uint64{r.LogIndex}, nil, func(*message.Stored) bool { return true })
	case r.Topic != "" && r.Key != "":
		return q.byKey(ctx, r)
	}
	return nil, protocol.Errorf(protocol.InvalidArgument, "a query needs a topic and a key, an id, or a log index")
}

func (q *querier) byID(ctx context.Context, r *protocol.QueryMessagesRequest) (*protocol.QueryMessagesResponse, error) {
	id, err := message.ParseID(r.ID)
	if err != nil {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	found, damage := q.state.log.ByID(id)
	found = slices.DeleteFunc(found, func(i uint64) bool { return r.Before != 0 && i >= r.Before })
	return q.collect(ctx, r, found, damage, func(m *message.Stored) bool {
		return m.ID == id && (r.Topic == "" || m.Topic == r.Topic)
	})
}

func (q *querier) byKey(ctx context.Context, r *protocol.QueryMessagesRequest) (*protocol.QueryMessagesResponse, error) {
	t, err := q.state.topic(r.Topic)
	if err != nil {
		return nil, err
	}
	found, damage := q.state.log.ByKey(t.ID, r.Key, r.Before, protocol.MaxQueryMessages)
	return q.collect(ctx, r, found, damage, func(m *message.Stored) bool {
		return m.Topic == r.Topic && slices.Contains(m.Keys, r.Key)
	})
}

// hit is what a query finds in a record.
type hit struct {
	queue   store.QueueKey
	end     int64 // the offset behind the record
	count   int
	batches []byte
}

// collect reads the records, newest first, until enough messages match. When it
// ends early, or found may not be all that there is, Next says where to go on.
func (q *querier) collect(ctx context.Context, r *protocol.QueryMessagesRequest, found []uint64, damage error, match func(*message.Stored) bool) (*protocol.QueryMessagesResponse, error) {
	resp := &protocol.QueryMessagesResponse{}
	var failures []string
	if damage != nil {
		failures = append(failures, damage.Error())
	}
	room := func(count, bytes int) bool { return count < r.Max && bytes <= protocol.MaxPullBytes-batch.MaxBytes }
	count, rest := 0, found
	for len(rest) > 0 && room(count, len(resp.Batches)) {
		var hits []hit
		n, bytes := count, len(resp.Batches) // if nothing is hidden
		q.state.log.Records(rest, func(record store.Committed, err error) bool {
			rest = rest[1:]
			var h hit
			if err == nil {
				h, err = hitIn(record, match)
			}
			if err != nil && !errors.Is(err, store.ErrOutOfRange) && !slices.Contains(failures, err.Error()) { // records that share their damage say the same
				failures = append(failures, err.Error())
			}
			if h.count > 0 {
				hits = append(hits, h)
				n, bytes = n+h.count, bytes+len(h.batches)
			}
			return ctx.Err() == nil && room(n, bytes)
		})
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		count += q.add(resp, hits)
	}
	if len(rest) > 0 || len(found) == protocol.MaxQueryMessages {
		resp.Next = found[len(found)-len(rest)-1]
	}
	resp.Damage = strings.Join(failures, "; ")
	return resp, nil
}

// add appends what retention has not hidden, and returns how many messages that is.
// To know it may take a look into the log, which those who read records must not wait
// for.
func (q *querier) add(resp *protocol.QueryMessagesResponse, hits []hit) (count int) {
	for _, h := range hits {
		if first, _ := q.state.log.Bounds(h.queue); h.end > first {
			resp.Batches = append(resp.Batches, h.batches...)
			count += h.count
		}
	}
	return count
}

// hitIn is what matches in a record. It keeps nothing of the record's data.
func hitIn(r store.Committed, match func(*message.Stored) bool) (hit, error) {
	matches, err := matching(r, match)
	if err != nil || len(matches) == 0 {
		return hit{}, err
	}
	return hit{queue: r.Queue, end: r.BaseOffset + int64(r.Count), count: len(matches), batches: smallest(matches, r)}, nil
}

func matching(r store.Committed, match func(*message.Stored) bool) ([]message.Stored, error) {
	if r.Type != store.BatchRecord {
		return nil, nil
	}
	all, _, err := batch.Decode(nil, r.Data, "")
	return slices.DeleteFunc(all, func(m message.Stored) bool { return !match(&m) }), err
}

// smallest is the messages one by one, the last one first, or the batch that
// they were stored in where that is smaller: an answer that has it fits a frame
// however many messages of the batch match.
func smallest(messages []message.Stored, r store.Committed) []byte {
	var singles []byte
	for _, m := range slices.Backward(messages) {
		if singles = appendSingle(singles, m, r); len(singles) > len(r.Data) {
			return slices.Clone(r.Data)
		}
	}
	return singles
}

// appendSingle encodes one message as a batch that says where it is stored.
func appendSingle(dst []byte, m message.Stored, r store.Committed) []byte {
	b := batch.NewBuilder(m.Topic, m.Queue.ID)
	b.Add(&m.Message)
	single := b.Finish()
	batch.SetStored(single, r.Index, m.QueueOffset, r.StoreMillis, 1)
	return append(dst, single...)
}
