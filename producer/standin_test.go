package producer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/nameserver"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a NATS server with a name server on it.
type site struct {
	t      testing.TB
	server *fabric.Server
	conn   *transport.Conn
}

func startSite(t testing.TB) *site {
	t.Helper()
	server, err := fabric.Start(fabric.Config{Listen: "127.0.0.1:0"})
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
	t.Cleanup(func() {
		cancel()
		running.Wait()
		conn.Close()
		server.Close()
	})
	return &site{t: t, server: server, conn: conn}
}

// silence is what a script answers to have the broker say nothing; lost, to
// have it store the batch and say nothing.
var (
	errSilence = &protocol.Error{Remark: "silence"}
	errLost    = &protocol.Error{Remark: "lost"}
)

// standIn is a broker that keeps messages in memory and fails as a script
// says: the one way to have each refusal at will.
type standIn struct {
	site    *site
	name    string
	version uint64

	mu     sync.Mutex
	topics []protocol.TopicConfig
	script func(n int, h batch.Header) *protocol.Error // of the n-th batch, from 0
	late   chan *transport.Request                     // gets all requests, if it is set first; whoever takes one has it answered
	batchN int
	stored map[int][]message.Stored
	// numbers are what it knows of numbered batches; seen, the sequences that came.
	numbers *sequence.View
	seen    []batch.Sequence
}

func (s *site) broker(name string, queues int) *standIn {
	s.t.Helper()
	return s.brokerWith(name, queues, func(*transport.Mux) {})
}

// brokerWith also answers what extra registers.
func (s *site) brokerWith(name string, queues int, extra func(*transport.Mux)) *standIn {
	s.t.Helper()
	b := &standIn{site: s, name: name, stored: map[int][]message.Stored{}, numbers: sequence.New(sequence.Config{})}
	m := transport.NewMux()
	m.HandleAsync(protocol.SendMessage, b.send)
	transport.Handle(m, func(_ context.Context, _ *protocol.HeartbeatRequest) (*protocol.HeartbeatResponse, error) {
		return &protocol.HeartbeatResponse{SessionMillis: 6000}, nil
	})
	transport.Handle(m, func(_ context.Context, _ *protocol.LeaveGroupRequest) (*protocol.Empty, error) {
		return &protocol.Empty{}, nil
	})
	transport.Handle(m, func(_ context.Context, req *protocol.PutTopicRequest) (*protocol.PutTopicResponse, error) {
		return nil, protocol.Errorf(protocol.TopicNotFound, "topic %q is not created", req.Topic.Name)
	})
	extra(m)
	for _, class := range []protocol.Class{protocol.ClassAdmin, protocol.ClassClient, protocol.ClassSend} {
		_, err := transport.Serve(s.conn, protocol.BrokerSubject(name, 0, class), transport.Limits{Requests: 1000, Bytes: 1 << 30}, m)
		if err != nil {
			s.t.Fatal(err)
		}
	}
	b.register(queues)
	return b
}

// register says that the broker has topic t with so many queues; 0: not at all.
func (b *standIn) register(queues int) {
	b.site.t.Helper()
	b.mu.Lock()
	b.version++
	b.topics = nil
	if queues > 0 {
		b.topics = []protocol.TopicConfig{{Name: "t", ReadQueues: queues, WriteQueues: queues, Perm: message.PermReadWrite}}
	}
	req := &protocol.RegisterBrokerRequest{
		BrokerIdentity: protocol.BrokerIdentity{Cluster: "c", Broker: b.name, Incarnation: 1},
		Addresses:      []string{b.site.server.Addr()}, Topics: b.topics, DataVersion: b.version,
	}
	b.mu.Unlock()
	_, err := transport.Call[protocol.RegisterBrokerResponse](b.site.t.Context(), b.site.conn, protocol.NameServerSubject(protocol.ClassBroker), req)
	if err != nil {
		b.site.t.Fatal(err)
	}
}

func (b *standIn) send(r *transport.Request) {
	if b.late != nil {
		b.late <- r
		return
	}
	b.answer(r)
}

