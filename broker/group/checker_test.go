package group

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

// checker makes a heartbeat of a producer that can be asked for groups.
func checker(client string, groups ...string) *protocol.HeartbeatRequest {
	req := heartbeat(client)
	req.Producers, req.Checkers = append([]string{"other"}, groups...), groups
	return req
}

func wantCheckers(t testing.TB, s *Sessions, group string, clients ...string) {
	t.Helper()
	want := []string{}
	for _, c := range clients {
		want = append(want, protocol.InboxSubject(c))
	}
	if got := s.Checkers(group); !slices.Equal(got, want) {
		t.Errorf("checkers of %q: got %v, want %v", group, got, want)
	}
}

func TestCheckers(t *testing.T) {
	s := NewSessions(0)
	joined := uint64(0)
	wantJoined := func(more uint64) {
		t.Helper()
		if joined += more; s.Joined() != joined {
			t.Errorf("joined is %d, want %d", s.Joined(), joined)
			joined = s.Joined()
		}
	}
	beat(t, s, at(0), checker("c2", "g", "h", "g"))
	wantJoined(2)
	beat(t, s, at(0), checker("c1", "g"))
	wantJoined(1)
	wantCheckers(t, s, "g", "c1", "c2")
	wantCheckers(t, s, "h", "c2")
	wantCheckers(t, s, "other")
	beat(t, s, at(1), checker("c2", "g"))
	wantJoined(0)
	wantCheckers(t, s, "g", "c1", "c2")
	wantCheckers(t, s, "h")
	beat(t, s, at(2), checker("c2", "h", "g"))
	wantJoined(1)

	moved := checker("c1", "g")
	moved.Inbox = "rmq.c.elsewhere"
	beat(t, s, at(3), moved)
	wantJoined(0)
	if got := s.Checkers("g"); got[0] != "rmq.c.elsewhere" {
		t.Errorf("after a move of c1 got %v", got)
	}
	s.Leave(at(3), "c1", "g") // a consumer group of that name: it is in none
	if got := s.Checkers("g"); len(got) != 2 {
		t.Errorf("got %v after c1 left a consumer group", got)
	}
	s.Leave(at(3), "c1", "")
	wantCheckers(t, s, "g", "c2")
	s.Expire(at(8.5))
	wantCheckers(t, s, "g")
	wantCheckers(t, s, "h")
	if len(s.checkers) != 0 {
		t.Errorf("%d groups are kept that nobody can be asked for", len(s.checkers))
	}
	beat(t, s, at(9), checker("c2", "g"))
	wantJoined(1)
}

func TestAnAdoptedClientIsNoChecker(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "c", "g")
	wantCheckers(t, s, "g")
}

func TestCheckersThatAreRefused(t *testing.T) {
	many := checker("c")
	for i := range MaxGroups + 1 {
		many.Checkers = append(many.Checkers, fmt.Sprint("g", i%10))
	}
	many.Producers = []string{"g0", "g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8", "g9"}
	foreign := checker("c", "g")
	foreign.Producers = []string{"h"}
	illegal := checker("c", "no group")
	for what, req := range map[string]*protocol.HeartbeatRequest{"too many": many, "of no producer": foreign, "illegal": illegal} {
		s := NewSessions(0)
		beat(t, s, at(0), checker("c", "before"))
		if _, err := s.Heartbeat(at(1), req); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%s: got %v, want InvalidArgument", what, err)
		}
		wantCheckers(t, s, "before", "c")
	}
}
