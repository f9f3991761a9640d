package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// sendBacks makes copies of messages that consumers have failed to process: into the
// retry topic of their group, where the timers show them at their time, into its
// dead-letter topic, and from there back to where they were. The same copy is made
// once, however often it is asked for: the view of copies knows those that are
// committed, and flights are those under way.
type sendBacks struct {
	state  *state
	timers *timers
	topics *topicAdmin
	now    func() time.Time

	mu      sync.Mutex
	flights map[dedup.Key]*flyingCopy
}

// flyingCopy is a copy whose outcome is not known.
type flyingCopy struct {
	known  chan struct{} // closed when result is set
	result copied
}

// copied is what became of a copy.
type copied struct {
	place     dedup.Place
	duplicate bool
	err       error
}

func newSendBacks(s *state, t *timers, topics *topicAdmin, now func() time.Time) *sendBacks {
	return &sendBacks{state: s, timers: t, topics: topics, now: now, flights: map[dedup.Key]*flyingCopy{}}
}

func (s *sendBacks) register(client, admin *transport.Mux) {
	transport.Handle(client, s.sendBack)
	transport.Handle(admin, s.resend)
}

func (s *sendBacks) sendBack(ctx context.Context, r *protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
	if err := checkSendBack(r); err != nil {
		return nil, err
	}
	key, err := s.state.readable(r.Topic, r.Queue)
	if err == nil {
		err = s.mayGiveBack(r, key)
	}
	var m *message.Message
	if err == nil {
		m, err = s.find(key, r.Offset, r.MessageID)
	}
	if err != nil {
		return nil, err
	}
	cfg, ok := s.state.groups.Config(r.Group)
	if !ok {
		cfg = group.Default(r.Group)
	}
	if r.Dead || m.ReconsumeTimes >= group.RetryMax(cfg) {
		return s.bury(ctx, r, m)
	}
	return s.retry(ctx, r, m, cfg.RetryPolicy)
}

func checkSendBack(r *protocol.SendBackRequest) error {
	fault := func(format string, args ...any) error {
		return protocol.Errorf(protocol.InvalidArgument, format, args...)
	}
	if err := message.CheckGroup(r.Group); err != nil {
		return fault("%v", err)
	}
	switch longest := message.MaxDelay.Milliseconds(); {
	case r.DelayMillis < protocol.ByPolicy || r.DelayMillis > longest:
		return fault("delivery after %d ms; %d (by the policy) to %d are allowed", r.DelayMillis, protocol.ByPolicy, longest)
	case r.Offset < 0 || r.Attempts < 0 || r.Attempts > message.MaxReconsumeTimes:
		return fault("offset %d, attempts %d", r.Offset, r.Attempts)
	}
	return nil
}

// mayGiveBack holds the request to the lease of the queue, as a commit.
func (s *sendBacks) mayGiveBack(r *protocol.SendBackRequest, key store.QueueKey) error {
	if r.Fence == 0 {
		holder, _, held := s.state.groups.Lease(r.Group, key.Topic, r.Queue)
		if held && holder != r.ClientID {
			return protocol.Errorf(protocol.Fenced, "group %q has leased queue %d to client %q", r.Group, r.Queue, holder)
		}
		return nil
	}
	return s.state.groups.Check(r.Group, key.Topic, r.Queue, r.ClientID, r.Fence)
}

// find reads the message at an offset, which must have the id.
func (s *sendBacks) find(key store.QueueKey, offset int64, id string) (*message.Message, error) {
	m, err := s.at(key, offset)
	if err == nil && m.ID.String() != id {
		return nil, protocol.Errorf(protocol.NotFound, "the message at offset %d has not the id %.50q", offset, id)
	}
	return m, err
}

// at reads the message at an offset.
func (s *sendBacks) at(key store.QueueKey, offset int64) (*message.Message, error) {
	found, err := s.state.log.Read(key, offset, 1, 1)
	if err != nil {
		return nil, refusal(err)
	}
	if len(found.Data) == 0 {
		return nil, protocol.Errorf(protocol.OffsetOutOfRange, "offset %d is the end of the queue", offset)
	}
	all, _, err := batch.Decode(nil, found.Data, "")
	if err != nil {
		return nil, protocol.Errorf(protocol.Damaged, "%v", err)
	}
	for i := range all {
		if all[i].QueueOffset == offset {
			return &all[i].Message, nil
		}
	}
	return nil, protocol.Errorf(protocol.Damaged, "the batch at offset %d does not have it", offset)
}

