package client

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func noEnv(string) (string, bool) { return "", false }

func TestNew_NamesEveryFault(t *testing.T) {
	_, err := New(t.Context(), Config{LookupEnv: noEnv, ClientID: "a b", EndpointInterval: -1})
	for _, want := range []error{ErrNoNameServer, message.ErrIllegalName} {
		if !errors.Is(err, want) {
			t.Errorf("got %v, want it to be %v", err, want)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "interval") {
		t.Errorf("got %v, want it to name the interval", err)
	}
}

func TestNew_NeedsNoServer(t *testing.T) {
	c := newClient(t, Config{NameServers: []string{deadAddr(t)}})
	if _, err := c.Route(t.Context(), "orders"); !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("got %v, want %v", err, protocol.Unreachable)
	}
	if c.ID() == newClient(t, Config{NameServers: []string{deadAddr(t)}}).ID() {
		t.Error("two clients have one id")
	}
}

func TestRoute_OfTopic(t *testing.T) {
	s := startSite(t, "")
	c := clientOf(t, s)
	if _, err := c.Route(t.Context(), "orders"); !errors.Is(err, protocol.Unavailable) {
		t.Fatalf("without a broker: got %v, want %v", err, protocol.Unavailable)
	}
	startBroker(s, "b", "orders")
	startBroker(s, "a", "orders", "other")
	want := []message.Queue{{Topic: "orders", Broker: "a", ID: 0}, {Topic: "orders", Broker: "a", ID: 1},
		{Topic: "orders", Broker: "b", ID: 0}, {Topic: "orders", Broker: "b", ID: 1}}
	// The first broker's event may have cached its route before the second came.
	eventually(t, "the queues of both brokers", func() bool {
		route, err := c.Route(t.Context(), "orders")
		return err == nil && slices.Equal(route.WriteQueues(), want)
	})
	var e *Error
	if _, err := c.Route(t.Context(), "none"); !errors.As(err, &e) || e.Code != protocol.TopicNotFound || e.Topic != "none" || e.Retryable {
		t.Fatalf("got %#v, want TopicNotFound of topic none, not retryable", err)
	}
	if topics, err := c.Topics(t.Context()); err != nil || !slices.Equal(topics, []string{"orders", "other"}) {
		t.Fatalf("got %v, %v", topics, err)
	}
	if brokers, err := c.Cluster(t.Context()); err != nil || len(brokers) != 2 || brokers[0].Broker != "a" {
		t.Fatalf("got %v, %v", brokers, err)
	}
}

