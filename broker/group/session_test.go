package group

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

var start = time.Unix(1_000_000, 0)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

// heartbeat makes one of subscriptions as "group:topic,topic".
func heartbeat(client string, subscriptions ...string) *protocol.HeartbeatRequest {
	req := &protocol.HeartbeatRequest{ClientID: client, Version: "v1", Inbox: protocol.InboxSubject(client)}
	for _, s := range subscriptions {
		group, topics, _ := strings.Cut(s, ":")
		req.Consumers = append(req.Consumers, protocol.Subscription{Group: group, Topics: strings.Split(topics, ",")})
	}
	return req
}

func beat(t testing.TB, s *Sessions, now time.Time, req *protocol.HeartbeatRequest, want ...string) {
	t.Helper()
	got, err := s.Heartbeat(now, req)
	if err != nil {
		t.Fatalf("heartbeat of %q: %v", req.ClientID, err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("heartbeat of %q: got changed groups %v, want %v", req.ClientID, got, want)
	}
}

func wantMembers(t testing.TB, s *Sessions, group string, want ...string) {
	t.Helper()
	got := []string{}
	for _, m := range s.Members(group) {
		got = append(got, m.ClientID+":"+strings.Join(m.Topics, ","))
	}
	if !slices.Equal(got, want) {
		t.Errorf("members of %q: got %v, want %v", group, got, want)
	}
}

func TestHeartbeatTellsWhatChanged(t *testing.T) {
	s := NewSessions(0)
	beat(t, s, at(0), heartbeat("c1", "g:b,a,b", "h:x"), "g", "h")
	wantMembers(t, s, "g", "c1:a,b")
	beat(t, s, at(1), heartbeat("c1", "h:x", "g:a,b"))
	beat(t, s, at(1), heartbeat("c0", "g:a"), "g")
	wantMembers(t, s, "g", "c0:a", "c1:a,b")
	beat(t, s, at(2), heartbeat("c1", "g:a", "h:x"), "g")
	beat(t, s, at(3), heartbeat("c1", "i:x", "g:a"), "h", "i")
	wantMembers(t, s, "h")
	if s.Alive("c1", "h") || !s.Alive("c1", "i") {
		t.Error("alive is not what the last heartbeat said")
	}
	beat(t, s, at(4), heartbeat("c1"), "g", "i")
	wantMembers(t, s, "g", "c0:a")
	if s.Count() != 2 {
		t.Errorf("got %d sessions, want 2", s.Count())
	}
	if got := s.Groups(); !slices.Equal(got, []string{"g"}) {
		t.Errorf("got groups %v, want g", got)
	}
}

func TestSubscriptionsOfOneGroupAreTakenTogether(t *testing.T) {
	s := NewSessions(0)
	beat(t, s, at(0), heartbeat("c", "g:b", "g:a"), "g")
	wantMembers(t, s, "g", "c:a,b")
}

func TestMembersAreTheCallers(t *testing.T) {
	s := NewSessions(0)
	req := heartbeat("c", "g:a,b")
	beat(t, s, at(0), req, "g")
	s.Members("g")[0].Topics[0] = "changed"
	req.Consumers[0].Topics[0] = "changed"
	wantMembers(t, s, "g", "c:a,b")
	if got := s.Members("unknown"); got == nil || len(got) != 0 {
		t.Errorf("got %v, want an empty list", got)
	}
}

func TestInbox(t *testing.T) {
	s := NewSessions(0)
	if got := s.Inbox("c"); got != "" {
		t.Errorf("got %q of an unknown client", got)
	}
	req := heartbeat("c")
	beat(t, s, at(0), req)
	req.Inbox = "rmq.c.other" // after a reconnect
	beat(t, s, at(1), req)
	if got := s.Inbox("c"); got != "rmq.c.other" {
		t.Errorf("got %q", got)
	}
}

func TestLeave(t *testing.T) {
	s := NewSessions(0)
	beat(t, s, at(0), heartbeat("c", "g:a", "h:a"), "g", "h")
	for _, c := range []struct {
		client, group string
		want          []string
	}{
		{"unknown", "", nil},
		{"unknown", "g", nil},
		{"c", "unknown", nil},
		{"c", "h", []string{"h"}},
		{"c", "h", nil},
	} {
		if got := s.Leave(at(1), c.client, c.group); !slices.Equal(got, c.want) {
			t.Errorf("%q leaves %q: got %v, want %v", c.client, c.group, got, c.want)
		}
	}
	wantMembers(t, s, "h")
	wantMembers(t, s, "g", "c:a")
	if s.Alive("c", "h") || s.IsMember("c", "h") || !s.IsMember("c", "g") {
		t.Error("c is still in h, or not in g")
	}
	beat(t, s, at(2), heartbeat("c", "g:a", "h:a", "i:a"), "h", "i")
	if got := s.Leave(at(3), "c", ""); !slices.Equal(got, []string{"g", "h", "i"}) {
		t.Errorf("got %v, want g, h and i", got)
	}
	if s.Count() != 0 || s.Inbox("c") != "" || len(s.Groups()) != 0 {
		t.Error("the session is still there")
	}
}

func TestExpire(t *testing.T) {
	s := NewSessions(0)
	beat(t, s, at(0), heartbeat("b", "g:a", "h:a"), "g", "h")
	beat(t, s, at(0), heartbeat("a"))
	beat(t, s, at(1), heartbeat("c", "g:a"), "g")
	if got := s.Expire(at(5.999)); len(got) != 0 {
		t.Errorf("got %v before the timeout", got)
	}
	beat(t, s, at(5), heartbeat("c", "g:a"))
	want := []Expired{{Client: "a"}, {Client: "b", Groups: []string{"g", "h"}}}
	if got := s.Expire(at(6)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	wantMembers(t, s, "g", "c:a")
	if s.Alive("b", "g") {
		t.Error("b is alive")
	}
	if got := s.Expire(at(10)); len(got) != 0 {
		t.Errorf("got %v, which had expired or has not", got)
	}
	beat(t, s, at(10), heartbeat("b", "g:a"), "g")
}

func TestTimeoutIsConfigured(t *testing.T) {
	s := NewSessions(time.Second)
	beat(t, s, at(0), heartbeat("c"))
	if got := s.Expire(at(1)); len(got) != 1 || s.Timeout() != time.Second {
		t.Errorf("got %v with timeout %v", got, s.Timeout())
	}
	if NewSessions(0).Timeout() != DefaultTimeout {
		t.Error("0 is not the default")
	}
}

func TestAdoptedClientKeepsItsLeasesUnseen(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "c", "g")
	s.Adopt(at(0), "c", "h")
	if !s.Alive("c", "g") || s.Alive("c", "i") {
		t.Error("alive is not what was adopted")
	}
	if s.IsMember("c", "g") || s.Inbox("c") != "" || s.Count() != 0 || len(s.Groups()) != 0 {
		t.Error("an adopted client is listed")
	}
	wantMembers(t, s, "g")
	beat(t, s, at(3), heartbeat("c", "g:a"), "g", "h") // it joins g; what it held of h is free
	wantMembers(t, s, "g", "c:a")
	if s.Alive("c", "h") {
		t.Error("c is alive in h")
	}
	s.Adopt(at(3), "c", "h")
	if s.Alive("c", "h") {
		t.Error("a client that was heard was adopted")
	}
	if got := s.Expire(at(8.9)); len(got) != 0 {
		t.Errorf("got %v before the timeout", got)
	}
}

func TestAdoptedClientJoinsWithoutTopics(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "c", "g")
	req := heartbeat("c", "g:a")
	req.Consumers[0].Topics = nil
	beat(t, s, at(1), req, "g")
	wantMembers(t, s, "g", "c:")
}

