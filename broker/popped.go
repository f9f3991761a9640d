package broker

import (
	"fmt"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
)

// What a group has popped and where it is are two views of one thing: the lowest
// unfinished offset of a popped queue is the group's committed offset. These appliers
// keep them so.

// applyHandout applies a record that hands messages out.
func (s *state) applyHandout(r store.Committed) error {
	h, err := pop.DecodeHandout(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	if s.mayHandOut(h) && s.pops.ApplyHandout(r, h) {
		s.advance(h.Key)
	}
	return nil
}

// mayHandOut reports whether the record does not come too late: after its topic or
// group were deleted, the queue was given to a member, or, when it is the first of
// the queue, the group's offset was set.
func (s *state) mayHandOut(h *pop.Handout) bool {
	_, topicThere := s.topics.ByID(h.Topic)
	_, groupThere := s.groups.Config(h.Group)
	_, _, leased := s.groups.Lease(h.Group, h.Topic, int(h.Queue))
	asDecided := h.After != 0 || s.groups.Committed(h.Group, h.Topic, int(h.Queue)) == h.Committed
	return topicThere && groupThere && !leased && asDecided
}

// applyAck applies a record that acknowledges messages, or gives them another time.
func (s *state) applyAck(r store.Committed) error {
	a, err := pop.DecodeAck(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	s.pops.ApplyAck(r, a)
	s.advance(a.Key)
	return nil
}

// advance moves a group's offset to the lowest that it has not finished.
func (s *state) advance(k pop.Key) {
	if p, ok := s.pops.Progress(k); ok {
		s.groups.Advance(k.Group, k.Topic, int(k.Queue), p.Floor)
	}
}

// applyOffsets applies a record that moves offsets: what was popped below is finished
// or, when the offset is set, forgotten.
func (s *state) applyOffsets(r store.Committed) error {
	if err := s.groups.ApplyOffsets(r.Index, r.Data); err != nil {
		return err
	}
	name, rows, err := group.DecodeOffsets(r.Data)
	for _, o := range rows {
		k := pop.Key{Group: name, Topic: o.TopicID, Queue: uint32(o.Queue)}
		if o.Reset {
			s.pops.SetBack(r.Index, k, o.Offset)
		} else {
			s.pops.Finish(k, s.groups.Committed(name, o.TopicID, o.Queue))
		}
	}
	return err
}

// applyLeases applies a record of leases. A grant of a queue of which messages are in
// flight changes nothing, whatever the broker saw when it appended the record. With
// the grant of another one what was popped of it is forgotten: its owner begins at
// the group's offset.
func (s *state) applyLeases(r store.Committed) error {
	l, err := group.DecodeLeases(r.Data)
	if err != nil || l.Release {
		return s.groups.ApplyLeases(r.Index, r.Data)
	}
	free := make([]int, 0, len(l.Queues))
	for _, q := range l.Queues {
		if !s.pops.InFlight(pop.Key{Group: l.Group, Topic: l.TopicID, Queue: uint32(q)}, r.StoreMillis) {
			free = append(free, q)
		}
	}
	if err := s.groups.ApplyLeases(r.Index, group.EncodeLeases(l.Group, l.TopicID, l.Client, free)); err != nil {
		return err
	}
	for _, q := range free {
		if _, fence, _ := s.groups.Lease(l.Group, l.TopicID, q); fence == r.Index {
			k := pop.Key{Group: l.Group, Topic: l.TopicID, Queue: uint32(q)}
			s.pops.SetBack(r.Index, k, max(s.groups.Committed(l.Group, l.TopicID, q), 0))
		}
	}
	return nil
}

// dropGroup takes out of the views what belongs to a group that is deleted.
func (s *state) dropGroup(r store.Committed) error {
	name, err := group.DecodeDelete(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	s.pops.DropGroup(name)
	return nil
}
