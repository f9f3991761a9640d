package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

var (
	errPlain     = errors.New("plain")
	errorsByName = map[string]error{
		"plain":    errPlain,
		"code":     fmt.Errorf("topic x: %w", protocol.TopicNotFound),
		"protocol": fmt.Errorf("while busy: %w", &protocol.Error{Code: protocol.Busy, Remark: "later", RetryAfterMillis: 7}),
		"long":     protocol.Errorf(protocol.Conflict, "%s", strings.Repeat("x", 1<<20)),
	}
)

func TestCallGetsTheAnswer(t *testing.T) {
	r := newRig(t, transport.Limits{})
	got, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{Text: "hello"})
	if err != nil || got.Text != "hello" {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestLargeFramesPassBothWays(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	m := transport.NewMux()
	transport.Handle(m, func(_ context.Context, req *protocol.SendRequest) (*protocol.PullResponse, error) {
		return &protocol.PullResponse{Queues: []protocol.PulledQueue{{Batches: req.Batches}}}, nil
	})
	serving := dial(t, f.Addr(), transport.Options{InProcess: f})
	if _, err := transport.Serve(serving, subject, transport.Limits{}, m); err != nil {
		t.Fatal(err)
	}
	payload := bytes.Repeat([]byte("0123456789abcdef"), 7<<20/16)
	for name, o := range map[string]transport.Options{"tcp": {}, "in process": {InProcess: f}} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, f.Addr(), o)
			got, err := transport.Call[protocol.PullResponse](t.Context(), c, subject, &protocol.SendRequest{Batches: payload})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Queues[0].Batches, payload) {
				t.Fatal("the payload changed")
			}
		})
	}
}

// TestAnswersFindTheirCalls answers many calls out of order.
func TestAnswersFindTheirCalls(t *testing.T) {
	r := newRig(t, transport.Limits{})
	const n = 500
	var waiting [n]<-chan outcome
	for i := range waiting {
		waiting[i] = start(t.Context(), r.conn, subject, &park{N: i})
	}
	var requests []*transport.Request
	for range n {
		requests = append(requests, receive(t, r.parked))
	}
	for i := range requests {
		req := requests[n-1-i]
		var p park
		if err := protocol.Unmarshal(req.Payload, &p); err != nil {
			t.Fatal(err)
		}
		req.Reply(&p)
	}
	for i := range waiting {
		got := receive(t, waiting[i])
		var p park
		if err := protocol.Unmarshal(got.payload, &p); got.err != nil || err != nil || p.N != i {
			t.Fatalf("call %d got %d, %v, %v", i, p.N, got.err, err)
		}
	}
}

func TestCallIsUnreachableAtOnce(t *testing.T) {
	t.Run("when the server is down", func(t *testing.T) {
		c := dial(t, freeAddr(t), transport.Options{})
		if c.Connected() {
			t.Fatal("connected to nothing")
		}
		wantAtOnce(t, start(t.Context(), c, subject, &echo{}), protocol.Unreachable)
		if err := c.Publish(subject, protocol.RouteChanged, &echo{}); !errors.Is(err, protocol.Unreachable) {
			t.Fatalf("publish: %v", err)
		}
	})
	t.Run("when nobody serves the subject", func(t *testing.T) {
		r := newRig(t, transport.Limits{})
		parked := start(t.Context(), r.conn, subject, &park{})
		receive(t, r.parked)
		got := receive(t, start(t.Context(), r.conn, "rmq.test.nobody", &echo{}))
		if !errors.Is(got.err, protocol.Unreachable) || !strings.Contains(got.err.Error(), "rmq.test.nobody") {
			t.Fatalf("got %v", got.err)
		}
		if len(parked) != 0 {
			t.Fatal("a call to another subject failed too")
		}
	})
	t.Run("when the connection is cut while it waits", func(t *testing.T) {
		r := newRig(t, transport.Limits{})
		waiting := start(t.Context(), r.conn, subject, &park{})
		receive(t, r.parked)
		r.fabric.Close()
		if got := receive(t, waiting); !errors.Is(got.err, protocol.Unreachable) {
			t.Fatalf("got %v", got.err)
		}
		eventually(t, func() bool { return !r.conn.Connected() })
		wantAtOnce(t, start(t.Context(), r.conn, subject, &echo{}), protocol.Unreachable)
	})
}

