package group

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// maxFilterBytes is the length of a filter's text, as in package message/filter.
	maxFilterBytes = 8 << 10
	// shownBytes is how much of a subscription an error shows.
	shownBytes = 1000
)

// filters are those of the topics of one subscription, by topic.
type filters map[string]protocol.Filter

// filtersOf are the filters of a request's groups. Whether their texts can be
// compiled is seen when they are used.
func filtersOf(consumers []protocol.Subscription, topics map[string][]string) (map[string]filters, error) {
	all := map[string]filters{}
	for _, sub := range consumers {
		for _, f := range sub.Filters {
			_, subscribed := slices.BinarySearch(topics[sub.Group], f.Topic)
			filter := protocol.Filter{Kind: f.Kind, Text: f.Text}
			before, twice := all[sub.Group][f.Topic]
			switch {
			case !subscribed:
				return nil, protocol.Errorf(protocol.InvalidArgument, "group %q: filter of topic %.200q, which is not subscribed", sub.Group, f.Topic)
			case f.Kind != protocol.FilterTag && f.Kind != protocol.FilterSQL:
				return nil, protocol.Errorf(protocol.InvalidArgument, "group %q: filter of kind %.20q; tag and sql are known", sub.Group, f.Kind)
			case len(f.Text) > maxFilterBytes:
				return nil, protocol.Errorf(protocol.InvalidArgument, "group %q: filter of %d bytes, the limit is %d", sub.Group, len(f.Text), maxFilterBytes)
			case twice && before != filter:
				return nil, protocol.Errorf(protocol.InvalidArgument, "group %q: two filters of topic %q", sub.Group, f.Topic)
			}
			if all[sub.Group] == nil {
				all[sub.Group] = filters{}
			}
			all[sub.Group][f.Topic] = filter
		}
	}
	return all, nil
}

// IsCurrent reports whether what a client of an incarnation asks for may be done in
// the name of its id: not when another client with the id has a session.
func (s *Sessions) IsCurrent(client string, incarnation uint64) bool {
	c, ok := s.clients[client]
	return !ok || c.adopted() || c.said.Incarnation == incarnation
}

// checkOwner refuses a client whose id another one has. That one's session may be
// over soon: RetryAfterMillis is until then, and until Expire has been called.
func (s *Sessions) checkOwner(now time.Time, req *protocol.HeartbeatRequest) error {
	if s.IsCurrent(req.ClientID, req.Incarnation) {
		return nil
	}
	c := s.clients[req.ClientID]
	err := protocol.Errorf(protocol.Conflict, "client id %q is in use by another client since %s, in groups %.200q",
		req.ClientID, c.since.UTC().Format(time.RFC3339), slices.Sorted(maps.Keys(c.topics)))
	err.RetryAfterMillis = (max(s.timeout-now.Sub(c.seen), 0) + s.timeout/6).Milliseconds()
	return err
}

// checkAgreement refuses a client that would subscribe otherwise in one of the
// groups than a member of it does, or than those did who are expected back.
func (s *Sessions) checkAgreement(now time.Time, client string, groups []string, topics map[string][]string, filters map[string]filters) error {
	for _, g := range groups {
		mine, in := topics[g]
		if !in {
			continue
		}
		strict := s.MustAgree != nil && s.MustAgree(g)
		if err := s.checkRemembered(now, strict, client, g, Subscription{subscribed(mine, g), filters[g]}); err != nil {
			return err
		}
		for other, c := range s.members[g] {
			if other == client || agree(strict, subscribed(mine, g), subscribed(c.topics[g], g), filters[g], c.filters[g]) {
				continue
			}
			return protocol.Errorf(protocol.Conflict, "in group %q client %q subscribes %s, and client %q, which was there first, subscribes %s; members must have %s",
				g, client, describe(mine, filters[g]), other, describe(c.topics[g], c.filters[g]), rule(strict))
		}
	}
	return nil
}

// checkRemembered holds who joins a group to what was subscribed before the broker
// started, while a client that held queues of it may come back: it has not lost its
// group to whoever reports first. RetryAfterMillis is until nobody is expected any
// more.
func (s *Sessions) checkRemembered(now time.Time, strict bool, client, group string, mine Subscription) error {
	c := s.returning(group, client)
	if c == nil || s.Remembered == nil {
		return nil
	}
	before, ok := s.Remembered(group)
	if !ok || agree(strict, mine.topics, before.topics, mine.filters, before.filters) {
		return nil
	}
	err := protocol.Errorf(protocol.Conflict, "in group %q client %q subscribes %s, and its members, which may come back since the broker started, subscribed %s; members must have %s",
		group, client, describe(mine.topics, mine.filters), describe(before.topics, before.filters), rule(strict))
	err.RetryAfterMillis = (max(s.timeout-now.Sub(c.seen), 0) + s.timeout/6).Milliseconds()
	return err
}

// rule says what members must have in common.
func rule(strict bool) string {
	if strict {
		return "the same topics and filters"
	}
	return "the same filter for a topic"
}

// subscribed are the topics without the group's retry topic: whether a member reads
// that depends on how it consumes.
func subscribed(topics []string, group string) []string {
	retry := message.RetryTopic(group)
	if at, found := slices.BinarySearch(topics, retry); found {
		return slices.Concat(topics[:at], topics[at+1:])
	}
	return topics
}

// agree compares two subscriptions; the topics are sorted.
func agree(strict bool, a, b []string, fa, fb filters) bool {
	if strict {
		return slices.Equal(a, b) && maps.Equal(fa, fb)
	}
	for _, topic := range a {
		if _, both := slices.BinarySearch(b, topic); both && fa[topic] != fb[topic] {
			return false
		}
	}
	return true
}

// describe is a subscription for people: orders (tag a || b), payments.
func describe(topics []string, f filters) string {
	var text strings.Builder
	for i, topic := range topics {
		if i > 0 {
			text.WriteString(", ")
		}
		text.WriteString(topic)
		if filter, ok := f[topic]; ok {
			fmt.Fprintf(&text, " (%s %s)", filter.Kind, filter.Text)
		}
		if text.Len() > shownBytes {
			return fmt.Sprintf("%.*s ... (%d topics)", shownBytes, text.String(), len(topics))
		}
	}
	return text.String()
}
