package nameserver_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/nameserver"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patient = 30 * time.Second // a test that waits this long has failed

// clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.UnixMilli(1_000_000)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// process is a name server with its fabric, as it runs in a process.
type process struct {
	addr string
	stop func() // at once, as if it had crashed; twice is fine
}

func run(t *testing.T, listen string, cfg nameserver.Config) *process {
	t.Helper()
	f, err := fabric.Start(fabric.Config{Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport.Dial(f.Addr(), transport.Options{Name: "nameserver", InProcess: f})
	if err != nil {
		t.Fatal(err)
	}
	n := nameserver.New(cfg, conn)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }() // stop waits for it
	p := &process{addr: f.Addr(), stop: sync.OnceFunc(func() {
		cancel()
		if err := receive(t, ran); err != nil {
			t.Errorf("run: %v", err)
		}
		conn.Close()
		f.Close()
	})}
	t.Cleanup(p.stop)
	receive(t, n.Ready())
	return p
}

// peer is a broker's or a client's connection to a name server.
type peer struct {
	t      *testing.T
	conn   *transport.Conn
	events chan protocol.RouteChangedEvent
}

func connect(t *testing.T, addr string) *peer {
	t.Helper()
	conn, err := transport.Dial(addr, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	p := &peer{t: t, conn: conn, events: make(chan protocol.RouteChangedEvent, 64)}
	if _, err := conn.Subscribe(protocol.NameServerEvents, p.event); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { // also: the name server's subscriptions are known
		_, err := p.topics()
		return err == nil
	})
	return p
}

func (p *peer) event(f protocol.Frame) {
	var e protocol.RouteChangedEvent
	if err := protocol.Unmarshal(f.Payload, &e); err != nil || f.Code != protocol.RouteChanged {
		p.t.Errorf("event %+v: %v", f, err)
	}
	p.events <- e
}

func (p *peer) register(req *protocol.RegisterBrokerRequest) (*protocol.RegisterBrokerResponse, error) {
	return transport.Call[protocol.RegisterBrokerResponse](p.t.Context(), p.conn, protocol.NameServerSubject(protocol.ClassBroker), req)
}

// beat is what a broker does every second: a heartbeat, and a registration when
// that is asked for.
func (p *peer) beat(req *protocol.RegisterBrokerRequest) (registered bool) {
	p.t.Helper()
	resp, err := transport.Call[protocol.BrokerHeartbeatResponse](p.t.Context(), p.conn, protocol.NameServerSubject(protocol.ClassBroker),
		&protocol.BrokerHeartbeatRequest{BrokerIdentity: req.BrokerIdentity, DataVersion: req.DataVersion})
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.Register {
		if _, err := p.register(req); err != nil {
			p.t.Fatal(err)
		}
	}
	return resp.Register
}

func (p *peer) leave(req *protocol.RegisterBrokerRequest) error {
	_, err := transport.Call[protocol.Empty](p.t.Context(), p.conn, protocol.NameServerSubject(protocol.ClassBroker),
		&protocol.LeaveBrokerRequest{BrokerIdentity: req.BrokerIdentity})
	return err
}

func ask[Resp any](p *peer, req protocol.Request) (*Resp, error) {
	return transport.Call[Resp](p.t.Context(), p.conn, protocol.NameServerSubject(protocol.ClassRoute), req)
}

func (p *peer) route(topic string) ([]protocol.TopicRoute, error) {
	resp, err := ask[protocol.QueryRouteResponse](p, &protocol.QueryRouteRequest{Topic: topic})
	if err != nil {
		return nil, err
	}
	return resp.Brokers, nil
}

func (p *peer) topics() ([]string, error) {
	resp, err := ask[protocol.QueryTopicsResponse](p, &protocol.QueryTopicsRequest{})
	if err != nil {
		return nil, err
	}
	return resp.Topics, nil
}

func (p *peer) wantEvent(topics ...string) {
	p.t.Helper()
	if got := receive(p.t, p.events); !slices.Equal(got.Topics, topics) {
		p.t.Fatalf("event with %v, want %v", got.Topics, topics)
	}
}

func broker(name string, topics ...string) *protocol.RegisterBrokerRequest {
	r := &protocol.RegisterBrokerRequest{
		BrokerIdentity: protocol.BrokerIdentity{Cluster: "c", Broker: name, Incarnation: 1},
		Addresses:      []string{name + ":9876"}, DataVersion: 1,
	}
	for _, t := range topics {
		r.Topics = append(r.Topics, protocol.TopicConfig{Name: t, ReadQueues: 8, WriteQueues: 8, Perm: message.PermReadWrite})
	}
	return r
}

func TestBrokersComeAndGo(t *testing.T) {
	p := connect(t, run(t, "127.0.0.1:0", nameserver.Config{}).addr)
	orders := broker("a", "orders")
	resp, err := p.register(orders)
	if err != nil || resp.TimeoutMillis != 3000 {
		t.Fatalf("%+v, %v", resp, err)
	}
	p.wantEvent("orders")
	if routes, err := p.route("orders"); err != nil || len(routes) != 1 || routes[0].Broker != "a" || routes[0].ReadQueues != 8 {
		t.Fatalf("%+v, %v", routes, err)
	}
	if p.beat(orders) {
		t.Fatal("a known broker was asked to register")
	}
	more := broker("a", "orders", "more")
	more.DataVersion = 2
	if !p.beat(more) {
		t.Fatal("another data version was not asked for")
	}
	p.wantEvent("more")
	cluster, err := ask[protocol.QueryClusterResponse](p, &protocol.QueryClusterRequest{})
	if err != nil || len(cluster.Brokers) != 1 || cluster.Brokers[0].Topics != 2 || cluster.Brokers[0].LastSeenMillis == 0 {
		t.Fatalf("%+v, %v", cluster, err)
	}
	if err := p.leave(more); err != nil {
		t.Fatal(err)
	}
	p.wantEvent("more", "orders")
	if _, err := p.route("orders"); !errors.Is(err, protocol.TopicNotFound) {
		t.Fatalf("got %v", err)
	}
	if len(p.events) != 0 {
		t.Fatalf("one event more: %+v", <-p.events)
	}
}

func TestRefusals(t *testing.T) {
	p := connect(t, run(t, "127.0.0.1:0", nameserver.Config{}).addr)
	first := broker("a", "orders")
	first.Incarnation = 2
	if _, err := p.register(first); err != nil {
		t.Fatal(err)
	}
	if _, err := p.register(broker("a", "orders")); !errors.Is(err, protocol.Conflict) {
		t.Errorf("lower incarnation: %v", err)
	}
	if err := p.leave(broker("a")); !errors.Is(err, protocol.Conflict) {
		t.Errorf("lower incarnation leaves: %v", err)
	}
	if _, err := p.register(broker("a.b", "orders")); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("bad name: %v", err)
	}
	if _, err := p.route("*"); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("bad topic: %v", err)
	}
	if _, err := ask[protocol.RegisterBrokerResponse](p, first); !errors.Is(err, protocol.UnknownRequest) {
		t.Errorf("a broker's request on the clients' subject: %v", err)
	}
}

