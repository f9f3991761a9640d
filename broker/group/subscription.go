package group

import (
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/transport/protocol"
)

// MaxSubscriptionBytes is the most that a record of a subscription may have.
const MaxSubscriptionBytes = 1 << 20

// Numbers of kinds of filters in records and rows.
const (
	filterNone = 0
	filterTag  = 1
	filterSQL  = 2
)

// Subscription is what the members of a group subscribe, without the group's retry
// topic. It does not change, and its zero value has no topic.
type Subscription struct {
	topics  []string // sorted
	filters filters
}

// Topics are its topics, sorted. The slice is shared and must not be changed.
func (s Subscription) Topics() []string { return s.topics }

// Has reports whether a topic is subscribed.
func (s Subscription) Has(topic string) bool {
	_, found := slices.BinarySearch(s.topics, topic)
	return found
}

// Filter is that of a topic; false without one.
func (s Subscription) Filter(topic string) (protocol.Filter, bool) {
	f, ok := s.filters[topic]
	return f, ok
}

// Equal reports whether two subscriptions have the same topics and filters.
func (s Subscription) Equal(o Subscription) bool {
	return agree(true, s.topics, o.topics, s.filters, o.filters)
}

// With is what either of two subscriptions has, with the filters of o for the topics
// that both have. Only those topics of s count that keep says.
func (s Subscription) With(o Subscription, keep func(topic string) bool) Subscription {
	all := Subscription{topics: slices.Clone(o.topics), filters: maps.Clone(o.filters)}
	for _, topic := range s.topics {
		if o.Has(topic) || !keep(topic) {
			continue
		}
		all.topics = append(all.topics, topic)
		if f, ok := s.filters[topic]; ok {
			if all.filters == nil {
				all.filters = filters{}
			}
			all.filters[topic] = f
		}
	}
	slices.Sort(all.topics)
	return all
}

// subscription is that of one member.
func (s *session) subscription(group string) Subscription {
	return Subscription{topics: subscribed(s.topics[group], group), filters: s.filters[group]}
}

// Subscription returns what the members of a group subscribe together; false while
// there are none.
func (s *Sessions) Subscription(group string) (all Subscription, ok bool) {
	for _, c := range s.members[group] {
		if s.MustAgree != nil && s.MustAgree(group) {
			return c.subscription(group), true
		}
		all, ok = all.With(c.subscription(group), func(string) bool { return true }), true
	}
	return all, ok
}

// EncodeSubscription is the payload of a record that says what the members of a
// group subscribe.
func EncodeSubscription(group string, s Subscription) []byte {
	return append(EncodeDelete(group), s.value()...)
}

// value is what rows have of it.
func (s Subscription) value() []byte {
	b := binary.AppendUvarint(nil, uint64(len(s.topics)))
	for _, topic := range s.topics {
		b = payload.AppendText(b, topic)
		f, ok := s.filters[topic]
		switch {
		case !ok:
			b = append(b, filterNone)
		case f.Kind == protocol.FilterTag:
			b = payload.AppendText(append(b, filterTag), f.Text)
		default:
			b = payload.AppendText(append(b, filterSQL), f.Text)
		}
	}
	return b
}

// DecodeSubscription reads what EncodeSubscription wrote. Errors: ErrRecord.
func DecodeSubscription(data []byte) (group string, s Subscription, err error) {
	p := open(data)
	group, s = p.name(), p.subscription()
	if err := p.end("subscription"); err != nil {
		return "", Subscription{}, err
	}
	return group, s, nil
}

// subscription takes what value has; topics that are not sorted nobody writes.
func (p *fields) subscription() (s Subscription) {
	for range p.Count(2) {
		topic := p.name()
		if n := len(s.topics); n > 0 && topic <= s.topics[n-1] {
			p.Fail()
		}
		s.topics = append(s.topics, topic)
		kind := p.Byte(filterSQL)
		if kind == filterNone {
			continue
		}
		f := protocol.Filter{Kind: protocol.FilterTag, Text: p.Text(0, maxFilterBytes)}
		if kind == filterSQL {
			f.Kind = protocol.FilterSQL
		}
		if s.filters == nil {
			s.filters = filters{}
		}
		s.filters[topic] = f
	}
	return s
}

// Subscription returns what the members of a group subscribed when that was last
// recorded, whether they are there or not; false when it never was.
func (v *View) Subscription(group string) (Subscription, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if g, ok := v.groups[group]; ok && g.subscription != nil {
		return *g.subscription, true
	}
	return Subscription{}, false
}

// ApplySubscription applies a record with the payload of EncodeSubscription that
// stands at index in the log. A group that is not there is created with the
// defaults. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplySubscription(index uint64, data []byte) error {
	name, s, err := DecodeSubscription(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.groups[name]; !ok {
		v.configureLocked(Default(name))
	}
	v.groups[name].subscription = &s
	v.changed[row{group: name, subscription: true}] = struct{}{}
	return nil
}

// loadSubscriptionLocked takes a row; its group was loaded before, because 'g' sorts
// before 's'.
func (v *View) loadSubscriptionLocked(name string, value []byte) error {
	p := fields{payload.Of(value)}
	s := p.subscription()
	g, ok := v.groups[name]
	if !ok || !p.Done() {
		return fmt.Errorf("%w: subscription of group %q", ErrRecord, name)
	}
	g.subscription = &s
	return nil
}

// returning is who is expected back in a group since the broker started: a client
// that held queues of it and has sent no heartbeat yet, other than one; nil for
// nobody.
func (s *Sessions) returning(group, other string) *session {
	for client, c := range s.adopted[group] {
		if client != other {
			return c
		}
	}
	return nil
}

// arrived takes a client out of those that are expected in groups.
func (s *Sessions) arrived(client string, groups iter.Seq[string]) {
	for g := range groups {
		if delete(s.adopted[g], client); len(s.adopted[g]) == 0 {
			delete(s.adopted, g)
		}
	}
}
