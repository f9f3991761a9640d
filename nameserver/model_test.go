package nameserver

import (
	"cmp"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// model is the registry as a plain list of what was accepted last.
type model struct{ rows []row }

type row struct {
	req  protocol.RegisterBrokerRequest
	seen time.Time
}

const modelTimeout = 3 * time.Second

var (
	modelTopics  = []string{"t1", "t2", "t3", "t4"}
	modelBrokers = []string{"a", "b"}
)

func (m *model) find(id protocol.BrokerIdentity) *row {
	for i := range m.rows {
		if m.rows[i].req.Broker == id.Broker && m.rows[i].req.ID == id.ID {
			return &m.rows[i]
		}
	}
	return nil
}

// foreign tells whether the name belongs to another cluster, the broker itself
// apart.
func (m *model) foreign(id protocol.BrokerIdentity) bool {
	return slices.ContainsFunc(m.rows, func(r row) bool {
		return r.req.Broker == id.Broker && r.req.ID != id.ID && r.req.Cluster != id.Cluster
	})
}

func (m *model) register(now time.Time, req protocol.RegisterBrokerRequest) protocol.ErrorCode {
	known := m.find(req.BrokerIdentity)
	if m.foreign(req.BrokerIdentity) {
		return protocol.Conflict
	}
	switch {
	case known == nil:
		m.rows = append(m.rows, row{req, now})
	case req.Incarnation > known.req.Incarnation:
		*known = row{req, now}
	case req.Incarnation < known.req.Incarnation, req.Cluster != known.req.Cluster,
		!slices.Equal(req.Addresses, known.req.Addresses):
		return protocol.Conflict
	case req.DataVersion < known.req.DataVersion:
		known.seen = now
	default:
		*known = row{req, now}
	}
	return 0
}

func (m *model) heartbeat(now time.Time, req protocol.BrokerHeartbeatRequest) (bool, protocol.ErrorCode) {
	known := m.find(req.BrokerIdentity)
	switch {
	case known == nil || req.Incarnation > known.req.Incarnation:
		return false, 0
	case req.Incarnation < known.req.Incarnation || req.Cluster != known.req.Cluster:
		return false, protocol.Conflict
	}
	known.seen = now
	return known.req.DataVersion == req.DataVersion, 0
}

func (m *model) leave(id protocol.BrokerIdentity) protocol.ErrorCode {
	known := m.find(id)
	if known == nil {
		return 0
	}
	if id.Incarnation < known.req.Incarnation || id.Cluster != known.req.Cluster {
		return protocol.Conflict
	}
	m.rows = slices.DeleteFunc(m.rows, func(r row) bool { return r.req.Broker == id.Broker && r.req.ID == id.ID })
	return 0
}

func (m *model) expire(now time.Time) {
	m.rows = slices.DeleteFunc(m.rows, func(r row) bool { return !now.Before(r.seen.Add(modelTimeout)) })
}

func (m *model) routes() map[string][]protocol.TopicRoute {
	routes := make(map[string][]protocol.TopicRoute)
	for _, r := range m.rows {
		for _, t := range r.req.Topics {
			routes[t.Name] = append(routes[t.Name], protocol.TopicRoute{
				Cluster: r.req.Cluster, Broker: r.req.Broker, ID: r.req.ID, Addresses: r.req.Addresses,
				ReadQueues: t.ReadQueues, WriteQueues: t.WriteQueues, Perm: t.Perm, Type: t.Type,
			})
		}
	}
	for _, rs := range routes {
		slices.SortFunc(rs, func(a, b protocol.TopicRoute) int {
			return cmp.Or(cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.ID, b.ID))
		})
	}
	return routes
}

func drawIdentity(t *rapid.T) protocol.BrokerIdentity {
	return protocol.BrokerIdentity{
		Cluster:     rapid.SampledFrom([]string{"c", "c", "c", "d"}).Draw(t, "cluster"),
		Broker:      rapid.SampledFrom(modelBrokers).Draw(t, "broker"),
		ID:          rapid.IntRange(0, 1).Draw(t, "id"),
		Incarnation: rapid.Uint64Range(1, 3).Draw(t, "incarnation"),
	}
}