func (b *standIn) answer(r *transport.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var resp protocol.SendResponse
	silent := false
	var req protocol.SendRequest
	if err := protocol.Unmarshal(r.Payload, &req); err != nil {
		r.Fail(err)
		return
	}
	for rest := req.Batches; len(rest) > 0; {
		h, err := batch.Check(rest)
		if err != nil {
			r.Fail(protocol.Errorf(protocol.IllegalMessage, "%v", err))
			return
		}
		result := b.decide(h, rest[:h.Length])
		silent = silent || result.Err == errSilence || result.Err == errLost
		resp.Results = append(resp.Results, result)
		rest = rest[h.Length:]
	}
	if !silent {
		r.Reply(&resp)
	}
}

func (b *standIn) decide(h batch.Header, bytes []byte) protocol.SendResult {
	var err *protocol.Error
	if b.script != nil {
		err = b.script(b.batchN, h)
	}
	b.batchN++
	b.seen = append(b.seen, h.Sequence)
	base := int64(len(b.stored[h.Queue]))
	if err == nil && (len(b.topics) == 0 || h.Queue >= b.topics[0].WriteQueues) {
		err = protocol.Errorf(protocol.QueueNotFound, "queue %d", h.Queue)
	}
	if h.Sequence.Producer != 0 && (err == nil || err == errLost) {
		if r, known := b.judge(h); known {
			if err != nil {
				r.Err = err
			}
			return r
		}
	}
	if err == nil || err == errLost {
		ms, _, decodeErr := batch.Decode(nil, slices.Clone(bytes), b.name)
		if decodeErr != nil {
			b.site.t.Errorf("decode: %v", decodeErr)
		}
		b.stored[h.Queue] = append(b.stored[h.Queue], ms...)
		if h.Sequence.Producer != 0 {
			at := sequence.Place{Base: base, Index: uint64(b.batchN), Millis: time.Now().UnixMilli()}
			b.numbers.Apply(sequence.KeyOf(&h, store.QueueKey{Queue: uint32(h.Queue)}), &h.Sequence, h.Count, at)
		}
	}
	if err == nil && h.Purpose != batch.ToQueue {
		return protocol.SendResult{BaseOffset: -1, StoreMillis: time.Now().UnixMilli(), Index: uint64(b.batchN)}
	}
	return protocol.SendResult{Err: err, BaseOffset: base, StoreMillis: time.Now().UnixMilli()}
}

// judge answers a numbered batch that is not new.
func (b *standIn) judge(h batch.Header) (protocol.SendResult, bool) {
	at, known, err := b.numbers.Judge(sequence.KeyOf(&h, store.QueueKey{Queue: uint32(h.Queue)}), &h.Sequence, h.Count)
	if err != nil {
		return protocol.SendResult{Err: protocol.AsError(err)}, true
	}
	return protocol.SendResult{BaseOffset: at.Base, StoreMillis: at.Millis, Duplicate: true, Queue: h.Queue}, known
}

// sequences are those of the batches that came, from the n-th on.
func (b *standIn) sequences(n int) []batch.Sequence {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen[n:])
}

func (b *standIn) setScript(script func(n int, h batch.Header) *protocol.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script, b.batchN = script, 0
}

// batches is how many batches came since the script was set.
func (b *standIn) batches() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.batchN
}

// in is what a queue has.
func (b *standIn) in(queue int) []message.Stored {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.stored[queue])
}

// bodies are the messages of a queue, or of all with -1.
func (b *standIn) bodies(queue int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for id, ms := range b.stored {
		for _, m := range ms {
			if id == queue || queue == -1 {
				all = append(all, string(m.Body))
			}
		}
	}
	return all
}

// firstN fails the first n batches.
func firstN(n int, err *protocol.Error) func(int, batch.Header) *protocol.Error {
	return func(i int, _ batch.Header) *protocol.Error {
		if i < n {
			return err
		}
		return nil
	}
}

func newProducer(t testing.TB, s *site, change func(*Config)) *Producer {
	t.Helper()
	cfg := Config{NameServers: []string{s.server.Addr()}, SendTimeout: 20 * time.Second}
	if change != nil {
		change(&cfg)
	}
	p, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatalf("not within 10 s: %s", what)
		case <-tick.C:
		}
	}
}
