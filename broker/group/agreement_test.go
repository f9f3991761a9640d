package group

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/transport/protocol"
)

// subscribing is a heartbeat of subscriptions as "group:topic,topic=tag", with
// a semicolon between them.
func subscribing(client, subscriptions string) *protocol.HeartbeatRequest {
	req := heartbeat(client)
	for text := range strings.SplitSeq(subscriptions, "; ") {
		group, list, _ := strings.Cut(text, ":")
		sub := protocol.Subscription{Group: group}
		for _, t := range strings.Split(list, ",") {
			topic, tag, filtered := strings.Cut(t, "=")
			sub.Topics = append(sub.Topics, topic)
			if filtered {
				sub.Filters = append(sub.Filters, protocol.TopicFilter{Topic: topic, Kind: protocol.FilterTag, Text: tag})
			}
		}
		req.Consumers = append(req.Consumers, sub)
	}
	return req
}

func agreeing(must bool) *Sessions {
	s := NewSessions(0)
	s.MustAgree = func(string) bool { return must }
	return s
}

func refused(t testing.TB, s *Sessions, now time.Time, req *protocol.HeartbeatRequest, mentions ...string) *protocol.Error {
	t.Helper()
	_, err := s.Heartbeat(now, req)
	var e *protocol.Error
	if !errors.As(err, &e) || e.Code != protocol.Conflict {
		t.Fatalf("got %v, want Conflict", err)
	}
	for _, m := range mentions {
		if !strings.Contains(e.Remark, m) {
			t.Errorf("%q is not in %q", m, e.Remark)
		}
	}
	return e
}

func TestAgreement(t *testing.T) {
	tests := []struct {
		name         string
		must         bool
		first, other string
		conflict     bool
	}{
		{"the same", true, "g:a,b=x", "g:b=x,a", false},
		{"other topics", true, "g:a", "g:b", true},
		{"more topics", true, "g:a", "g:a,b", true},
		{"a filter", true, "g:a", "g:a=x", true},
		{"no filter", true, "g:a=x", "g:a", true},
		{"another filter", true, "g:a=x", "g:a=y", true},
		{"another group", true, "g:a=x", "h:a=y", false},
		{"the second group", true, "g:a; h:a", "h:a=y", true},
		{"other topics, if they may", false, "g:a=x", "g:b=y", false},
		{"a common topic, if they may", false, "g:a=x,b", "g:a=x,c", false},
		{"another filter of a common topic", false, "g:a=x,b", "g:a=y,c", true},
		{"no filter of a common topic", false, "g:a=x,b", "g:a,c", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := agreeing(tt.must)
			if _, err := s.Heartbeat(at(0), subscribing("first", tt.first)); err != nil {
				t.Fatal(err)
			}
			_, err := s.Heartbeat(at(1), subscribing("other", tt.other))
			if conflict := errors.Is(err, protocol.Conflict); conflict != tt.conflict || err != nil && !conflict {
				t.Fatalf("got %v", err)
			}
			if tt.conflict && (s.Count() != 1 || s.Alive("other", "g")) {
				t.Error("who is refused has a session")
			}
		})
	}
}

// A refusal names both clients and what they subscribe.
func TestAgreement_RefusalNamesBoth(t *testing.T) {
	s := agreeing(true)
	beat(t, s, at(0), subscribing("old", "g:orders=paid || open,bills"), "g")
	refused(t, s, at(1), subscribing("new", "g:orders=paid"), `"g"`, `"old"`, `"new"`, "bills, orders (tag paid || open)", `"new" subscribes orders (tag paid),`)
	var long []string
	for i := range 2000 {
		long = append(long, fmt.Sprintf("topic-of-a-long-list-%d", i))
	}
	if e := refused(t, s, at(1), subscribing("new", "g:"+strings.Join(long, ",")), "(2000 topics)"); len(e.Remark) > 4000 {
		t.Errorf("a remark of %d bytes", len(e.Remark))
	}
}