func drawRegistration(t *rapid.T) protocol.RegisterBrokerRequest {
	req := protocol.RegisterBrokerRequest{
		BrokerIdentity: drawIdentity(t),
		Addresses:      []string{rapid.SampledFrom([]string{"h:1", "h:1", "h:2"}).Draw(t, "address")},
		DataVersion:    rapid.Uint64Range(1, 3).Draw(t, "version"),
	}
	for _, name := range modelTopics {
		if rapid.Bool().Draw(t, name) {
			req.Topics = append(req.Topics, protocol.TopicConfig{
				Name: name, ReadQueues: rapid.IntRange(1, 2).Draw(t, "queues"),
				Type: rapid.SampledFrom([]message.Kind{"", message.Priority}).Draw(t, "type"),
			})
		}
	}
	return req
}

// TestRegistryAgainstModel runs random histories. After each step all answers
// are the model's, and the change that is told names exactly the topics whose
// route is another than before.
func TestRegistryAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, m, now := newRegistry(modelTimeout), new(model), at(0)
		before := m.routes()
		var told change
		code := func(err error) protocol.ErrorCode { return protocol.CodeOf(err) }
		verify := func(got, want protocol.ErrorCode) {
			if got != want {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				req := drawRegistration(t)
				c, err := r.register(now, &req)
				told = c
				verify(code(err), m.register(now, req))
			},
			"heartbeat": func(t *rapid.T) {
				req := protocol.BrokerHeartbeatRequest{BrokerIdentity: drawIdentity(t), DataVersion: rapid.Uint64Range(1, 3).Draw(t, "version")}
				known, _, err := r.heartbeat(now, &req)
				wantKnown, want := m.heartbeat(now, req)
				verify(code(err), want)
				if known != wantKnown {
					t.Fatalf("known %v, want %v", known, wantKnown)
				}
			},
			"leave": func(t *rapid.T) {
				id := drawIdentity(t)
				c, err := r.leave(id)
				told = c
				verify(code(err), m.leave(id))
			},
			"time passes": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
				told, _ = r.expire(now)
				m.expire(now)
			},
			"": func(t *rapid.T) {
				after := m.routes()
				checkAnswers(t, r, m, after)
				checkChange(t, told, before, after)
				before, told = after, change{}
			},
		})
	})
}

func checkAnswers(t *rapid.T, r *registry, m *model, want map[string][]protocol.TopicRoute) {
	for _, topic := range modelTopics {
		got, err := r.route(topic)
		if !reflect.DeepEqual(got, want[topic]) || (err != nil) != (want[topic] == nil) || (err != nil && !errors.Is(err, protocol.TopicNotFound)) {
			t.Fatalf("route of %s: %+v, %v; want %+v", topic, got, err, want[topic])
		}
	}
	if got := r.topics(); len(got) != len(want) || !slices.IsSorted(got) {
		t.Fatalf("topics %v, want the keys of %v", got, want)
	}
	brokers := r.cluster()
	if len(brokers) != len(m.rows) {
		t.Fatalf("%d brokers, want %d", len(brokers), len(m.rows))
	}
	for _, b := range brokers {
		known := m.find(b.BrokerIdentity)
		if known == nil || known.req.BrokerIdentity != b.BrokerIdentity || known.req.DataVersion != b.DataVersion ||
			known.seen.UnixMilli() != b.LastSeenMillis || len(known.req.Topics) != b.Topics {
			t.Fatalf("broker %+v, want %+v", b, known)
		}
	}
}

func checkChange(t *rapid.T, told change, before, after map[string][]protocol.TopicRoute) {
	var want []string
	for _, topic := range modelTopics {
		if !reflect.DeepEqual(before[topic], after[topic]) {
			want = append(want, topic)
		}
	}
	if !slices.Equal(told.topics, want) || (len(want) > 0 && !told.any) {
		t.Fatalf("told %+v, changed were %v", told, want)
	}
}
