package group

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

const none = -1 // no offset

// View is the set of groups with their offsets and leases. Reading methods may be
// called from any goroutine. Apply methods, Advance, DropTopic, Load and Changes belong to
// the one goroutine that applies the log.
type View struct {
	// changed holds the rows that differ from those that Changes has handed over;
	// only the applying goroutine uses it.
	changed map[row]struct{}

	mu     sync.RWMutex
	groups map[string]*members
}

// members is what belongs to one group. An idle group has no map.
type members struct {
	config protocol.GroupConfig
	queues map[place]progress
	// subscription is what members subscribed; nil: it was never recorded.
	subscription *Subscription
}

type place struct {
	topic uint64
	queue uint32
}

// progress of a group in a queue; it is stored only when it is not the zero
// progress{committed: none}.
type progress struct {
	committed int64
	fence     uint64
	client    string
}

// New returns a view without groups.
func New() *View {
	return &View{changed: map[row]struct{}{}, groups: map[string]*members{}}
}

// Config returns a group's configuration.
func (v *View) Config(group string) (protocol.GroupConfig, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	g, ok := v.groups[group]
	if !ok {
		return protocol.GroupConfig{}, false
	}
	return g.config, true
}

// Groups returns the names of all groups, sorted. The slice is the caller's.
func (v *View) Groups() []string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.Sorted(maps.Keys(v.groups))
}

// Count is the number of groups.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.groups)
}

// Committed is the next offset that a group consumes in a queue; -1 when it never
// committed one.
func (v *View) Committed(group string, topicID uint64, queue int) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.progressLocked(group, placeOf(topicID, queue)).committed
}

// Lease says which client holds the lease of a queue, with which fence.
func (v *View) Lease(group string, topicID uint64, queue int) (client string, fence uint64, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	p := v.progressLocked(group, placeOf(topicID, queue))
	return p.client, p.fence, p.client != ""
}

// Check returns nil when client holds the lease of the queue with this fence,
// and a *protocol.Error with Fenced when it does not. A fence of 0 is never held.
func (v *View) Check(group string, topicID uint64, queue int, client string, fence uint64) error {
	holder, held, ok := v.Lease(group, topicID, queue)
	switch {
	case !ok:
		return protocol.Errorf(protocol.Fenced, "group %q has leased queue %d to nobody", group, queue)
	case holder != client:
		return protocol.Errorf(protocol.Fenced, "group %q has leased queue %d to client %q", group, queue, holder)
	case held != fence:
		return protocol.Errorf(protocol.Fenced, "group %q has leased queue %d with fence %d, not %d", group, queue, held, fence)
	}
	return nil
}

// Offsets returns a group's progress in all queues where it has an offset or a
// lease, sorted by topic ID and queue. The slice is the caller's.
func (v *View) Offsets(group string) []Progress {
	return v.list(group, func(progress) bool { return true })
}

// LeasesOf returns a group's progress in the queues that client holds, sorted by
// topic ID and queue. The slice is the caller's.
func (v *View) LeasesOf(group, client string) []Progress {
	if client == "" {
		return nil
	}
	return v.list(group, func(p progress) bool { return p.client == client })
}

func (v *View) list(group string, want func(progress) bool) []Progress {
	v.mu.RLock()
	var list []Progress
	if g, ok := v.groups[group]; ok {
		for at, p := range g.queues {
			if want(p) {
				list = append(list, Progress{TopicID: at.topic, Queue: int(at.queue), Committed: p.committed, Client: p.client, Fence: p.fence})
			}
		}
	}
	v.mu.RUnlock()
	slices.SortFunc(list, func(a, b Progress) int {
		return cmp.Or(cmp.Compare(a.TopicID, b.TopicID), cmp.Compare(a.Queue, b.Queue))
	})
	return list
}

// Holders returns all clients that hold leases, with their groups, sorted by
// group and client: those that Sessions.Adopt takes up when the broker starts.
func (v *View) Holders() []Holder {
	v.mu.RLock()
	found := map[Holder]struct{}{}
	for name, g := range v.groups {
		for _, p := range g.queues {
			if p.client != "" {
				found[Holder{Client: p.client, Group: name}] = struct{}{}
			}
		}
	}
	v.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(found), func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Client, b.Client))
	})
}

func placeOf(topicID uint64, queue int) place { return place{topic: topicID, queue: uint32(queue)} }

