package nameserver

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// at is a time on the tests' clock.
func at(d time.Duration) time.Time { return time.UnixMilli(1_000_000).Add(d) }

func identity(name string, incarnation uint64) protocol.BrokerIdentity {
	return protocol.BrokerIdentity{Cluster: "c", Broker: name, Incarnation: incarnation}
}

func registration(name string, incarnation, version uint64, topics ...string) *protocol.RegisterBrokerRequest {
	r := &protocol.RegisterBrokerRequest{
		BrokerIdentity: identity(name, incarnation), DataVersion: version,
		Addresses: []string{name + ":9876"},
	}
	for _, t := range topics {
		r.Topics = append(r.Topics, protocol.TopicConfig{Name: t, ReadQueues: 8, WriteQueues: 4, Perm: message.PermReadWrite})
	}
	return r
}

func heartbeatOf(r *protocol.RegisterBrokerRequest) *protocol.BrokerHeartbeatRequest {
	return &protocol.BrokerHeartbeatRequest{BrokerIdentity: r.BrokerIdentity, DataVersion: r.DataVersion}
}

// fill registers what must be accepted and returns the last change.
func fill(t *testing.T, r *registry, requests ...*protocol.RegisterBrokerRequest) change {
	t.Helper()
	var last change
	for _, req := range requests {
		c, err := r.register(at(0), req)
		if err != nil {
			t.Fatal(err)
		}
		last = c
	}
	return last
}

func wantCode(t *testing.T, what string, err error, code protocol.ErrorCode) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("%s: got %v, want %v", what, err, code)
	}
}

