package broker

import (
	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

type leased struct {
	group string
	key   store.QueueKey
}

// lease is who has a queue; without a client nobody has.
type lease struct {
	client string
	fence  uint64
}

func (j *journey) applyOffsets(r store.Committed) error {
	name, rows, err := group.DecodeOffsets(r.Data)
	if err != nil {
		return err
	}
	for i := range rows {
		key := store.QueueKey{Topic: rows[i].TopicID, Queue: uint32(rows[i].Queue)}
		if stands := j.in(key); len(stands) > 0 {
			j.move(r, leased{name, key}, &rows[i], stands)
		}
	}
	return nil
}

// move follows a group's offset. It counts as broker/group counts it.
func (j *journey) move(r store.Committed, at leased, o *group.Offset, stands []*stand) {
	now, known := j.leases[at]
	if !o.Reset && o.Fence != 0 && known && now.fence != o.Fence {
		return
	}
	for _, s := range stands {
		p, behind := s.of(at.group), o.Offset > s.offset
		kind := protocol.TraceAcked
		switch {
		case o.Reset && behind && !p.passed:
			kind = protocol.TraceSkipped
		case o.Reset && !behind && p.passed:
			kind = protocol.TraceReset
		case o.Reset || p.passed || !behind:
			continue
		}
		told := !p.back
		p.passed = behind
		p.back = p.back && behind
		if told || kind == protocol.TraceReset {
			e := s.at(j.tell(kind, r))
			e.Group = at.group
			if !o.Reset {
				e.Fence = o.Fence
			}
		}
	}
	if o.Reset {
		j.leases[at] = lease{}
		j.forgetPop(at, stands)
	}
}

func (j *journey) applyLeases(r store.Committed) error {
	l, err := group.DecodeLeases(r.Data)
	if err != nil {
		return err
	}
	for _, queue := range l.Queues {
		key := store.QueueKey{Topic: l.TopicID, Queue: uint32(queue)}
		if stands := j.in(key); len(stands) > 0 {
			j.hand(r, leased{l.Group, key}, &l, stands)
		}
	}
	return nil
}

// hand follows the lease of a queue, as broker/group does. Of a queue of which
// nothing is known yet a record says what is so: the broker writes none in vain.
func (j *journey) hand(r store.Committed, at leased, l *group.Leases, stands []*stand) {
	now, known := j.leases[at]
	kind, next, owner := protocol.TraceLeased, lease{client: l.Client, fence: r.Index}, lease{client: l.Client, fence: r.Index}
	if l.Release {
		kind, next, owner = protocol.TraceFreed, lease{}, now
		if !known {
			owner.client = l.Client
		}
	}
	switch {
	case !known:
	case !l.Release && now.client != "", l.Release && (now.client == "" || l.Client != "" && l.Client != now.client):
		return
	}
	j.leases[at] = next
	if !l.Release {
		j.forgetPop(at, stands)
	}
	for _, s := range stands {
		if p := s.of(at.group); !p.passed && !p.back && owner.client != "" {
			e := s.at(j.tell(kind, r))
			e.Group, e.Client, e.Fence = at.group, owner.client, owner.fence
		}
	}
}

// applyGroupDelete forgets what a group had.
func (j *journey) applyGroupDelete(r store.Committed) error {
	name, err := group.DecodeDelete(r.Data)
	if err != nil {
		return err
	}
	known := false
	for _, s := range j.stands {
		known = known || s.groups[name] != nil
		delete(s.groups, name)
		j.leases[leased{name, s.key}] = lease{}
		delete(j.pops, leased{name, s.key})
	}
	if known {
		j.tell(protocol.TraceGroupDeleted, r).Group = name
	}
	return nil
}