// A group's subscriptions change one member after another: the new ones are taken
// once the old ones are gone, and not before.
func TestAgreement_ChangesWhenTheOldOnesAreGone(t *testing.T) {
	s := agreeing(true)
	beat(t, s, at(0), subscribing("a", "g:x"), "g")
	beat(t, s, at(0), subscribing("b", "g:x"), "g")
	refused(t, s, at(1), subscribing("c", "g:y"))
	s.Leave(at(1), "a", "g")
	refused(t, s, at(1), subscribing("c", "g:y"), `"b"`)
	beat(t, s, at(2), subscribing("b", "g:x")) // unchanged
	s.Expire(at(8))
	beat(t, s, at(8), subscribing("c", "g:y"), "g")
	refused(t, s, at(9), subscribing("a", "g:x"), `"c"`)
	beat(t, s, at(9), subscribing("c", "g:z"), "g") // alone it may change
	beat(t, s, at(9), subscribing("c", "g:z=t"), "g")
	wantMembers(t, s, "g", "c:z")
}

// One of whom nothing is known but a lease cannot be disagreed with.
func TestAgreement_NotWithTheAdopted(t *testing.T) {
	s := agreeing(true)
	s.Adopt(at(0), "a", "g")
	beat(t, s, at(1), subscribing("b", "g:x"), "g")
	refused(t, s, at(2), subscribing("a", "g:y"))
	beat(t, s, at(2), subscribing("a", "g:x"), "g")
}