func TestRouteIsSortedAndComplete(t *testing.T) {
	r := newRegistry(time.Second)
	slave := registration("b", 1, 1, "orders")
	slave.ID = 1
	slave.Addresses = []string{"b1:1", "b1:2"}
	fill(t, r, slave, registration("b", 1, 1, "orders", "other"), registration("a", 1, 1, "orders"))
	got, err := r.route("orders")
	if err != nil {
		t.Fatal(err)
	}
	row := func(broker string, id int, addresses ...string) protocol.TopicRoute {
		return protocol.TopicRoute{Cluster: "c", Broker: broker, ID: id, Addresses: addresses, ReadQueues: 8, WriteQueues: 4, Perm: message.PermReadWrite}
	}
	want := []protocol.TopicRoute{row("a", 0, "a:9876"), row("b", 0, "b:9876"), row("b", 1, "b1:1", "b1:2")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if got := r.topics(); !slices.Equal(got, []string{"orders", "other"}) {
		t.Errorf("topics %v", got)
	}
	for name, code := range map[string]protocol.ErrorCode{
		"absent": protocol.TopicNotFound, "a.b": protocol.InvalidArgument, "": protocol.InvalidArgument,
		strings.Repeat("x", 128): protocol.InvalidArgument, "%DLQ%g": protocol.TopicNotFound,
	} {
		_, err := r.route(name)
		wantCode(t, name, err, code)
	}
}

func TestClusterIsSorted(t *testing.T) {
	r := newRegistry(time.Second)
	other := registration("a", 7, 9, "t")
	other.Cluster = "b"
	fill(t, r, registration("z", 1, 1), registration("y", 1, 1, "t", "u"), other)
	got := r.cluster()
	want := []protocol.BrokerInfo{
		{BrokerIdentity: other.BrokerIdentity, Addresses: other.Addresses, Topics: 1, DataVersion: 9, LastSeenMillis: 1_000_000},
		{BrokerIdentity: identity("y", 1), Addresses: []string{"y:9876"}, Topics: 2, DataVersion: 1, LastSeenMillis: 1_000_000},
		{BrokerIdentity: identity("z", 1), Addresses: []string{"z:9876"}, Topics: 0, DataVersion: 1, LastSeenMillis: 1_000_000},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestRegistrationChanges(t *testing.T) {
	moved := registration("a", 2, 1, "t", "u")
	moved.Addresses = []string{"elsewhere:1"}
	readOnly := registration("a", 1, 2, "t", "u")
	readOnly.Topics[1].Perm = message.PermRead
	for name, c := range map[string]struct {
		next *protocol.RegisterBrokerRequest
		want change
	}{
		"the same again":         {registration("a", 1, 1, "t", "u"), change{}},
		"a restart":              {registration("a", 2, 1, "t", "u"), change{}},
		"a new topic":            {registration("a", 1, 2, "t", "u", "v"), change{true, []string{"v"}}},
		"a topic less":           {registration("a", 1, 2, "u"), change{true, []string{"t"}}},
		"another permission":     {readOnly, change{true, []string{"u"}}},
		"other addresses":        {moved, change{true, []string{"t", "u"}}},
		"another broker":         {registration("b", 1, 1, "t"), change{true, []string{"t"}}},
		"a broker without topic": {registration("b", 1, 1), change{any: true}},
		"an older data version":  {registration("a", 1, 0, "x"), change{}},
	} {
		r := newRegistry(time.Second)
		if got := fill(t, r, registration("a", 1, 1, "t", "u")); !reflect.DeepEqual(got, change{true, []string{"t", "u"}}) {
			t.Errorf("first registration: %+v", got)
		}
		if got := fill(t, r, c.next); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestOlderDataVersionRenewsOnly(t *testing.T) {
	r := newRegistry(time.Second)
	fill(t, r, registration("a", 1, 5, "t"))
	if _, err := r.register(at(900*time.Millisecond), registration("a", 1, 4, "old")); err != nil {
		t.Fatal(err)
	}
	if _, dropped := r.expire(at(1500 * time.Millisecond)); dropped != nil {
		t.Error("it was not renewed")
	}
	if got := r.topics(); !slices.Equal(got, []string{"t"}) {
		t.Errorf("topics %v", got)
	}
}

func TestLowerIncarnationIsRefused(t *testing.T) {
	r := newRegistry(time.Second)
	old, current := registration("a", 3, 9, "t"), registration("a", 4, 1, "t")
	fill(t, r, old, current)
	_, err := r.register(at(0), old)
	wantCode(t, "register", err, protocol.Conflict)
	_, _, err = r.heartbeat(at(0), heartbeatOf(old))
	wantCode(t, "heartbeat", err, protocol.Conflict)
	_, err = r.leave(old.BrokerIdentity)
	wantCode(t, "leave", err, protocol.Conflict)
	if got := r.cluster(); len(got) != 1 || got[0].Incarnation != 4 {
		t.Errorf("cluster %+v", got)
	}
}

func TestTwoBrokersWithOneName(t *testing.T) {
	r := newRegistry(time.Second)
	fill(t, r, registration("a", 1, 1, "t"))
	twin := registration("a", 1, 1, "t")
	twin.Addresses = []string{"twin:1"}
	_, err := r.register(at(0), twin)
	wantCode(t, "same incarnation, other address", err, protocol.Conflict)
	if !strings.Contains(err.Error(), "a:9876") || !strings.Contains(err.Error(), "twin:1") {
		t.Errorf("the text does not name both: %v", err)
	}
	for _, id := range []int{0, 1} {
		stranger := registration("a", 1, 1, "t")
		stranger.Cluster, stranger.ID = "other", id
		_, err = r.register(at(0), stranger)
		wantCode(t, "other cluster", err, protocol.Conflict)
	}
	stranger := identity("a", 1)
	stranger.Cluster = "other"
	_, _, err = r.heartbeat(at(0), &protocol.BrokerHeartbeatRequest{BrokerIdentity: stranger})
	wantCode(t, "heartbeat from another cluster", err, protocol.Conflict)
	_, err = r.leave(stranger)
	wantCode(t, "leave from another cluster", err, protocol.Conflict)

	r.expire(at(time.Second))
	fill(t, r, twin) // once the first is gone
}

func TestHeartbeatAsksForRegistration(t *testing.T) {
	r := newRegistry(time.Second)
	known := registration("a", 2, 5, "t")
	fill(t, r, known)
	for name, c := range map[string]struct {
		beat *protocol.BrokerHeartbeatRequest
		want bool
	}{
		"known":                {heartbeatOf(known), true},
		"unknown":              {heartbeatOf(registration("b", 1, 1)), false},
		"other data version":   {heartbeatOf(registration("a", 2, 6)), false},
		"a later start":        {heartbeatOf(registration("a", 3, 5)), false},
		"lower data version":   {heartbeatOf(registration("a", 2, 4)), false},
		"nonsense but unknown": {&protocol.BrokerHeartbeatRequest{}, false},
	} {
		if got, _, err := r.heartbeat(at(0), c.beat); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if len(r.brokers) != 1 {
		t.Error("a heartbeat registered a broker")
	}
}

func TestSilentBrokersAreDropped(t *testing.T) {
	r := newRegistry(3 * time.Second)
	silent, alive := registration("silent", 1, 1, "t", "u"), registration("alive", 1, 1, "t")
	later := registration("later", 1, 1, "v")
	fill(t, r, silent, alive, later)
	for s := range 3 {
		beat := heartbeatOf(alive)
		beat.DataVersion = uint64(s) // one that asks for a registration counts too
		if _, _, err := r.heartbeat(at(time.Duration(s+1)*time.Second), beat); err != nil {
			t.Fatal(err)
		}
	}
	if c, dropped := r.expire(at(3*time.Second - 1)); c.any || dropped != nil {
		t.Fatalf("dropped too soon: %v", dropped)
	}
	if _, err := r.register(at(3*time.Second-1), later); err != nil {
		t.Fatal(err)
	}
	c, dropped := r.expire(at(3 * time.Second))
	if !reflect.DeepEqual(c, change{true, []string{"t", "u"}}) || !reflect.DeepEqual(dropped, []protocol.BrokerIdentity{silent.BrokerIdentity}) {
		t.Errorf("change %+v, dropped %+v", c, dropped)
	}
	if got, err := r.route("t"); err != nil || len(got) != 1 || got[0].Broker != "alive" {
		t.Errorf("route %+v, %v", got, err)
	}
	_, err := r.route("u")
	wantCode(t, "u", err, protocol.TopicNotFound)
	if known, _, err := r.heartbeat(at(4*time.Second), heartbeatOf(silent)); known || err != nil {
		t.Errorf("the dropped broker is asked to register: %v, %v", known, err)
	}
}

func TestLeave(t *testing.T) {
	r := newRegistry(time.Second)
	fill(t, r, registration("a", 1, 1, "t"), registration("b", 1, 1, "t"))
	if c, err := r.leave(identity("a", 1)); err != nil || !reflect.DeepEqual(c, change{true, []string{"t"}}) {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := r.leave(identity("a", 1)); err != nil || c.any {
		t.Errorf("leaving twice: %+v, %v", c, err)
	}
	if c, err := r.leave(identity("b", 2)); err != nil || !c.any {
		t.Errorf("a later start that leaves: %+v, %v", c, err)
	}
	if got := r.cluster(); len(got) != 0 {
		t.Errorf("cluster %+v", got)
	}
}

func TestBadRegistrations(t *testing.T) {
	good := func() *protocol.RegisterBrokerRequest { return registration("a", 1, 1, "t", "u") }
	for name, spoil := range map[string]func(*protocol.RegisterBrokerRequest){
		"no cluster":       func(r *protocol.RegisterBrokerRequest) { r.Cluster = "" },
		"wildcard":         func(r *protocol.RegisterBrokerRequest) { r.Broker = "*" },
		"dots":             func(r *protocol.RegisterBrokerRequest) { r.Broker = "a.b" },
		"long name":        func(r *protocol.RegisterBrokerRequest) { r.Broker = strings.Repeat("x", 128) },
		"negative id":      func(r *protocol.RegisterBrokerRequest) { r.ID = -1 },
		"no address":       func(r *protocol.RegisterBrokerRequest) { r.Addresses = nil },
		"no port":          func(r *protocol.RegisterBrokerRequest) { r.Addresses[0] = "host" },
		"no host":          func(r *protocol.RegisterBrokerRequest) { r.Addresses[0] = ":1" },
		"topic name":       func(r *protocol.RegisterBrokerRequest) { r.Topics[1].Name = "a b" },
		"topic twice":      func(r *protocol.RegisterBrokerRequest) { r.Topics[1].Name = "t" },
		"negative reads":   func(r *protocol.RegisterBrokerRequest) { r.Topics[1].ReadQueues = -1 },
		"negative writes":  func(r *protocol.RegisterBrokerRequest) { r.Topics[1].WriteQueues = -1 },
		"permission bits":  func(r *protocol.RegisterBrokerRequest) { r.Topics[1].Perm = 8 },
		"NUL in the topic": func(r *protocol.RegisterBrokerRequest) { r.Topics[1].Name = "\x00" },
	} {
		r, req := newRegistry(time.Second), good()
		spoil(req)
		_, err := r.register(at(0), req)
		wantCode(t, name, err, protocol.InvalidArgument)
		if len(r.brokers) != 0 {
			t.Errorf("%s: it is registered", name)
		}
	}
	fill(t, newRegistry(time.Second), good())
}

// TestRequestsAreNotKept changes a request after it was handled.
func TestRequestsAreNotKept(t *testing.T) {
	r := newRegistry(time.Second)
	req := registration("a", 1, 1, "t")
	fill(t, r, req)
	req.Addresses[0], req.Topics[0].Name = "changed:1", "changed"
	if got, err := r.route("t"); err != nil || got[0].Addresses[0] != "a:9876" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestRegistry_HeartbeatBringsChanges applies changes that follow what is known,
// and asks for a registration when they do not.
func TestRegistry_HeartbeatBringsChanges(t *testing.T) {
	r := newRegistry(time.Minute)
	known := registration("a", 1, 5, "kept", "gone")
	if _, err := r.register(at(0), known); err != nil {
		t.Fatal(err)
	}
	beat := heartbeatOf(known)
	beat.Base, beat.DataVersion = 5, 7
	beat.Changed = []protocol.TopicConfig{{Name: "new", ReadQueues: 3, WriteQueues: 3, Perm: message.PermReadWrite}}
	beat.Removed = []string{"gone", "never there"}
	ok, c, err := r.heartbeat(at(0), beat)
	if err != nil || !ok || !slices.Equal(c.topics, []string{"gone", "new"}) {
		t.Fatalf("got %v, %+v, %v", ok, c, err)
	}
	if got := r.topics(); !slices.Equal(got, []string{"kept", "new"}) {
		t.Fatalf("topics %v", got)
	}
	if routes, err := r.route("new"); err != nil || routes[0].ReadQueues != 3 {
		t.Fatalf("route %+v, %v", routes, err)
	}
	if ok, c, err := r.heartbeat(at(0), beat); err != nil || !ok || c.any {
		t.Errorf("the same again: %v, %+v, %v", ok, c, err)
	}
	for name, base := range map[string]uint64{"an older base": 5, "a base that it does not have yet": 9} {
		late := *beat
		late.Base, late.DataVersion, late.Removed = base, 12, []string{"kept"}
		if ok, c, err := r.heartbeat(at(0), &late); err != nil || ok || c.any {
			t.Errorf("%s: %v, %+v, %v; want a registration to be asked for", name, ok, c, err)
		}
	}
	bad := *beat
	bad.Base, bad.DataVersion, bad.Changed = 7, 8, []protocol.TopicConfig{{Name: "a.b"}}
	if _, _, err := r.heartbeat(at(0), &bad); protocol.CodeOf(err) != protocol.InvalidArgument {
		t.Errorf("a bad name: got %v", err)
	}
	if got := r.topics(); !slices.Equal(got, []string{"kept", "new"}) {
		t.Errorf("topics %v after what was refused", got)
	}
}
