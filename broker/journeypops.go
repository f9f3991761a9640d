package broker

import (
	"slices"

	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

// applyHandout takes in which messages of a queue a group was handed out. Of a queue
// of which nothing is known yet the record is taken as it is: the broker decides on
// one after another.
func (j *journey) applyHandout(r store.Committed) error {
	h, err := pop.DecodeHandout(r.Data)
	if err != nil {
		return err
	}
	key := store.QueueKey{Topic: h.Topic, Queue: h.Queue}
	stands := j.in(key)
	if len(stands) == 0 {
		return nil
	}
	at := leased{h.Group, key}
	if last, known := j.pops[at]; known && last != h.After {
		return nil
	}
	j.pops[at] = r.Index
	for _, s := range stands {
		j.handOut(r, s, h)
	}
	return nil
}

// handOut looks for a message in what is handed out. What nobody had looked at, and
// is not there, was passed over.
func (j *journey) handOut(r store.Committed, s *stand, h *pop.Handout) {
	p := s.of(h.Group)
	if p.passed {
		return
	}
	handed := slices.Contains(h.Again, s.offset)
	for _, run := range h.Fresh {
		if run.First <= s.offset && s.offset < run.First+run.Count {
			p.looked, handed = true, !run.Waits
		}
	}
	switch {
	case handed:
		p.looked, p.fence = true, r.Index
		p.attempts++
		e := s.at(j.tell(protocol.TracePopped, r))
		e.Group, e.Fence, e.Attempt, e.DeliverAtMillis = h.Group, r.Index, p.attempts-1, r.StoreMillis+h.InvisibleMillis
	case !p.looked && s.offset < h.Next:
		p.passed = true
		s.at(j.tell(protocol.TraceFiltered, r)).Group = h.Group
	}
}

// applyAck takes in what was acknowledged, or gets another time, if nobody was handed
// it since.
func (j *journey) applyAck(r store.Committed) error {
	a, err := pop.DecodeAck(r.Data)
	if err != nil {
		return err
	}
	for _, s := range j.in(store.QueueKey{Topic: a.Topic, Queue: a.Queue}) {
		p := s.of(a.Group)
		live := !p.passed && p.fence != 0 && slices.ContainsFunc(a.Sets, func(set pop.Set) bool {
			return set.Fence == p.fence && slices.Contains(set.Offsets, s.offset)
		})
		if !live {
			continue
		}
		kind := protocol.TraceAcked
		if p.passed = !a.Again; a.Again {
			kind = protocol.TracePostponed
		}
		if p.back && !a.Again {
			continue // a copy of it goes on
		}
		e := s.at(j.tell(kind, r))
		if e.Group, e.Fence = a.Group, p.fence; a.Again {
			e.DeliverAtMillis = r.StoreMillis + a.InvisibleMillis
		}
	}
	return nil
}

// forgetPop notes that what a group has popped of a queue counts no more.
func (j *journey) forgetPop(at leased, stands []*stand) {
	delete(j.pops, at)
	for _, s := range stands {
		p := s.of(at.group)
		p.fence, p.attempts, p.looked = 0, 0, false
	}
}