func TestFilters_AreChecked(t *testing.T) {
	filter := func(topic string, kind protocol.FilterKind, text string) protocol.TopicFilter {
		return protocol.TopicFilter{Topic: topic, Kind: kind, Text: text}
	}
	tests := []struct {
		name    string
		filters []protocol.TopicFilter
		ok      bool
	}{
		{"both kinds", []protocol.TopicFilter{filter("a", "tag", "x"), filter("b", "sql", "p = 1")}, true},
		{"one twice", []protocol.TopicFilter{filter("a", "tag", "x"), filter("a", "tag", "x")}, true},
		{"two of a topic", []protocol.TopicFilter{filter("a", "tag", "x"), filter("a", "tag", "y")}, false},
		{"two kinds for a topic", []protocol.TopicFilter{filter("a", "tag", "x"), filter("a", "sql", "x")}, false},
		{"of no topic", []protocol.TopicFilter{filter("c", "tag", "x")}, false},
		{"unknown kind", []protocol.TopicFilter{filter("a", "class", "x")}, false},
		{"longest", []protocol.TopicFilter{filter("a", "sql", strings.Repeat("x", maxFilterBytes))}, true},
		{"too long", []protocol.TopicFilter{filter("a", "sql", strings.Repeat("x", maxFilterBytes+1))}, false},
	}
	for _, tt := range tests {
		req := heartbeat("c", "g:b,a")
		req.Consumers[0].Filters = tt.filters
		if _, err := NewSessions(0).Heartbeat(at(0), req); (err == nil) != tt.ok || err != nil && !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

// as is a heartbeat of another client with an id.
func as(incarnation uint64, req *protocol.HeartbeatRequest) *protocol.HeartbeatRequest {
	req.Incarnation = incarnation
	return req
}

func TestOwner_OfAnIDIsOne(t *testing.T) {
	s := NewSessions(0)
	beat(t, s, at(0), as(1, heartbeat("c", "g:a")), "g")
	e := refused(t, s, at(2), as(2, heartbeat("c", "h:b")), `"c"`)
	if e.RetryAfterMillis != 5000 {
		t.Errorf("asked to try again after %d ms", e.RetryAfterMillis)
	}
	again := as(1, heartbeat("c", "g:a"))
	again.Inbox = "rmq.c.other" // after a reconnect
	beat(t, s, at(3), again)
	refused(t, s, at(7), as(2, heartbeat("c", "h:b")))
	if s.IsCurrent("c", 2) || !s.IsCurrent("c", 1) || !s.IsCurrent("d", 3) {
		t.Error("not the first one is current")
	}
	wantMembers(t, s, "g", "c:a")
	wantMembers(t, s, "h")
	s.Expire(at(9))
	beat(t, s, at(9), as(2, heartbeat("c", "h:b")), "h")
	refused(t, s, at(9), as(1, heartbeat("c", "g:a")))
}

func TestOwner_FreesTheIDWhenItLeaves(t *testing.T) {
	s := NewSessions(0)
	beat(t, s, at(0), as(1, heartbeat("c", "g:a", "h:a")), "g", "h")
	s.Leave(at(0), "c", "g")
	refused(t, s, at(0), as(2, heartbeat("c")))
	s.Leave(at(0), "c", "h")
	beat(t, s, at(0), as(2, heartbeat("c")))
	s.Adopt(at(1), "d", "g")
	beat(t, s, at(1), as(9, heartbeat("d", "g:a")), "g")
	if !s.IsCurrent("d", 9) {
		t.Error("who comes back after a restart of the broker is refused")
	}
}

func TestOwner_KeepsItsSessionWhileItProduces(t *testing.T) {
	s := NewSessions(0)
	req := as(1, heartbeat("c", "g:a"))
	req.Producers = []string{"p"}
	beat(t, s, at(0), req, "g")
	s.Leave(at(0), "c", "g")
	refused(t, s, at(0), as(2, heartbeat("c")))
}

// Whatever comes, members agree and an id is one client's; a refusal has a reason
// and changes nothing.
func TestAgreementAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		must := rapid.Bool().Draw(t, "must agree")
		s, now := agreeing(must), start
		type client struct {
			incarnation uint64
			topics      string // as in subscribing
			seen        time.Time
		}
		clients := map[string]client{}
		tokens := rapid.SampledFrom([]string{"x", "y", "x,y", "x=1", "x=2", "x=1,y"})
		t.Repeat(map[string]func(*rapid.T){
			"heartbeat": func(t *rapid.T) {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id")
				me := client{rapid.Uint64Range(1, 2).Draw(t, "incarnation"), tokens.Draw(t, "topics"), now}
				before, known := clients[id]
				want := !known || before.incarnation == me.incarnation
				for other, c := range clients {
					want = want && (other == id || me.topics == before.topics || agreeAsText(must, me.topics, c.topics))
				}
				_, err := s.Heartbeat(now, as(me.incarnation, subscribing(id, "g:"+me.topics)))
				if (err == nil) != want || err != nil && !errors.Is(err, protocol.Conflict) {
					t.Fatalf("%s subscribes %s among %v: %v", id, me.topics, clients, err)
				}
				if want {
					clients[id] = me
				}
			},
			"leave": func(t *rapid.T) {
				id := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "who")
				s.Leave(now, id, "g")
				delete(clients, id)
			},
			"pass": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
				s.Expire(now)
				maps.DeleteFunc(clients, func(_ string, c client) bool { return now.Sub(c.seen) >= DefaultTimeout })
			},
			"": func(t *rapid.T) {
				var got []string
				for _, m := range s.Members("g") {
					got = append(got, m.ClientID)
				}
				if !slices.Equal(got, slices.Sorted(maps.Keys(clients))) {
					t.Fatalf("got members %v, want %v", got, clients)
				}
			},
		})
	})
}

// agreeAsText is agree, of the texts of subscriptions.
func agreeAsText(must bool, a, b string) bool {
	if must {
		return a == b
	}
	for _, one := range strings.Split(a, ",") {
		for _, other := range strings.Split(b, ",") {
			if one[:1] == other[:1] && one != other {
				return false
			}
		}
	}
	return true
}

func TestConfig_PerMemberSubscriptionsAreKept(t *testing.T) {
	for i := range 4 {
		cfg := protocol.GroupConfig{Name: "g", ConsumeEnabled: i&1 != 0, PerMemberSubscriptions: i&2 != 0}
		got, err := DecodePut(EncodePut(cfg))
		if err != nil || got != cfg {
			t.Errorf("got %+v, %v, want %+v", got, err, cfg)
		}
		v := New()
		if err := v.Load(row{group: "g", config: true}.key(), []byte{encodeFlags(cfg)}); err != nil {
			t.Fatal(err)
		}
		if got, ok := v.Config("g"); !ok || fmt.Sprint(got) != fmt.Sprint(cfg) {
			t.Errorf("loaded %+v, want %+v", got, cfg)
		}
	}
}