func (v *View) progressLocked(group string, at place) progress {
	if g, ok := v.groups[group]; ok {
		if p, ok := g.queues[at]; ok {
			return p
		}
	}
	return progress{committed: none}
}

// ApplyPut applies a record with the payload of EncodePut that stands at index in
// the log. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyPut(index uint64, data []byte) error {
	cfg, err := DecodePut(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if g, ok := v.groups[cfg.Name]; !ok || g.config != cfg {
		v.configureLocked(cfg)
	}
	return nil
}

func (v *View) configureLocked(cfg protocol.GroupConfig) {
	if g, ok := v.groups[cfg.Name]; ok {
		g.config = cfg
	} else {
		v.groups[cfg.Name] = &members{config: cfg}
	}
	v.changed[row{group: cfg.Name, config: true}] = struct{}{}
}

// ApplyDelete applies a record with the payload of EncodeDelete that stands at
// index in the log: the group goes with its offsets and leases. A group that is
// not there is no error. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyDelete(index uint64, data []byte) error {
	name, err := DecodeDelete(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	g, ok := v.groups[name]
	if !ok {
		return nil
	}
	for at := range g.queues {
		v.changed[row{group: name, place: at}] = struct{}{}
	}
	if g.subscription != nil {
		v.changed[row{group: name, subscription: true}] = struct{}{}
	}
	v.changed[row{group: name, config: true}] = struct{}{}
	delete(v.groups, name)
	return nil
}

// ApplyOffsets applies a record with the payload of EncodeOffsets that stands at
// index in the log. A group that is not there is created with the defaults when
// one of the rows counts. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyOffsets(index uint64, data []byte) error {
	group, offsets, err := DecodeOffsets(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, o := range offsets {
		at := placeOf(o.TopicID, o.Queue)
		before := v.progressLocked(group, at)
		v.setLocked(group, at, before, before.move(o))
	}
	return nil
}

// Advance raises a group's committed offset in a queue, as a commit does, when a
// record is applied that finishes messages one by one.
func (v *View) Advance(group string, topicID uint64, queue int, offset int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := placeOf(topicID, queue)
	before := v.progressLocked(group, at)
	v.setLocked(group, at, before, before.move(Offset{Offset: offset}))
}

// move is the progress after a row of offsets.
func (p progress) move(o Offset) progress {
	switch {
	case o.Reset:
		return progress{committed: o.Offset}
	case o.Fence != 0 && o.Fence != p.fence, o.Offset <= p.committed:
		return p
	default:
		p.committed = o.Offset
		return p
	}
}

// ApplyLeases applies a record with the payload of EncodeLeases or EncodeRelease
// that stands at index in the log, which becomes the fence of the queues that are
// granted. A queue that the client holds already keeps its fence; one that
// another client holds stays that client's. A group that is not there is created
// with the defaults by a grant. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyLeases(index uint64, data []byte) error {
	l, err := DecodeLeases(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, queue := range l.Queues {
		at := placeOf(l.TopicID, queue)
		before := v.progressLocked(l.Group, at)
		v.setLocked(l.Group, at, before, before.lease(index, &l))
	}
	return nil
}

// lease is the progress after a record of leases at index.
func (p progress) lease(index uint64, l *Leases) progress {
	switch {
	case !l.Release && p.client == "":
		p.client, p.fence = l.Client, index
	case l.Release && (l.Client == "" || l.Client == p.client):
		p.client, p.fence = "", 0
	}
	return p
}

// setLocked stores a progress that differs from what was there before.
func (v *View) setLocked(group string, at place, before, after progress) {
	if before == after {
		return
	}
	if _, ok := v.groups[group]; !ok {
		v.configureLocked(Default(group))
	}
	v.storeLocked(group, at, after)
	v.changed[row{group: group, place: at}] = struct{}{}
}

func (v *View) storeLocked(group string, at place, p progress) {
	g := v.groups[group]
	switch {
	case p != progress{committed: none}:
		if g.queues == nil {
			g.queues = map[place]progress{}
		}
		g.queues[at] = p
	case len(g.queues) == 1:
		g.queues = nil
	default:
		delete(g.queues, at)
	}
}

// DropTopic removes all offsets and leases of a topic, when the record that
// deletes it is applied.
func (v *View) DropTopic(topicID uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, g := range v.groups {
		for at, p := range g.queues {
			if at.topic == topicID {
				v.setLocked(name, at, p, progress{committed: none})
			}
		}
	}
}