func TestAdoptedClientExpires(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "c", "h")
	s.Adopt(at(5), "c", "g")
	want := []Expired{{Client: "c", Groups: []string{"g", "h"}}}
	if got := s.Expire(at(6)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.Adopt(at(7), "d", "g")
	if got := s.Leave(at(7), "d", "g"); !slices.Equal(got, []string{"g"}) || len(s.clients) != 0 {
		t.Errorf("got %v, %d clients", got, len(s.clients))
	}
}

func TestSessionsAreLimited(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "adopted", "g")
	for i := range MaxSessions - 1 {
		beat(t, s, at(0), heartbeat(fmt.Sprint("c", i)))
	}
	_, err := s.Heartbeat(at(0), heartbeat("one-more"))
	var e *protocol.Error
	if !errors.As(err, &e) || e.Code != protocol.Busy || e.RetryAfterMillis != DefaultTimeout.Milliseconds() {
		t.Errorf("got %v, want Busy with a time to wait", err)
	}
	if s.Alive("one-more", "g") || s.Inbox("one-more") != "" {
		t.Error("the refused client has a session")
	}
	beat(t, s, at(1), heartbeat("c0", "g:a"), "g")
	beat(t, s, at(1), heartbeat("adopted", "g:a"), "g")
	s.Adopt(at(1), "another", "g")
	if !s.Alive("another", "g") {
		t.Error("the limit held for a holder of leases")
	}
}