// bury makes a message a dead letter.
func (s *sendBacks) bury(ctx context.Context, r *protocol.SendBackRequest, m *message.Message) (*protocol.SendBackResponse, error) {
	to, err := s.topicOf(ctx, message.DLQTopic(r.Group))
	if err != nil {
		return nil, err
	}
	failed(m, r)
	c := s.copy(ctx, to, 0, m, nil)
	if c.err != nil {
		return nil, c.err
	}
	if !c.duplicate {
		s.state.meters.Buried(r.Group, m.Origin.Topic)
	}
	return &protocol.SendBackResponse{Dead: true}, nil
}

// retry holds a message back until it is delivered again.
func (s *sendBacks) retry(ctx context.Context, r *protocol.SendBackRequest, m *message.Message, p protocol.RetryPolicy) (*protocol.SendBackResponse, error) {
	to, err := s.topicOf(ctx, message.RetryTopic(r.Group))
	if err != nil {
		return nil, err
	}
	delay := time.Duration(r.DelayMillis) * time.Millisecond
	if r.DelayMillis == protocol.ByPolicy {
		delay = p.Delay(m.ReconsumeTimes + 1)
	}
	at := s.now().Add(delay).UnixMilli()
	failed(m, r)
	c := s.copy(ctx, to, 0, m, &at)
	if c.duplicate {
		at = time.UnixMilli(c.place.Millis).Add(delay).UnixMilli()
	}
	if c.err != nil {
		return nil, c.err
	}
	return &protocol.SendBackResponse{DeliverAtMillis: at}, nil
}

// topicOf is a topic of a group for the broker's copies.
func (s *sendBacks) topicOf(ctx context.Context, name string) (topic.Topic, error) {
	return s.topics.system(ctx, protocol.TopicConfig{Name: name, ReadQueues: 1, WriteQueues: 1, Perm: message.PermRead})
}

// failed makes the message its own copy: where it is from, unless it is a copy
// already, and how it failed. The mark is the lease: when the group is set back, what
// fails again is not taken for the same.
func failed(m *message.Message, r *protocol.SendBackRequest) {
	m.ReconsumeTimes = min(m.ReconsumeTimes+max(r.Attempts, 1), message.MaxReconsumeTimes)
	if m.Origin == nil || r.Topic != message.RetryTopic(r.Group) {
		m.Origin = &message.Origin{Topic: r.Topic, Queue: r.Queue, Offset: r.Offset}
	}
	m.Origin.LastError, m.Origin.Mark = shortened(r.Error), r.Fence
}

