package transport_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	echoCode   protocol.Code = 9001
	parkCode   protocol.Code = 9002
	failCode   protocol.Code = 9003
	panicCode  protocol.Code = 9004
	nobodyCode protocol.Code = 9099

	subject = "rmq.test.send"
	patient = 30 * time.Second // a test that waits this long has failed
)

type echo struct {
	Text string `json:"text"`
}

func (*echo) RequestCode() protocol.Code { return echoCode }

// park is a request that is answered when the test says so.
type park struct{ N int }

func (*park) RequestCode() protocol.Code { return parkCode }

type fail struct{ How string }

func (*fail) RequestCode() protocol.Code { return failCode }

type panics struct{}

func (*panics) RequestCode() protocol.Code { return panicCode }

type unserved struct{}

func (*unserved) RequestCode() protocol.Code { return nobodyCode }

func startFabric(t *testing.T, listen string) *fabric.Server {
	t.Helper()
	s, err := fabric.Start(fabric.Config{Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func dial(t *testing.T, addr string, o transport.Options) *transport.Conn {
	t.Helper()
	c, err := transport.Dial(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// rig is a fabric with a serving connection and a calling one.
type rig struct {
	fabric         *fabric.Server
	serving, conn  *transport.Conn
	server         *transport.Server
	parked         chan *transport.Request
	handlerStarted chan context.Context // of fail with How "wait"
}

func newRig(t *testing.T, l transport.Limits) *rig {
	t.Helper()
	r := &rig{parked: make(chan *transport.Request, 1024), handlerStarted: make(chan context.Context, 16)}
	r.fabric = startFabric(t, "127.0.0.1:0")
	r.serving = dial(t, r.fabric.Addr(), transport.Options{Name: "server", InProcess: r.fabric})
	r.conn = dial(t, r.fabric.Addr(), transport.Options{Name: "client"})
	r.server = r.serve(t, subject, l)
	return r
}

func (r *rig) serve(t *testing.T, subject string, l transport.Limits) *transport.Server {
	t.Helper()
	s, err := transport.Serve(r.serving, subject, l, r.mux())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// awaitServed returns when a call is answered.
func (r *rig) awaitServed(t *testing.T, subject string) {
	t.Helper()
	eventually(t, func() bool {
		_, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{})
		return err == nil
	})
}

// awaitFree returns when no request takes a place any more: an answer goes out before
// its place is free.
func (r *rig) awaitFree(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return r.server.InFlight() == 0 })
}

func (r *rig) mux() *transport.Mux {
	m := transport.NewMux()
	transport.Handle(m, func(_ context.Context, req *echo) (*echo, error) { return req, nil })
	transport.Handle(m, r.fail)
	transport.Handle(m, func(context.Context, *panics) (*echo, error) { panic("on purpose") })
	m.HandleAsync(parkCode, func(req *transport.Request) { r.parked <- req })
	return m
}

func (r *rig) fail(ctx context.Context, req *fail) (*echo, error) {
	switch req.How {
	case "wait":
		r.handlerStarted <- ctx
		<-ctx.Done()
		return nil, ctx.Err()
	case "nil":
		return nil, nil
	default:
		return nil, errorsByName[req.How]
	}
}

// start begins a call and returns where its outcome appears.
func start(ctx context.Context, c *transport.Conn, subject string, req protocol.Request) <-chan outcome {
	outcomes := make(chan outcome, 2) // a second one would be an error
	c.Start(ctx, subject, req, func(payload []byte, err error) { outcomes <- outcome{payload, err} })
	return outcomes
}

type outcome struct {
	payload []byte
	err     error
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