func TestHeartbeatIsChecked(t *testing.T) {
	many := make([]string, MaxGroups+1)
	for i := range many {
		many[i] = fmt.Sprint("g", i)
	}
	for name, change := range map[string]func(*protocol.HeartbeatRequest){
		"no client":        func(r *protocol.HeartbeatRequest) { r.ClientID = "" },
		"client":           func(r *protocol.HeartbeatRequest) { r.ClientID = "a b" },
		"long client":      func(r *protocol.HeartbeatRequest) { r.ClientID = strings.Repeat("c", 256) },
		"no inbox":         func(r *protocol.HeartbeatRequest) { r.Inbox = "" },
		"inbox >":          func(r *protocol.HeartbeatRequest) { r.Inbox = "rmq.>" },
		"inbox *":          func(r *protocol.HeartbeatRequest) { r.Inbox = "rmq.*" },
		"inbox with space": func(r *protocol.HeartbeatRequest) { r.Inbox = "rmq.c x" },
		"long inbox":       func(r *protocol.HeartbeatRequest) { r.Inbox = strings.Repeat("c", MaxInboxBytes+1) },
		"version":          func(r *protocol.HeartbeatRequest) { r.Version = strings.Repeat("v", MaxVersionBytes+1) },
		"language":         func(r *protocol.HeartbeatRequest) { r.Language = strings.Repeat("v", MaxVersionBytes+1) },
		"producer":         func(r *protocol.HeartbeatRequest) { r.Producers = []string{"a.b"} },
		"producers":        func(r *protocol.HeartbeatRequest) { r.Producers = many },
		"group":            func(r *protocol.HeartbeatRequest) { r.Consumers[0].Group = "a.b" },
		"topic":            func(r *protocol.HeartbeatRequest) { r.Consumers[0].Topics = []string{"a", ">"} },
		"topics":           func(r *protocol.HeartbeatRequest) { r.Consumers[0].Topics = slices.Repeat([]string{"a"}, MaxTopics+1) },
		"groups": func(r *protocol.HeartbeatRequest) {
			for _, g := range many {
				r.Consumers = append(r.Consumers, protocol.Subscription{Group: g})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSessions(0)
			req := heartbeat("c", "g:a")
			change(req)
			_, err := s.Heartbeat(at(0), req)
			var e *protocol.Error
			if !errors.As(err, &e) || e.Code != protocol.InvalidArgument {
				t.Errorf("got %v, want InvalidArgument", err)
			}
			if s.Count() != 0 {
				t.Error("there is a session")
			}
		})
	}
}

func TestLongestClientIDHasAnInbox(t *testing.T) {
	client := strings.Repeat("@", 255)
	beat(t, NewSessions(0), at(0), heartbeat(client, "g:%RETRY%g"), "g")
}