func TestTimeoutIsUnknownOutcome(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	c := dial(t, f.Addr(), transport.Options{})
	nc := rawConn(t, f.Addr())
	requests := make(chan *nats.Msg, 1)
	if _, err := nc.ChanSubscribe(subject, requests); err != nil || nc.Flush() != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := transport.Call[echo](ctx, c, subject, &echo{})
	if !errors.Is(err, protocol.UnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	m := receive(t, requests)
	req, err := protocol.DecodeFrame(m.Data)
	if err != nil || req.Timeout < time.Millisecond || req.Timeout > time.Second {
		t.Fatalf("the frame says %v, %v; want what is left of a second", req.Timeout, err)
	}
	// The late answer interests nobody and harms nobody.
	if err := m.Respond(frame(protocol.Frame{Kind: protocol.KindResponse, ID: req.ID, Payload: []byte("{}")})); err != nil {
		t.Fatal(err)
	}
	waiting := start(t.Context(), c, subject, &echo{})
	m = receive(t, requests)
	req, err = protocol.DecodeFrame(m.Data)
	if err != nil || m.Respond(frame(protocol.Frame{Kind: protocol.KindResponse, ID: req.ID, Payload: []byte("{}")})) != nil {
		t.Fatal(err)
	}
	if got := receive(t, waiting); got.err != nil {
		t.Fatal(got.err)
	}
}

func TestCancelledCall(t *testing.T) {
	r := newRig(t, transport.Limits{})
	ctx, cancel := context.WithCancel(t.Context())
	waiting := start(ctx, r.conn, subject, &park{})
	receive(t, r.parked)
	cancel()
	got := receive(t, waiting)
	if !errors.Is(got.err, context.Canceled) || errors.Is(got.err, protocol.UnknownOutcome) {
		t.Fatalf("got %v", got.err)
	}
	wantAtOnce(t, start(ctx, r.conn, subject, &park{}), context.Canceled)
	if len(r.parked) != 0 {
		t.Fatal("a call with a dead context was sent")
	}
}

func TestCloseFailsPendingCalls(t *testing.T) {
	r := newRig(t, transport.Limits{})
	waiting := start(t.Context(), r.conn, subject, &park{})
	receive(t, r.parked)
	r.conn.Close()
	r.conn.Close() // twice is fine
	wantAtOnce(t, waiting, protocol.Closed)
	wantAtOnce(t, start(t.Context(), r.conn, subject, &echo{}), protocol.Closed)
	if _, err := r.conn.Subscribe("x", func(protocol.Frame) {}); !errors.Is(err, protocol.Closed) {
		t.Fatalf("subscribe: %v", err)
	}
	if _, err := transport.Serve(r.conn, "x", transport.Limits{}, transport.NewMux()); !errors.Is(err, protocol.Closed) {
		t.Fatalf("serve: %v", err)
	}
	if err := r.conn.WaitConnected(t.Context()); !errors.Is(err, protocol.Closed) {
		t.Fatalf("wait: %v", err)
	}
	if err := r.conn.Publish("x", protocol.RouteChanged, &echo{}); !errors.Is(err, protocol.Closed) {
		t.Fatalf("publish: %v", err)
	}
}

// TestCloseDuringCalls closes while calls begin, end and time out.
func TestCloseDuringCalls(t *testing.T) {
	r := newRig(t, transport.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	const n = 2000
	outcomes := make(chan error, 2*n)
	go r.conn.Close() // the test's own Close waits for it
	for i := range n {
		var req protocol.Request = &echo{}
		if i%2 == 0 {
			req = &park{}
		}
		r.conn.Start(ctx, subject, req, func(_ []byte, err error) { outcomes <- err })
	}
	r.conn.Close()
	if len(outcomes) != n {
		t.Fatalf("%d calls have %d outcomes", n, len(outcomes))
	}
}

func TestTooLargeRequest(t *testing.T) {
	r := newRig(t, transport.Limits{})
	_, err := transport.Call[echo](t.Context(), r.conn, subject, &protocol.SendRequest{Batches: make([]byte, protocol.MaxFrameBytes)})
	if !errors.Is(err, protocol.IllegalMessage) {
		t.Fatalf("got %v", err)
	}
	r.awaitServed(t, subject)
}

func TestUnreadableAnswer(t *testing.T) {
	r := newRig(t, transport.Limits{})
	_, err := transport.Call[protocol.SendResponse](t.Context(), r.conn, subject, &echo{Text: "not binary"})
	if !errors.Is(err, protocol.SystemError) {
		t.Fatalf("got %v", err)
	}
}

func TestDeniedSubject(t *testing.T) {
	addr := startForeignServer(t, &server.Options{MaxPayload: protocol.MaxFrameBytes, NoAuthUser: "u",
		Users: []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"rmq.test.denied"}},
		}}},
	})
	c := dial(t, addr, transport.Options{})
	_, err := transport.Call[echo](t.Context(), c, "rmq.test.denied", &echo{})
	if !errors.Is(err, protocol.NoPermission) {
		t.Fatalf("got %v", err)
	}
}

// TestServerThatTakesSmallerFrames is noticed when it connects and by the call.
func TestServerThatTakesSmallerFrames(t *testing.T) {
	log := new(lines)
	addr := startForeignServer(t, &server.Options{MaxPayload: 1 << 20})
	c := dial(t, addr, transport.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	_, err := transport.Call[echo](t.Context(), c, subject, &protocol.SendRequest{Batches: make([]byte, 2<<20)})
	if !errors.Is(err, protocol.IllegalMessage) || !strings.Contains(err.Error(), "1048576") {
		t.Fatalf("got %v", err)
	}
	eventually(t, func() bool { return log.contains("max_payload=1048576") })
}

// startForeignServer runs a NATS server that is not set up by fabric.
func startForeignServer(t *testing.T, o *server.Options) (addr string) {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog = "127.0.0.1", -1, true, true
	ns, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	return ns.Addr().String()
}

// wantAtOnce is for calls that end before Start returns.
func wantAtOnce(t *testing.T, outcomes <-chan outcome, want error) {
	t.Helper()
	select {
	case got := <-outcomes:
		if !errors.Is(got.err, want) {
			t.Fatalf("got %v, want %v", got.err, want)
		}
	default:
		t.Fatal("the call is still waiting")
	}
}

// freeAddr is an address where nobody listens at the moment.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
