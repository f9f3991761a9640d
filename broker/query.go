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

// collect reads the records, newest first, until enough messages match. When it
// ends early, or found may not be all that there is, Next says where to go on.
func (q *querier) collect(ctx context.Context, r *protocol.QueryMessagesRequest, found []uint64, damage error, match func(*message.Stored) bool) (*protocol.QueryMessagesResponse, error) {
	resp := &protocol.QueryMessagesResponse{}
	var failures []string
	if damage != nil {
		failures = append(failures, damage.Error())
	}
	count, seen := 0, 0
	q.state.log.Records(found, func(record store.Committed, err error) bool {
		n := 0
		if err == nil {
			n, err = q.add(resp, record, match)
		}
		if err != nil && !errors.Is(err, store.ErrOutOfRange) && !slices.Contains(failures, err.Error()) { // records that share their damage say the same
			failures = append(failures, err.Error())
		}
		count, seen = count+n, seen+1
		full := count >= r.Max || len(resp.Batches) > protocol.MaxPullBytes-batch.MaxBytes
		last := seen == len(found)
		if full && !last || last && len(found) == protocol.MaxQueryMessages {
			resp.Next = record.Index
			return false
		}
		return ctx.Err() == nil
	})
	resp.Damage = strings.Join(failures, "; ")
	return resp, ctx.Err()
}

// add appends what matches in one record and returns how many messages do. A
// record that retention has hidden has none.
func (q *querier) add(resp *protocol.QueryMessagesResponse, record store.Committed, match func(*message.Stored) bool) (int, error) {
	if first, _ := q.state.log.Bounds(record.Queue); record.BaseOffset+int64(record.Count) <= first {
		return 0, nil
	}
	matches, err := matching(record, match)
	if err != nil || len(matches) == 0 {
		return 0, err
	}
	resp.Batches = append(resp.Batches, smallest(matches, record)...)
	return len(matches), nil
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
			return r.Data
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
