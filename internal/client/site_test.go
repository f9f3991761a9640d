package client

import (
	"context"
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

// site is a NATS server with a name server on it, and perhaps brokers.
type site struct {
	t      testing.TB
	server *fabric.Server
	conn   *transport.Conn
	stop   func()
}

// startSite listens at addr; "" is a free port.
func startSite(t testing.TB, addr string) *site {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	server, err := fabric.Start(fabric.Config{Listen: addr})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport.Dial(server.Addr(), transport.Options{InProcess: server})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ns := nameserver.New(nameserver.Config{Timeout: time.Hour}, conn)
	var running sync.WaitGroup
	running.Go(func() {
		if err := ns.Run(ctx); err != nil {
			t.Errorf("name server: %v", err)
		}
	})
	<-ns.Ready()
	s := &site{t: t, server: server, conn: conn}
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		conn.Close()
		server.Close()
	})
	t.Cleanup(s.stop)
	return s
}

func (s *site) addr() string { return s.server.Addr() }

// fakeBroker answers what clients ask, from what a test has set.
type fakeBroker struct {
	site      *site
	name      string
	addresses []string

	incarnation uint64

	mu      sync.Mutex
	topics  []protocol.TopicConfig
	version uint64
	refuse  error // of PutTopic
	beats   []*protocol.HeartbeatRequest
	left    []string
}

func startBroker(s *site, name string, topics ...string) *fakeBroker {
	s.t.Helper()
	b := &fakeBroker{site: s, name: name, addresses: []string{s.addr()}, incarnation: 1}
	for _, topic := range topics {
		b.topics = append(b.topics, config(topic))
	}
	m := transport.NewMux()
	transport.Handle(m, b.putTopic)
	transport.Handle(m, b.heartbeat)
	transport.Handle(m, b.leave)
	transport.Handle(m, b.syncLeases)
	for _, class := range []protocol.Class{protocol.ClassAdmin, protocol.ClassClient, protocol.ClassSend} {
		_, err := transport.Serve(s.conn, protocol.BrokerSubject(name, 0, class), transport.Limits{Requests: 100, Bytes: 1 << 20}, m)
		if err != nil {
			s.t.Fatal(err)
		}
	}
	b.register(s)
	return b
}

func config(topic string) protocol.TopicConfig {
	return protocol.TopicConfig{Name: topic, ReadQueues: 2, WriteQueues: 2, Perm: message.PermReadWrite}
}

func (b *fakeBroker) register(sites ...*site) {
	b.site.t.Helper()
	b.mu.Lock()
	b.version++
	req := &protocol.RegisterBrokerRequest{
		BrokerIdentity: protocol.BrokerIdentity{Cluster: "c", Broker: b.name, Incarnation: b.incarnation},
		Addresses:      b.addresses, Topics: slices.Clone(b.topics), DataVersion: b.version,
	}
	b.mu.Unlock()
	for _, s := range sites {
		_, err := transport.Call[protocol.RegisterBrokerResponse](b.site.t.Context(), s.conn, protocol.NameServerSubject(protocol.ClassBroker), req)
		if err != nil {
			b.site.t.Fatal(err)
		}
	}
}

func (b *fakeBroker) setTopics(topics ...protocol.TopicConfig) {
	b.mu.Lock()
	b.topics = topics
	b.mu.Unlock()
	b.register(b.site)
}

func (b *fakeBroker) putTopic(_ context.Context, req *protocol.PutTopicRequest) (*protocol.PutTopicResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return nil, b.refuse
	}
	c := config(req.Topic.Name)
	if req.Mode != protocol.PutAuto {
		return nil, protocol.Errorf(protocol.InvalidArgument, "mode %s", req.Mode)
	}
	b.topics = append(b.topics, c)
	return &protocol.PutTopicResponse{Topic: c}, nil
}

func (b *fakeBroker) heartbeat(_ context.Context, req *protocol.HeartbeatRequest) (*protocol.HeartbeatResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.beats = append(b.beats, req)
	return &protocol.HeartbeatResponse{SessionMillis: 6000}, nil
}

func (b *fakeBroker) leave(_ context.Context, req *protocol.LeaveGroupRequest) (*protocol.Empty, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = append(b.left, fmt.Sprintf("%s leaves %q", req.ClientID, req.Group))
	return &protocol.Empty{}, nil
}

func (b *fakeBroker) syncLeases(_ context.Context, _ *protocol.SyncLeasesRequest) (*protocol.SyncLeasesResponse, error) {
	return nil, protocol.Errorf(protocol.UnknownMember, "who?")
}

func (b *fakeBroker) beatCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.beats)
}

func (b *fakeBroker) topicCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.topics)
}

func (b *fakeBroker) goodbyes() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.left)
}

func (b *fakeBroker) lastBeat() *protocol.HeartbeatRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.beats) == 0 {
		return &protocol.HeartbeatRequest{}
	}
	return b.beats[len(b.beats)-1]
}

func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func clientOf(t testing.TB, sites ...*site) *Client {
	var addrs []string
	for _, s := range sites {
		addrs = append(addrs, s.addr())
	}
	return newClient(t, Config{NameServers: addrs})
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("not within 10 s: %s", what)
		case <-tick.C:
		}
	}
}

// deadAddr is an address that nobody listens at.
func deadAddr(t testing.TB) string {
	s := startSite(t, "")
	addr := s.addr()
	s.stop()
	return addr
}