// TestSilentBrokerIsDropped moves the clock by hand.
func TestSilentBrokerIsDropped(t *testing.T) {
	c := newClock()
	p := connect(t, run(t, "127.0.0.1:0", nameserver.Config{Now: c.Now}).addr)
	silent, alive := broker("silent", "a", "b"), broker("alive", "b", "c")
	for _, b := range []*protocol.RegisterBrokerRequest{silent, alive} {
		if _, err := p.register(b); err != nil {
			t.Fatal(err)
		}
		receive(t, p.events)
	}
	c.advance(2 * time.Second)
	p.beat(alive)
	c.advance(time.Second)
	p.wantEvent("a", "b")
	if routes, err := p.route("b"); err != nil || len(routes) != 1 || routes[0].Broker != "alive" {
		t.Fatalf("%+v, %v", routes, err)
	}
	if topics, err := p.topics(); err != nil || !slices.Equal(topics, []string{"b", "c"}) {
		t.Fatalf("%v, %v", topics, err)
	}
	if !p.beat(silent) { // it is back
		t.Fatal("it was not asked to register")
	}
	p.wantEvent("a", "b")
}

// TestRestartedNameServerHasTheTableAfterOneHeartbeat restarts it on its port.
func TestRestartedNameServerHasTheTableAfterOneHeartbeat(t *testing.T) {
	first := run(t, "127.0.0.1:0", nameserver.Config{})
	p := connect(t, first.addr)
	brokers := []*protocol.RegisterBrokerRequest{broker("a", "orders"), broker("b", "orders", "more")}
	for _, b := range brokers {
		if !p.beat(b) {
			t.Fatal("a new broker was not asked to register")
		}
		receive(t, p.events)
	}
	first.stop()
	run(t, first.addr, nameserver.Config{})
	eventually(t, func() bool {
		_, err := p.topics()
		return err == nil
	})
	if topics, err := p.topics(); err != nil || len(topics) != 0 {
		t.Fatalf("it knows %v, %v before any heartbeat", topics, err)
	}
	for _, b := range brokers {
		if !p.beat(b) {
			t.Fatal("it did not ask for the registration")
		}
		receive(t, p.events)
	}
	if routes, err := p.route("orders"); err != nil || len(routes) != 2 {
		t.Fatalf("%+v, %v", routes, err)
	}
}

