package group

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/transport/protocol"
)

// TestSessionsAgainstModel runs random events against one flat list of memberships.
func TestSessionsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &sessionModel{
			sessions: NewSessions(0), now: start,
			topics: map[[2]string]string{}, seen: map[string]time.Time{}, listed: map[string]bool{},
		}
		t.Repeat(map[string]func(*rapid.T){
			"heartbeat": m.heartbeat,
			"leave":     m.leave,
			"adopt":     m.adopt,
			"pass":      m.pass,
			"":          m.check,
		})
	})
}

var (
	modelClients = []string{"c", "d", "e"}
	modelGroups  = []string{"g", "h", "i"}
)

type sessionModel struct {
	sessions *Sessions
	now      time.Time
	topics   map[[2]string]string // by client and group
	seen     map[string]time.Time
	listed   map[string]bool // had a heartbeat
}

func (m *sessionModel) heartbeat(t *rapid.T) {
	client := rapid.SampledFrom(modelClients).Draw(t, "client")
	req := heartbeat(client)
	var want []string
	for _, g := range modelGroups {
		key := [2]string{client, g}
		before, was := m.topics[key]
		is := rapid.Bool().Draw(t, "in "+g)
		topic := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic")
		if is != was || is && (topic != before || !m.listed[client]) {
			want = append(want, g)
		}
		delete(m.topics, key)
		if is {
			m.topics[key] = topic
			req.Consumers = append(req.Consumers, protocol.Subscription{Group: g, Topics: []string{topic}})
		}
	}
	m.seen[client], m.listed[client] = m.now, true
	got, err := m.sessions.Heartbeat(m.now, req)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("heartbeat of %q: got %v, %v; want %v", client, got, err, want)
	}
}

func (m *sessionModel) forget(client, group string) (left []string) {
	for _, g := range modelGroups {
		key := [2]string{client, g}
		if _, ok := m.topics[key]; ok && (group == "" || group == g) {
			left = append(left, g)
			delete(m.topics, key)
		}
	}
	if group == "" || len(left) > 0 && len(m.groupsOf(client)) == 0 {
		delete(m.seen, client)
		delete(m.listed, client)
	}
	return left
}

func (m *sessionModel) groupsOf(client string) (groups []string) {
	for _, g := range modelGroups {
		if _, ok := m.topics[[2]string{client, g}]; ok {
			groups = append(groups, g)
		}
	}
	return groups
}

func (m *sessionModel) leave(t *rapid.T) {
	client := rapid.SampledFrom(modelClients).Draw(t, "client")
	group := rapid.SampledFrom(append([]string{""}, modelGroups...)).Draw(t, "group")
	want := m.forget(client, group)
	if got := m.sessions.Leave(m.now, client, group); !slices.Equal(got, want) {
		t.Fatalf("%q leaves %q: got %v, want %v", client, group, got, want)
	}
}

func (m *sessionModel) adopt(t *rapid.T) {
	client := rapid.SampledFrom(modelClients).Draw(t, "client")
	group := rapid.SampledFrom(modelGroups).Draw(t, "group")
	m.sessions.Adopt(m.now, client, group)
	if m.listed[client] {
		return
	}
	if _, ok := m.seen[client]; !ok {
		m.seen[client] = m.now
	}
	m.topics[[2]string{client, group}] = ""
}

func (m *sessionModel) pass(t *rapid.T) {
	m.now = m.now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
	var want []Expired
	for _, client := range slices.Sorted(maps.Keys(m.seen)) {
		if !m.now.Before(m.seen[client].Add(DefaultTimeout)) {
			want = append(want, Expired{Client: client, Groups: m.forget(client, "")})
		}
	}
	got := m.sessions.Expire(m.now)
	if !slices.EqualFunc(got, want, func(a, b Expired) bool { return a.Client == b.Client && slices.Equal(a.Groups, b.Groups) }) {
		t.Fatalf("got expired %v, want %v", got, want)
	}
}

func (m *sessionModel) check(t *rapid.T) {
	var groups []string
	for _, g := range modelGroups {
		var want []string
		for _, client := range modelClients {
			_, in := m.topics[[2]string{client, g}]
			if m.sessions.Alive(client, g) != in {
				t.Fatalf("%q in %q: got alive %v", client, g, !in)
			}
			if m.sessions.IsMember(client, g) != (in && m.listed[client]) {
				t.Fatalf("%q in %q: got member %v", client, g, m.sessions.IsMember(client, g))
			}
			if in && m.listed[client] {
				want = append(want, client+m.topics[[2]string{client, g}])
			}
		}
		var got []string
		for _, member := range m.sessions.Members(g) {
			got = append(got, member.ClientID+member.Topics[0])
		}
		if !slices.Equal(got, want) {
			t.Fatalf("members of %q: got %v, want %v", g, got, want)
		}
		if len(want) > 0 {
			groups = append(groups, g)
		}
	}
	if got := m.sessions.Groups(); !slices.Equal(got, groups) {
		t.Fatalf("got groups %v, want %v", got, groups)
	}
	if got := m.sessions.Count(); got != len(m.listed) {
		t.Fatalf("got %d sessions, want %d", got, len(m.listed))
	}
}
