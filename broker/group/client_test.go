package group

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

func ids(list []Client) []string {
	var all []string
	for _, c := range list {
		all = append(all, c.ID)
	}
	return all
}

func TestClients_InOrderByPages(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "held", "g")
	for i, name := range []string{"c3", "c1", "c2"} {
		beat(t, s, at(float64(i)), heartbeat(name, "g:a"), "g")
	}
	producer := heartbeat("p")
	producer.Producers = []string{"shop"}
	beat(t, s, at(3), producer)
	beat(t, s, at(3), heartbeat("left", "h:a"), "h")
	s.Leave(at(3), "left", "h")
	for _, id := range []string{"held", "left", "nobody"} {
		if c, ok := s.Client(id); ok {
			t.Errorf("%s is gone, or nobody knows whether it is there: %+v", id, c)
		}
	}
	for _, c := range []struct {
		group, after string
		limit        int
		want         []string
		more         bool
	}{
		{"", "", 9, []string{"c1", "c2", "c3", "p"}, false},
		{"", "", 4, []string{"c1", "c2", "c3", "p"}, false},
		{"", "", 3, []string{"c1", "c2", "c3"}, true},
		{"", "c1", 2, []string{"c2", "c3"}, true},
		{"", "p", 2, nil, false},
		{"g", "", 9, []string{"c1", "c2", "c3"}, false},
		{"g", "c2", 9, []string{"c3"}, false},
		{"none", "", 9, nil, false},
	} {
		if got, more := s.Clients(c.group, c.after, c.limit); !slices.Equal(ids(got), c.want) || more != c.more {
			t.Errorf("%+v: got %v, %t", c, ids(got), more)
		}
	}
}

func TestClient_IsWhatItSaidLast(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "c", "g")
	first := heartbeat("c", "g:a", "h:b")
	beat(t, s, at(1), first, "g", "h")
	last := heartbeat("c", "g:a", "h:b")
	last.Language, last.Producers = "go", []string{"shop"}
	beat(t, s, at(2), last)
	c, ok := s.Client("c")
	if !ok || c.Since != at(1) || c.Seen != at(2) || c.Said != last || len(c.Consumers) != 2 {
		t.Errorf("got %+v", c)
	}
	s.Leave(at(3), "c", "h")
	if c, _ := s.Client("c"); len(c.Consumers) != 1 || c.Consumers[0].Group != "g" {
		t.Errorf("after it has left a group: %+v", c.Consumers)
	}
	s.Expire(at(60))
	beat(t, s, at(61), heartbeat("c", "g:a"), "g")
	if c, _ := s.Client("c"); c.Since != at(61) {
		t.Errorf("a new session: got %v", c.Since)
	}
}

func TestStarts_OfTheMembersThatSaySo(t *testing.T) {
	s := NewSessions(0)
	s.Adopt(at(0), "held", "g")
	begin := func(client string, start *protocol.Start) {
		req := heartbeat(client, "g:a", "h:a")
		req.Consumers[0].Start = start
		beat(t, s, at(0), req, "g", "h")
	}
	begin("c1", &protocol.Start{Target: protocol.ResetToLatest})
	begin("c2", &protocol.Start{Target: protocol.ResetToOffset, Value: 5})
	begin("c3", nil)
	if got := fmt.Sprint(s.Starts("g")); got != "map[c1:{latest 0} c2:{offset 5}]" {
		t.Errorf("got %s", got)
	}
	s.Leave(at(1), "c1", "g")
	if got := fmt.Sprint(s.Starts("g")); got != "map[c2:{offset 5}]" || len(s.Starts("h")) != 0 || len(s.Starts("none")) != 0 {
		t.Errorf("got %s, %v", got, s.Starts("h"))
	}
}

func TestCheckStart(t *testing.T) {
	for start, good := range map[protocol.Start]bool{
		{Target: protocol.ResetToEarliest}: true, {Target: protocol.ResetToLatest}: true,
		{Target: protocol.ResetToOffset}: true, {Target: protocol.ResetToOffset, Value: -1}: false,
		{Target: protocol.ResetToTime, Value: -1}: true, {}: false, {Target: "middle"}: false,
	} {
		if err := CheckStart(&start); (err == nil) != good || err != nil && !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%+v: %v", start, err)
		}
	}
	if err := CheckStart(nil); err != nil {
		t.Errorf("none: %v", err)
	}
	s := NewSessions(0)
	req := heartbeat("c", "g:a")
	req.Consumers[0].Start = &protocol.Start{Target: "middle"}
	if _, err := s.Heartbeat(at(0), req); !errors.Is(err, protocol.InvalidArgument) || s.Count() != 0 {
		t.Errorf("a heartbeat with it: %v", err)
	}
}
