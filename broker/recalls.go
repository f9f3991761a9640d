package broker

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// recall takes a message back. What it answers is so in the log: a message is
// recalled or delivered, never both.
func (t *timers) recall(ctx context.Context, r *protocol.RecallRequest) (*protocol.RecallResponse, error) {
	id, err := message.ParseID(r.ID)
	if err != nil {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	topic, ok := t.state.topics.Lookup(r.Topic)
	if !ok {
		return nil, notHeld(r)
	}
	at := timer.Place{Origin: r.Origin, Position: r.Position}
	for ctx.Err() == nil {
		p, waits := t.state.timers.Lookup(at)
		if !waits {
			return t.fate(r, at, topic.ID, id)
		}
		found, err := t.identify(p)
		switch {
		case errors.Is(err, store.ErrOutOfRange):
			continue // it was carried forward, or released, meanwhile
		case err != nil:
			return nil, refusal(err)
		case found != id || p.Topic != topic.ID:
			return nil, notHeld(r)
		}
		if err := t.takeBack(ctx, at, id); err != nil {
			return nil, err
		}
	}
	return nil, protocol.Errorf(protocol.UnknownOutcome, "the message is on its way: %v", ctx.Err())
}

func notHeld(r *protocol.RecallRequest) error {
	return protocol.Errorf(protocol.NotFound, "no message %s of topic %q was held back as %d/%d, or it is not known any more", r.ID, r.Topic, r.Origin, r.Position)
}

// takeBack appends a recall and waits until it is applied or, if the message is
// under way, for what becomes of it.
func (t *timers) takeBack(ctx context.Context, at timer.Place, id message.ID) error {
	own, other := t.claim(at)
	if own == nil {
		if other != nil {
			select {
			case <-other.known:
			case <-ctx.Done():
			}
		}
		return nil
	}
	done := make(chan error, 1)
	r := store.Record{Type: store.RecallRecord, Data: timer.EncodeRecall(at, id)}
	err := t.state.log.Append(r, func(_ store.Committed, err error) {
		t.finish(own, err != nil)
		done <- err
	})
	if err != nil {
		t.finish(own, false)
		return refusal(err)
	}
	select {
	case err := <-done:
		return refusal(err)
	case <-ctx.Done():
		return nil
	}
}

// fate says what became of a message that does not wait any more.
func (t *timers) fate(r *protocol.RecallRequest, at timer.Place, topicID uint64, id message.ID) (*protocol.RecallResponse, error) {
	if was, ok := t.state.timers.Recalled(at); ok && was == (timer.Recalled{Topic: topicID, ID: id}) {
		return &protocol.RecallResponse{Recalled: true}, nil
	}
	indexes, damage := t.state.log.ByID(id)
	slices.Sort(indexes)
	delivered := false
	t.state.log.Records(indexes, func(c store.Committed, err error) bool {
		switch {
		case err == nil:
			delivered = c.Type == store.BatchRecord && c.Queue.Topic == topicID && shows(c.Data, at, id)
		case !errors.Is(err, store.ErrOutOfRange):
			damage = err
		}
		return !delivered
	})
	switch {
	case delivered:
		return &protocol.RecallResponse{}, nil
	case damage != nil:
		return nil, refusal(damage)
	}
	return nil, notHeld(r)
}

// shows reports whether a batch releases a message.
func shows(b []byte, at timer.Place, id message.ID) bool {
	h, err := batch.ParseHeader(b)
	if err != nil || h.Release.Origin != at.Origin {
		return false
	}
	place, ok := slices.BinarySearch(h.Release.Positions, at.Position)
	return ok && idAt(idsOf(b), place) == id
}

// idsOf lists the ids of a batch's messages.
func idsOf(b []byte) (ids []message.ID) {
	if err := batch.Scan(b, func(id message.ID, _ [][]byte) { ids = append(ids, id) }); err != nil {
		return nil
	}
	return ids
}

// idAt is one of them; zero when there is none.
func idAt(ids []message.ID, place int) (id message.ID) {
	if place < len(ids) {
		id = ids[place]
	}
	return id
}

// identify reads the id of a message that waits. ErrOutOfRange when its record
// was carried forward, or dropped, meanwhile.
func (t *timers) identify(p timer.Pending) (id message.ID, err error) {
	t.state.log.Records([]uint64{p.At}, func(r store.Committed, e error) bool {
		var ids []message.ID
		ids, _, err = identities(r, e)
		id = idAt(ids, int(p.Position))
		return false
	})
	return id, err
}

// identities says what only the record of messages that wait does: their ids,
// and when they were stored.
func identities(r store.Committed, err error) (ids []message.ID, storeMillis int64, _ error) {
	if err != nil {
		return nil, 0, err
	}
	h, err := openHeld(r)
	if err != nil {
		return nil, 0, err
	}
	_, b, err := timer.Decode(h.Data)
	if err != nil {
		return nil, 0, errors.Join(store.ErrDamaged, err)
	}
	return idsOf(b), h.StoreMillis, nil
}

// listScan is how many messages a list looks at before the view may change.
const listScan = 4096

// listDelayed lists messages that wait. One whose record cannot be read has no
// id.
func (t *timers) listDelayed(ctx context.Context, r *protocol.ListDelayedRequest) (*protocol.ListDelayedResponse, error) {
	if r.Max < 1 || r.Max > protocol.MaxQueryMessages {
		return nil, protocol.Errorf(protocol.InvalidArgument, "a list of %d messages; 1 to %d are allowed", r.Max, protocol.MaxQueryMessages)
	}
	topicID, resp := uint64(0), &protocol.ListDelayedResponse{Pending: t.state.timers.Len()}
	if r.Topic != "" {
		known, err := t.state.topic(r.Topic)
		if err != nil {
			return nil, err
		}
		topicID, resp.Pending = known.ID, t.state.timers.LenOf(known.ID)
	}
	from := timer.Key{Millis: timer.Earliest}
	if a := r.After; a != nil {
		if a.Position < 0 || a.Position >= batch.MaxCount {
			return nil, protocol.Errorf(protocol.InvalidArgument, "a message has no position %d", a.Position)
		}
		from = timer.Key{Millis: a.DeliverAtMillis, Origin: a.Origin, Position: int32(a.Position) + 1}
	}
	for ctx.Err() == nil {
		page := t.page(ctx, from, topicID, r.Max+1)
		resp.More = len(page) > r.Max
		page = page[:min(len(page), r.Max)]
		if messages, ok := t.describe(page); ok {
			resp.Messages = messages
			return resp, nil
		}
	}
	return nil, ctx.Err()
}

// page lists messages of a topic, or of all, in the order of their times.
func (t *timers) page(ctx context.Context, from timer.Key, topicID uint64, limit int) (page []timer.Pending) {
	for more := true; more && ctx.Err() == nil; {
		more = false
		seen := 0
		t.state.timers.From(from, func(p *timer.Pending) bool {
			if seen++; seen > listScan {
				from, more = p.Key, true
				return false
			}
			if topicID == 0 || p.Topic == topicID {
				page = append(page, *p)
			}
			return len(page) < limit
		})
	}
	return page
}

// describe reads what only the log has. It fails when a record was carried
// forward, or dropped, meanwhile.
func (t *timers) describe(page []timer.Pending) (messages []protocol.DelayedMessage, ok bool) {
	places := map[uint64][]int{} // in the page, by where the record stands
	for i, p := range page {
		places[p.At] = append(places[p.At], i)
	}
	messages, ok = make([]protocol.DelayedMessage, len(page)), true
	t.state.log.Records(slices.Sorted(maps.Keys(places)), func(r store.Committed, err error) bool {
		ids, storeMillis, err := identities(r, err)
		ok = !errors.Is(err, store.ErrOutOfRange)
		for _, i := range places[r.Index] {
			messages[i] = t.delayed(&page[i], idAt(ids, int(page[i].Position)), storeMillis)
		}
		return ok
	})
	return messages, ok
}

func (t *timers) delayed(p *timer.Pending, id message.ID, storeMillis int64) protocol.DelayedMessage {
	m := protocol.DelayedMessage{
		Held:  protocol.Held{Origin: p.Origin, Position: int(p.Position)},
		Queue: int(p.Queue), DeliverAtMillis: p.Millis, StoreMillis: storeMillis,
	}
	if !id.IsZero() {
		m.ID = id.String()
	}
	if topic, ok := t.state.topics.ByID(p.Topic); ok {
		m.Topic = topic.Name
	}
	return m
}
