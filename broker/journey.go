package broker

import (
	"slices"
	"strings"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// journey is what records of the log say of one message. It is fed with them in log
// order, from the first one that has the message on, and does no I/O. A lease that
// was given before that is known when a record says so: an acknowledgement carries
// its fence.
type journey struct {
	id     message.ID
	events []protocol.TraceStep
	stands []*stand
	waits  map[timer.Place]*wait
	leases map[leased]lease
	pops   map[leased]uint64 // the record that handed out messages of the queue last
}

// stand is a place of the message in a queue.
type stand struct {
	key    store.QueueKey
	topic  string
	offset int64
	index  uint64 // log index of its batch
	groups map[string]*passage
}

// passage is how a group is with a message at a place.
type passage struct {
	passed bool // the group's offset is behind it
	// back says that the group gave it back: that its offset passes then means nothing.
	back bool

	// These are of messages that are popped. fence is that of the last handle, looked
	// says that a pop came to the message, handed out or not.
	fence    uint64
	attempts int
	looked   bool
}

// wait is a message that is held back.
type wait struct {
	key   store.QueueKey
	topic string
	kind  protocol.TraceKind // TraceDelayed, TraceRetrying or TracePrepared
}

func newJourney(id message.ID) *journey {
	return &journey{id: id, waits: map[timer.Place]*wait{}, leases: map[leased]lease{}, pops: map[leased]uint64{}}
}

// concerns reports whether the journey has to see a record of the type, whatever is
// in it. Records with batches it sees when they have the message.
func concerns(t store.Type) bool {
	switch t {
	case store.TimerRecord, store.HalfRecord, store.RecallRecord, store.DecisionRecord, store.OffsetsRecord,
		store.LeasesRecord, store.TopicDeleteRecord, store.GroupDeleteRecord, store.PopRecord, store.AckRecord:
		return true
	}
	return false
}

// apply takes in a record. A record that cannot be read changes nothing.
func (j *journey) apply(r store.Committed) error {
	switch r.Type {
	case store.BatchRecord:
		return j.applyBatch(r)
	case store.TimerRecord, store.HalfRecord, store.CarryRecord:
		return j.applyHeld(r)
	case store.RecallRecord:
		return j.applyRecall(r)
	case store.DecisionRecord:
		return j.applyDecision(r)
	case store.OffsetsRecord:
		return j.applyOffsets(r)
	case store.LeasesRecord:
		return j.applyLeases(r)
	case store.PopRecord:
		return j.applyHandout(r)
	case store.AckRecord:
		return j.applyAck(r)
	case store.TopicDeleteRecord:
		j.dropTopic(r)
	case store.GroupDeleteRecord:
		return j.applyGroupDelete(r)
	}
	return nil
}

// tell adds an event and returns it.
func (j *journey) tell(kind protocol.TraceKind, r store.Committed) *protocol.TraceStep {
	j.events = append(j.events, protocol.TraceStep{Kind: kind, Millis: r.StoreMillis, LogIndex: r.Index, Offset: -1})
	return &j.events[len(j.events)-1]
}

// at says where it happened.
func (s *stand) at(e *protocol.TraceStep) *protocol.TraceStep {
	e.Topic, e.Queue, e.Offset = s.topic, int(s.key.Queue), s.offset
	return e
}

func (w *wait) at(e *protocol.TraceStep) *protocol.TraceStep {
	e.Topic, e.Queue = w.topic, int(w.key.Queue)
	return e
}

// about says what the message is like.
func about(e *protocol.TraceStep, m *message.Message) {
	e.Attempt, e.Bytes = m.ReconsumeTimes, len(m.Body)
	if m.Origin != nil {
		e.Error = m.Origin.LastError
	}
}

// applyBatch takes in where the message is stored.
func (j *journey) applyBatch(r store.Committed) error {
	h, err := batch.ParseHeader(r.Data)
	if err != nil {
		return err
	}
	all, _, err := batch.Decode(nil, r.Data, "")
	if err != nil {
		return err
	}
	for i := range all {
		m := &all[i].Message
		if m.ID != j.id {
			continue
		}
		s := &stand{key: r.Queue, topic: m.Topic, offset: r.BaseOffset + int64(i), index: r.Index, groups: map[string]*passage{}}
		j.stands = append(j.stands, s)
		e := s.at(j.tell(protocol.TraceStored, r))
		about(e, m)
		e.Kind, e.Group = j.arrival(&h, i, s, m)
		if e.Kind == protocol.TraceDead {
			j.giveBack(e.Group, m)
		}
	}
	return nil
}

// arrival is what it means that the message is stored, and for which group.
func (j *journey) arrival(h *batch.Header, i int, s *stand, m *message.Message) (protocol.TraceKind, string) {
	if h.Release.Origin != 0 {
		return j.release(timer.Place{Origin: h.Release.Origin, Position: h.Release.Positions[i]}, s, m)
	}
	if dead, ok := strings.CutPrefix(s.topic, message.DLQPrefix); ok {
		return protocol.TraceDead, dead
	}
	if m.Origin != nil && strings.HasPrefix(m.Origin.Topic, message.DLQPrefix) {
		return protocol.TraceResent, strings.TrimPrefix(m.Origin.Topic, message.DLQPrefix)
	}
	return protocol.TraceStored, ""
}

// release ends the waiting of a message. One that waited for its time says so, or is
// a copy; half messages are neither. Retention may have dropped the record that it
// waited in.
func (j *journey) release(at timer.Place, s *stand, m *message.Message) (protocol.TraceKind, string) {
	w := j.waits[at]
	switch {
	case m.Origin != nil || !m.DeliverAt.IsZero():
		delete(j.waits, at)
		retrying, ok := strings.CutPrefix(s.topic, message.RetryPrefix)
		if !ok {
			retrying = ""
		}
		return protocol.TraceDue, retrying
	case w != nil && w.key.Topic != s.key.Topic, s.topic == ParkedTopic:
		return protocol.TraceParked, ""
	}
	delete(j.waits, at)
	return protocol.TraceCommitted, ""
}

// applyHeld takes in where the message is held back.
func (j *journey) applyHeld(r store.Committed) error {
	h, err := openHeld(r)
	if err != nil {
		return err
	}
	var millis []int64
	half := transaction.Half{}
	if h.Type == store.TimerRecord {
		millis, half.Batch, err = timer.Decode(h.Data)
	} else {
		half, err = transaction.DecodeHalf(h.Data)
	}
	if err != nil || !slices.Contains(idsOf(half.Batch), j.id) {
		return err
	}
	all, _, err := batch.Decode(nil, half.Batch, "")
	if err != nil {
		return err
	}
	r.Index, r.StoreMillis = h.Origin, h.StoreMillis
	for i := range all {
		if m := &all[i].Message; m.ID == j.id {
			w := &wait{key: r.Queue, topic: m.Topic, kind: protocol.TracePrepared}
			e := w.at(j.tell(protocol.TracePrepared, r))
			about(e, m)
			if e.Group = half.Group; i < len(millis) {
				e.DeliverAtMillis = millis[i]
				w.kind, e.Group = j.holding(m)
				e.Kind = w.kind
			}
			j.waits[timer.Place{Origin: h.Origin, Position: i}] = w
		}
	}
	return nil
}

// holding is why a message waits for its time, and for which group.
func (j *journey) holding(m *message.Message) (protocol.TraceKind, string) {
	retrying, ok := strings.CutPrefix(m.Topic, message.RetryPrefix)
	if !ok {
		return protocol.TraceDelayed, ""
	}
	j.giveBack(retrying, m)
	return protocol.TraceRetrying, retrying
}

// giveBack notes that a group goes on with a copy of the message.
func (j *journey) giveBack(group string, m *message.Message) {
	for _, s := range j.stands {
		o := m.Origin
		if s.topic == message.RetryTopic(group) || o != nil && s.topic == o.Topic && int(s.key.Queue) == o.Queue && s.offset == o.Offset {
			s.of(group).back = true
		}
	}
}

func (s *stand) of(group string) *passage {
	p := s.groups[group]
	if p == nil {
		p = &passage{}
		s.groups[group] = p
	}
	return p
}

func (j *journey) applyRecall(r store.Committed) error {
	at, _, err := timer.DecodeRecall(r.Data)
	if err != nil {
		return err
	}
	if w := j.waits[at]; w != nil {
		w.at(j.tell(protocol.TraceRecalled, r))
		delete(j.waits, at)
	}
	return nil
}

func (j *journey) applyDecision(r store.Committed) error {
	d, keys, err := transaction.DecodeDecision(r.Data)
	if err != nil {
		return err
	}
	for _, k := range keys {
		at := timer.Place{Origin: k.Origin, Position: k.Position}
		w := j.waits[at]
		switch {
		case w == nil:
		case d == transaction.RolledBack:
			w.at(j.tell(protocol.TraceRolledBack, r))
			delete(j.waits, at)
		default:
			w.at(j.tell(protocol.TraceAsked, r))
		}
	}
	return nil
}

// in are the places of the message in a queue, as long as they are there.
func (j *journey) in(key store.QueueKey) (found []*stand) {
	for _, s := range j.stands {
		if s.key == key {
			found = append(found, s)
		}
	}
	return found
}

// dropTopic ends what was in a topic.
func (j *journey) dropTopic(r store.Committed) {
	gone := map[string]bool{}
	j.stands = slices.DeleteFunc(j.stands, func(s *stand) bool {
		if s.key.Topic == r.Queue.Topic {
			gone[s.topic] = true
		}
		return s.key.Topic == r.Queue.Topic
	})
	for at, w := range j.waits {
		if w.key.Topic == r.Queue.Topic {
			gone[w.topic] = true
			delete(j.waits, at)
		}
	}
	for topic := range gone {
		j.tell(protocol.TraceTopicDeleted, r).Topic = topic
	}
}