// shortened is the text's valid beginning of at most message.MaxErrorBytes.
func shortened(text string) string {
	if len(text) > message.MaxErrorBytes {
		end := message.MaxErrorBytes
		for end > message.MaxErrorBytes-utf8.UTFMax && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	return strings.ToValidUTF8(text, "?")
}

// resend appends a dead letter to its original topic.
func (s *sendBacks) resend(ctx context.Context, r *protocol.ResendDeadLetterRequest) (*protocol.ResendDeadLetterResponse, error) {
	name := message.DLQTopic(r.Group)
	key, err := s.state.readable(name, 0)
	if err == nil && r.Offset < 0 {
		err = protocol.Errorf(protocol.InvalidArgument, "offset %d", r.Offset)
	}
	var m *message.Message
	if err == nil {
		m, err = s.find(key, r.Offset, r.MessageID)
	}
	if err == nil && m.Origin == nil {
		err = protocol.Errorf(protocol.NotFound, "the message at offset %d does not say where it is from", r.Offset)
	}
	var to topic.Topic
	if err == nil {
		to, err = s.state.topic(m.Origin.Topic)
	}
	if err == nil && to.WriteQueues == 0 {
		err = protocol.Errorf(protocol.QueueNotFound, "topic %q has no queues to write", to.Name)
	}
	if err != nil {
		return nil, err
	}
	queue := m.Origin.Queue % to.WriteQueues
	m.ReconsumeTimes, m.Origin = 0, &message.Origin{Topic: name, Offset: r.Offset, LastError: m.Origin.LastError, Mark: key.Topic}
	m.DedupKey = "" // or it would count as a duplicate of itself
	c := s.copy(ctx, to, queue, m, nil)
	if c.err != nil {
		return nil, c.err
	}
	return &protocol.ResendDeadLetterResponse{Topic: to.Name, Queue: int(c.place.Queue), Offset: c.place.Offset, Duplicate: c.duplicate}, nil
}

// copy stores a copy of a message in a queue, or, with a time, holds it back until
// then, unless it is there already or on its way.
func (s *sendBacks) copy(ctx context.Context, to topic.Topic, queue int, m *message.Message, at *int64) copied {
	key := copyKey(to.ID, m)
	s.mu.Lock()
	f, flying := s.flights[key]
	place, known := dedup.Place{}, false
	if !flying {
		if place, known = s.state.copies.Find(key, s.now()); !known {
			f = &flyingCopy{known: make(chan struct{})}
			s.flights[key] = f
		}
	}
	s.mu.Unlock()
	switch {
	case known:
		return copied{place: place, duplicate: true}
	case !flying:
		s.store(key, f, to, recordOf(to, queue, m, at))
		return f.result
	}
	select {
	case <-f.known:
		return copied{f.result.place, true, f.result.err}
	case <-ctx.Done():
		return copied{err: protocol.Errorf(protocol.UnknownOutcome, "the disk has not answered: %v", ctx.Err())}
	}
}

// store appends a copy and waits for its outcome, so that the flight ends.
func (s *sendBacks) store(key dedup.Key, f *flyingCopy, to topic.Topic, r store.Record) {
	done := make(chan copied, 1)
	err := refusal(s.state.log.Append(r, func(c store.Committed, err error) {
		if err == nil && r.Type == store.TimerRecord {
			s.state.meters.Held(r.Queue.Topic, 1)
		}
		place := dedup.Place{Queue: r.Queue.Queue, Offset: c.BaseOffset, Index: c.Index, Millis: c.StoreMillis}
		done <- copied{place: place, err: outcome(err)}
	}))
	if err != nil {
		f.result.err = err
	} else {
		f.result = <-done
	}
	if _, there := s.state.topics.ByID(to.ID); !there && f.result.err == nil {
		f.result.err = protocol.Errorf(protocol.Unavailable, "topic %q was deleted meanwhile", to.Name)
	}
	s.timers.poke()
	s.mu.Lock()
	delete(s.flights, key)
	s.mu.Unlock()
	close(f.known)
}

// recordOf is the record of a message alone, for its queue or for the timers.
func recordOf(to topic.Topic, queue int, m *message.Message, at *int64) store.Record {
	lead := batch.Lead{Topic: to.Name, Queue: queue}
	if at != nil {
		lead.Purpose = batch.ToTimer
	}
	b := batch.NewBuilder("", 0)
	b.Begin(&lead)
	b.Add(m)
	r := store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: to.ID, Queue: uint32(queue)}, Count: 1, Data: b.Finish(), Waits: true}
	if at != nil {
		r.Type, r.Data = store.TimerRecord, timer.Encode([]int64{*at}, r.Data)
		return r
	}
	h, _ := batch.ParseHeader(r.Data) // it was just made
	r.TagHash = h.TagHash
	return r
}

// copyKey is what the copies of one message have in common that are made for one
// reason.
func copyKey(topicID uint64, m *message.Message) dedup.Key {
	b := append(make([]byte, 0, 128), m.ID[:]...)
	for _, n := range []uint64{uint64(m.ReconsumeTimes), uint64(m.Origin.Queue), uint64(m.Origin.Offset), m.Origin.Mark} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	sum := sha256.Sum256(append(b, m.Origin.Topic...))
	return dedup.Key{Topic: topicID, Text: string(sum[:])}
}

// applyCopies takes the copies of a batch into their view. Those that the timers
// show were taken in when they were held back.
func (s *state) applyCopies(r store.Committed, h *batch.Header, b []byte, base int64) error {
	if !batch.HasCopy(b) || h.Release.Origin != 0 {
		return nil
	}
	return batch.EachExtra(b, func(i int, m *message.Message) {
		if m.Origin == nil {
			return
		}
		s.copies.Apply(copyKey(r.Queue.Topic, m), dedup.Place{
			Queue: r.Queue.Queue, Offset: max(base+int64(i), 0), Index: r.Index, Millis: r.StoreMillis,
		})
	})
}
