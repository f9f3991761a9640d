package broker

import (
	"context"
	"errors"
	"slices"

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

// collect reads the batches, newest first, until enough messages match. When it
// ends early, or not all that match were asked for, Next says where to go on.
func (q *querier) collect(ctx context.Context, r *protocol.QueryMessagesRequest, found []uint64, damage error, match func(*message.Stored) bool) (*protocol.QueryMessagesResponse, error) {
	resp := &protocol.QueryMessagesResponse{}
	count := 0
	for i, index := range found {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		record, err := q.state.log.Record(index)
		if err != nil {
			damage = errors.Join(damage, err)
			continue
		}
		matches, err := matching(record, match)
		if err != nil {
			damage = errors.Join(damage, err)
			continue
		}
		for _, m := range matches {
			resp.Batches = appendSingle(resp.Batches, m, record)
		}
		count += len(matches)
		if more := i+1 < len(found) || len(found) == protocol.MaxQueryMessages; more &&
			(count >= r.Max || len(resp.Batches) > protocol.MaxPullBytes-batch.MaxBytes || i+1 == len(found)) {
			resp.Next = index
			break
		}
	}
	if damage != nil {
		resp.Damage = damage.Error()
	}
	return resp, nil
}

func matching(r store.Committed, match func(*message.Stored) bool) ([]message.Stored, error) {
	if r.Type != store.BatchRecord {
		return nil, nil
	}
	all, _, err := batch.Decode(nil, r.Data, "")
	return slices.DeleteFunc(all, func(m message.Stored) bool { return !match(&m) }), err
}

// appendSingle encodes one message as a batch that says where it is stored.
func appendSingle(dst []byte, m message.Stored, r store.Committed) []byte {
	b := batch.NewBuilder(m.Topic, m.Queue.ID)
	b.Add(&m.Message)
	single := b.Finish()
	batch.SetStored(single, r.Index, m.QueueOffset, r.StoreMillis, 1)
	return append(dst, single...)
}