func TestRoute_ChangeIsPushed(t *testing.T) {
	s := startSite(t, "")
	b := startBroker(s, "a", "orders")
	c := clientOf(t, s)
	if _, err := c.Route(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Route(t.Context(), "late"); !errors.Is(err, protocol.TopicNotFound) {
		t.Fatalf("got %v, want %v", err, protocol.TopicNotFound)
	}
	eventually(t, "events are listened to", func() bool { return len(c.names.order()) == 1 && c.pool.connected(s.addr()) != nil })

	changed := c.RouteChanged()
	grown := config("orders")
	grown.ReadQueues, grown.WriteQueues = 4, 4
	b.setTopics(grown, config("late"))
	<-changed
	eventually(t, "four queues", func() bool {
		r, err := c.Route(t.Context(), "orders")
		return err == nil && len(r.WriteQueues()) == 4
	})
	eventually(t, "the new topic", func() bool { return c.routes.cached("late") != nil })

	b.setTopics(config("late"))
	eventually(t, "the topic is gone", func() bool { return c.routes.cached("orders") == nil })
}

func TestRoute_SurvivesLossOfEitherNameServer(t *testing.T) {
	for lost := range 2 {
		sites := []*site{startSite(t, ""), startSite(t, "")}
		brokers := startSite(t, "")
		b := startBroker(brokers, "a", "orders", "other")
		b.register(sites...)
		c := clientOf(t, sites...)
		if _, err := c.Route(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		sites[lost].stop()
		if _, err := c.Route(t.Context(), "other"); err != nil {
			t.Fatalf("without name server %d: %v", lost, err)
		}
		if _, err := c.RefreshRoute(t.Context(), "orders"); err != nil {
			t.Fatalf("without name server %d: %v", lost, err)
		}
		if _, err := c.Route(t.Context(), "none"); !errors.Is(err, protocol.TopicNotFound) {
			t.Fatalf("without name server %d: got %v, want %v", lost, err, protocol.TopicNotFound)
		}
	}
}

// slowNameServer answers nothing, and tells how long each question has.
func slowNameServer(t *testing.T, times chan<- time.Duration) (addr string) {
	t.Helper()
	server, err := fabric.Start(fabric.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	conn, err := transport.Dial(server.Addr(), transport.Options{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	m := transport.NewMux()
	transport.Handle(m, func(ctx context.Context, _ *protocol.QueryTopicsRequest) (*protocol.QueryTopicsResponse, error) {
		deadline, _ := ctx.Deadline()
		times <- time.Until(deadline)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	if _, err := transport.Serve(conn, protocol.NameServerSubject(protocol.ClassRoute), transport.Limits{Requests: 10}, m); err != nil {
		t.Fatal(err)
	}
	return server.Addr()
}

// A name server that is slow gets little time while there is another to ask, and all
// the caller has when there is none.
func TestQuery_GivesTheLastNameServerAllItsTime(t *testing.T) {
	times := make(chan time.Duration, 10)
	one, two := slowNameServer(t, times), slowNameServer(t, times)
	c := newClient(t, Config{NameServers: []string{one, two}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	asked := make(chan error, 1)
	go func() { _, err := c.Topics(ctx); asked <- err }()
	if first := <-times; first > tryTimeout {
		t.Errorf("the first has %v, want at most %v", first, tryTimeout)
	}
	if last := <-times; last < 30*time.Second {
		t.Errorf("the last has %v of a minute", last)
	}
	cancel()
	if err := <-asked; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRoute_SurvivesEmptyNameServer(t *testing.T) {
	s, brokers := startSite(t, ""), startSite(t, "")
	b := startBroker(brokers, "a", "orders")
	b.register(s)
	c := clientOf(t, s)
	want, err := c.Route(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	addr := s.addr()
	s.stop()
	if got, err := c.Route(t.Context(), "orders"); got != want || err != nil {
		t.Fatalf("without a name server: got %v, %v; want the route as it was", got, err)
	}
	eventually(t, "the cut is seen", func() bool { return c.pool.connected(addr) == nil })
	s = startSite(t, addr)
	eventually(t, "connected again", func() bool { return c.pool.connected(addr) != nil })
	if got, err := c.RefreshRoute(t.Context(), "orders"); got != want || err != nil {
		t.Fatalf("with an empty name server: got %v, %v; want the route as it was", got, err)
	}
	b.mu.Lock()
	b.topics = append(b.topics, config("other"))
	b.mu.Unlock()
	b.register(s)
	if _, err := c.Route(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
}

func TestEnsureTopic_OnEveryBroker(t *testing.T) {
	s := startSite(t, "")
	a, b := startBroker(s, "a"), startBroker(s, "b")
	c := clientOf(t, s)
	route, err := c.EnsureTopic(t.Context(), "orders")
	if err != nil || len(route.Brokers) != 2 || len(route.WriteQueues()) != 4 {
		t.Fatalf("got %v, %v; want both brokers", route, err)
	}
	if a.topicCount() != 1 || b.topicCount() != 1 {
		t.Fatalf("got %d and %d topics, want one on each", a.topicCount(), b.topicCount())
	}
	again, err := c.EnsureTopic(t.Context(), "orders")
	if again != route || err != nil {
		t.Fatalf("got %v, %v; want the same route", again, err)
	}
}

func TestEnsureTopic_Refused(t *testing.T) {
	s := startSite(t, "")
	a, b := startBroker(s, "a"), startBroker(s, "b")
	a.refuse = protocol.Errorf(protocol.TopicNotFound, "topics are not created here")
	b.refuse = a.refuse
	c := clientOf(t, s)
	if _, err := c.EnsureTopic(t.Context(), "orders"); !errors.Is(err, protocol.TopicNotFound) {
		t.Fatalf("got %v, want %v", err, protocol.TopicNotFound)
	}
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	if route, err := c.EnsureTopic(t.Context(), "orders"); err != nil || len(route.Brokers) != 1 || route.Brokers[0].Broker != "b" {
		t.Fatalf("got %v, %v; want broker b alone", route, err)
	}
}

func TestCall_TriesNextAddress(t *testing.T) {
	s := startSite(t, "")
	b := startBroker(s, "a")
	b.addresses, b.incarnation = []string{deadAddr(t), s.addr()}, 2
	b.register(s)
	c := clientOf(t, s)
	for range 2 {
		_, err := Call[protocol.HeartbeatResponse](t.Context(), c, "a", protocol.ClassClient, &protocol.HeartbeatRequest{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if at := c.brokers.get("a").prefer.Load(); at != 1 {
		t.Errorf("got address %d, want 1 to be remembered", at)
	}
	done := make(chan error, 1)
	c.Start(t.Context(), "a", protocol.ClassClient, &protocol.HeartbeatRequest{}, func(_ []byte, err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestCall_UnknownBroker(t *testing.T) {
	s := startSite(t, "")
	startBroker(s, "a")
	c := clientOf(t, s)
	_, err := Call[protocol.HeartbeatResponse](t.Context(), c, "nobody", protocol.ClassClient, &protocol.HeartbeatRequest{})
	var e *Error
	if !errors.As(err, &e) || e.Code != protocol.Unreachable || e.Broker != "nobody" || !e.Retryable {
		t.Fatalf("got %#v, want Unreachable of broker nobody", err)
	}
	done := make(chan error, 1)
	c.Start(t.Context(), "nobody", protocol.ClassClient, &protocol.HeartbeatRequest{}, func(_ []byte, err error) { done <- err })
	if err := <-done; !errors.Is(err, ErrNotSent) || !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("got %v, want not sent and unreachable", err)
	}
}

func TestCall_BrokerMoves(t *testing.T) {
	ns, old := startSite(t, ""), startSite(t, "")
	b := startBroker(old, "a", "orders")
	b.register(ns)
	c := clientOf(t, ns)
	if _, err := c.Route(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	call := func() error {
		_, err := Call[protocol.HeartbeatResponse](t.Context(), c, "a", protocol.ClassClient, &protocol.HeartbeatRequest{})
		return err
	}
	if err := call(); err != nil {
		t.Fatal(err)
	}
	old.stop()
	if err := call(); !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("got %v, want %v", err, protocol.Unreachable)
	}
	next := startSite(t, "")
	moved := startBroker(next, "a", "orders")
	moved.incarnation = 2
	moved.register(ns)
	eventually(t, "the broker is found at its new address", func() bool { return call() == nil })
}

func TestEndpoint_ChangesWhileRunning(t *testing.T) {
	one, two := startSite(t, ""), startSite(t, "")
	startBroker(one, "a", "first")
	startBroker(two, "b", "second")
	var mu sync.Mutex
	answer, status, asked := one.addr(), http.StatusOK, 0
	set := func(a string, s int) (before int) {
		mu.Lock()
		defer mu.Unlock()
		answer, status = a, s
		return asked
	}
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		w.WriteHeader(status)
		w.Write([]byte(answer))
	}))
	t.Cleanup(endpoint.Close)
	c := newClient(t, Config{LookupEnv: noEnv, NameServerEndpoint: endpoint.URL, EndpointInterval: 5 * time.Millisecond})
	if got := c.NameServerAddrs(); !slices.Equal(got, []string{one.addr()}) {
		t.Fatalf("got %v, want %v", got, one.addr())
	}
	if _, err := c.Route(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	before := set("gone", http.StatusNotFound)
	eventually(t, "the endpoint fails twice", func() bool { mu.Lock(); defer mu.Unlock(); return asked > before+2 })
	if got := c.NameServerAddrs(); !slices.Equal(got, []string{one.addr()}) {
		t.Fatalf("got %v while the endpoint fails, want the last list", got)
	}
	set(two.addr()+";"+one.addr(), http.StatusOK)
	eventually(t, "two name servers", func() bool { return len(c.NameServerAddrs()) == 2 })
	set(two.addr(), http.StatusOK)
	eventually(t, "the other name server", func() bool { return slices.Equal(c.NameServerAddrs(), []string{two.addr()}) })
	if _, err := c.Route(t.Context(), "second"); err != nil {
		t.Fatal(err)
	}
}

func TestEndpoint_FailsAtFirst(t *testing.T) {
	s := startSite(t, "")
	startBroker(s, "a", "orders")
	var mu sync.Mutex
	up := false
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if up {
			w.Write([]byte(s.addr()))
		}
	}))
	t.Cleanup(endpoint.Close)
	c := newClient(t, Config{LookupEnv: noEnv, NameServerEndpoint: endpoint.URL, EndpointInterval: 5 * time.Millisecond})
	if _, err := c.Route(t.Context(), "orders"); !errors.Is(err, ErrNoNameServer) || !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("got %v, want %v", err, ErrNoNameServer)
	}
	mu.Lock()
	up = true
	mu.Unlock()
	eventually(t, "a route", func() bool { _, err := c.Route(t.Context(), "orders"); return err == nil })
}

func TestQueryNameServer_AsksThatOne(t *testing.T) {
	one, two := startSite(t, ""), startSite(t, "")
	startBroker(one, "a")
	c := clientOf(t, one, two)
	for addr, want := range map[string]int{one.addr(): 1, two.addr(): 0} {
		resp, err := QueryNameServer[protocol.QueryClusterResponse](t.Context(), c, addr, &protocol.QueryClusterRequest{})
		if err != nil || len(resp.Brokers) != want {
			t.Errorf("got %v, %v; want %d brokers", resp, err, want)
		}
	}
}

func TestOnMembersChanged(t *testing.T) {
	s := startSite(t, "")
	b := startBroker(s, "a", "orders")
	c := clientOf(t, s)
	events := make(chan protocol.MembersChangedEvent, 10)
	stop := c.OnMembersChanged(func(e protocol.MembersChangedEvent) { events <- e })
	c.Announce(nil, []protocol.Subscription{{Group: "g", Topics: []string{"orders"}}})
	eventually(t, "a heartbeat", func() bool { return b.beatCount() > 0 })
	want := protocol.MembersChangedEvent{Broker: "a", Group: "g"}
	if err := s.conn.Publish(b.lastBeat().Inbox, protocol.MembersChanged, &want); err != nil {
		t.Fatal(err)
	}
	if got := <-events; got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
	stop()
}

func TestClose_FailsPendingCalls(t *testing.T) {
	s := startSite(t, "")
	b := startBroker(s, "a", "orders")
	m := transport.NewMux()
	taken := make(chan struct{})
	m.HandleAsync(protocol.PullMessage, func(*transport.Request) { close(taken) })
	_, err := transport.Serve(s.conn, protocol.BrokerSubject("a", 0, protocol.ClassPull), transport.Limits{Requests: 1, Bytes: 1 << 20}, m)
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, s)
	c.Announce([]string{"shop"}, []protocol.Subscription{{Group: "g", Topics: []string{"orders"}}})
	eventually(t, "a heartbeat", func() bool { return b.beatCount() > 0 })
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.Start(ctx, "a", protocol.ClassPull, &protocol.PullRequest{MaxBytes: 1}, func(_ []byte, err error) { done <- err })
	<-taken
	c.Close()
	if err := <-done; !errors.Is(err, protocol.Closed) {
		t.Fatalf("got %v, want %v", err, protocol.Closed)
	}
	if _, err := c.Cluster(t.Context()); !errors.Is(err, protocol.Closed) {
		t.Fatalf("after Close: got %v, want %v", err, protocol.Closed)
	}
	if _, err := c.Route(t.Context(), "other"); !errors.Is(err, protocol.Closed) {
		t.Fatalf("after Close: got %v, want %v", err, protocol.Closed)
	}
	if left := b.goodbyes(); len(left) != 1 || !strings.HasSuffix(left[0], `leaves ""`) {
		t.Fatalf("got %v, want one goodbye", left)
	}
	c.Close()
}