// TestTwoNameServersSideBySide shows that they share nothing: brokers tell both,
// and each is complete when the other is lost.
func TestTwoNameServersSideBySide(t *testing.T) {
	servers := []*process{run(t, "127.0.0.1:0", nameserver.Config{}), run(t, "127.0.0.1:0", nameserver.Config{})}
	peers := []*peer{connect(t, servers[0].addr), connect(t, servers[1].addr)}
	for _, p := range peers {
		p.beat(broker("a", "orders"))
		p.wantEvent("orders")
	}
	peers[0].beat(broker("only-first", "more"))
	peers[0].wantEvent("more")
	if _, err := peers[1].route("more"); !errors.Is(err, protocol.TopicNotFound) {
		t.Fatalf("the second knows what only the first was told: %v", err)
	}
	servers[0].stop()
	if _, err := peers[0].route("orders"); !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("got %v", err)
	}
	if routes, err := peers[1].route("orders"); err != nil || len(routes) != 1 {
		t.Fatalf("%+v, %v", routes, err)
	}
	if peers[1].beat(broker("a", "orders")) {
		t.Fatal("the second lost the broker")
	}
}

// TestLargeChangeNamesNoTopic keeps events small.
func TestLargeChangeNamesNoTopic(t *testing.T) {
	p := connect(t, run(t, "127.0.0.1:0", nameserver.Config{}).addr)
	var names []string
	for i := range 10_000 {
		names = append(names, fmt.Sprintf("topic-%05d", i))
	}
	if _, err := p.register(broker("a", names...)); err != nil {
		t.Fatal(err)
	}
	p.wantEvent()
	if topics, err := p.topics(); err != nil || !slices.Equal(topics, names) {
		t.Fatalf("%d topics, %v", len(topics), err)
	}
}

func TestRunWithAClosedConnection(t *testing.T) {
	f, err := fabric.Start(fabric.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := transport.Dial(f.Addr(), transport.Options{InProcess: f})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := nameserver.New(nameserver.Config{}, conn).Run(t.Context()); !errors.Is(err, protocol.Closed) {
		t.Fatalf("got %v", err)
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patient):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patient)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it never came true")
		}
	}
}
