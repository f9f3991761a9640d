package transport_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestHandlersErrorsCrossTheWire(t *testing.T) {
	r := newRig(t, transport.Limits{})
	for how, want := range map[string]protocol.ErrorCode{
		"plain": protocol.SystemError, "code": protocol.TopicNotFound, "protocol": protocol.Busy,
		"long": protocol.Conflict, "nil": protocol.SystemError,
	} {
		_, err := transport.Call[echo](t.Context(), r.conn, subject, &fail{How: how})
		var e *protocol.Error
		if !errors.As(err, &e) || e.Code != want {
			t.Errorf("%s: got %v, want %v", how, err, want)
		}
		if how == "protocol" && e.RetryAfter() != 7*time.Millisecond {
			t.Errorf("retry after %v", e.RetryAfter())
		}
		if len(e.Error()) > 5000 {
			t.Errorf("%s: the text has %d bytes", how, len(e.Error()))
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	r := newRig(t, transport.Limits{})
	for name, c := range map[string]struct {
		req  protocol.Request
		want protocol.ErrorCode
	}{
		"unknown code": {&unserved{}, protocol.UnknownRequest},
		"panic":        {&panics{}, protocol.SystemError},
		"not decoded":  {&undecodable{}, protocol.InvalidArgument},
	} {
		_, err := transport.Call[echo](t.Context(), r.conn, subject, c.req)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	r.awaitServed(t, subject) // it lives on
}

// undecodable is JSON of the wrong kind under the echo's code.
type undecodable []int

func (*undecodable) RequestCode() protocol.Code { return echoCode }

func TestPanicOfAsyncHandler(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	m := transport.NewMux()
	m.HandleAsync(panicCode, func(*transport.Request) { panic("on purpose") })
	m.HandleAsync(echoCode, func(r *transport.Request) { r.Reply(&echo{}); panic("after the answer") })
	c := dial(t, f.Addr(), transport.Options{})
	s, err := transport.Serve(c, subject, transport.Limits{Requests: 1}, m)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // each would be refused if the one before still counted
		if _, err := transport.Call[echo](t.Context(), c, subject, &panics{}); !errors.Is(err, protocol.SystemError) {
			t.Fatalf("got %v", err)
		}
		if _, err := transport.Call[echo](t.Context(), c, subject, &echo{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBusyByCount(t *testing.T) {
	r := newRig(t, transport.Limits{Requests: 4}) // of which one caller gets half
	first := start(t.Context(), r.conn, subject, &park{})
	second := start(t.Context(), r.conn, subject, &park{})
	one, two := receive(t, r.parked), receive(t, r.parked)
	_, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{})
	var e *protocol.Error
	if !errors.As(err, &e) || e.Code != protocol.Busy || e.RetryAfter() <= 0 {
		t.Fatalf("got %v", err)
	}
	one.Reply(&echo{})
	receive(t, first)
	eventually(t, func() bool { // the answer goes out before the place is free
		_, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{})
		return err == nil
	})
	two.Fail(errPlain)
	if got := receive(t, second); !errors.Is(got.err, protocol.SystemError) {
		t.Fatalf("got %v", got.err)
	}
}

func TestBusyByBytes(t *testing.T) {
	r := newRig(t, transport.Limits{Bytes: 1000})
	// One alone may be larger than the limit.
	if _, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{Text: strings.Repeat("x", 5000)}); err != nil {
		t.Fatal(err)
	}
	r.awaitFree(t)
	waiting := start(t.Context(), r.conn, subject, &park{})
	parked := receive(t, r.parked)
	_, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{Text: strings.Repeat("x", 1000)})
	if !errors.Is(err, protocol.Busy) {
		t.Fatalf("got %v", err)
	}
	if _, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{Text: "small"}); err != nil {
		t.Fatal(err)
	}
	parked.Reply(&echo{})
	receive(t, waiting)
}

// TestClassesDoNotBlockOneAnother holds up one subject in the worst way: its
// handler blocks the goroutine that receives.
func TestClassesDoNotBlockOneAnother(t *testing.T) {
	r := newRig(t, transport.Limits{})
	other := "rmq.test.pull"
	blocked, release := make(chan struct{}), make(chan struct{})
	m := transport.NewMux()
	m.HandleAsync(parkCode, func(req *transport.Request) {
		close(blocked)
		<-release
		req.Reply(&echo{})
	})
	if _, err := transport.Serve(r.conn, other, transport.Limits{}, m); err != nil {
		t.Fatal(err)
	}
	waiting := start(t.Context(), r.conn, other, &park{})
	receive(t, blocked)
	if _, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{}); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got := receive(t, waiting); got.err != nil {
		t.Fatal(got.err)
	}
}

func TestHandlersContextHasTheDeadline(t *testing.T) {
	r := newRig(t, transport.Limits{})
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	start(ctx, r.conn, subject, &fail{How: "wait"})
	handler := receive(t, r.handlerStarted)
	want, _ := ctx.Deadline()
	latest := time.Now().Add(patient)
	if got, ok := handler.Deadline(); !ok || got.Before(want.Add(-time.Millisecond)) || got.After(latest) {
		t.Fatalf("deadline %v, %v; want %v to %v", got, ok, want, latest)
	}
}

func TestSecondAnswerIsDropped(t *testing.T) {
	r := newRig(t, transport.Limits{Requests: 1})
	waiting := start(t.Context(), r.conn, subject, &park{})
	req := receive(t, r.parked)
	req.Reply(&echo{Text: "first"})
	req.Reply(&echo{Text: "second"})
	req.Fail(errPlain)
	got := receive(t, waiting)
	if got.err != nil || !strings.Contains(string(got.payload), "first") {
		t.Fatalf("got %q, %v", got.payload, got.err)
	}
	r.awaitServed(t, subject)
	if len(waiting) != 0 {
		t.Fatal("the call was answered twice")
	}
	r.awaitFree(t)
	next := start(t.Context(), r.conn, subject, &park{})
	receive(t, r.parked)
	if _, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{}); !errors.Is(err, protocol.Busy) {
		t.Fatalf("a request left twice: %v", err)
	}
	_ = next // the rig's end answers it
}

func TestAnswerThatDoesNotFit(t *testing.T) {
	r := newRig(t, transport.Limits{})
	for name, answer := range map[string]any{
		"too large":   &protocol.SendRequest{Batches: make([]byte, protocol.MaxFrameBytes)},
		"not encoded": func() {},
	} {
		waiting := start(t.Context(), r.conn, subject, &park{})
		receive(t, r.parked).Reply(answer)
		if got := receive(t, waiting); !errors.Is(got.err, protocol.SystemError) {
			t.Errorf("%s: got %v", name, got.err)
		}
	}
}

func TestDrainWaitsForRunningRequests(t *testing.T) {
	r := newRig(t, transport.Limits{})
	waiting := start(t.Context(), r.conn, subject, &park{})
	parked := receive(t, r.parked)
	drained := make(chan error, 1)
	go func() { drained <- r.server.Drain(t.Context()) }()
	eventually(t, func() bool {
		_, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{})
		return errors.Is(err, protocol.Unavailable)
	})
	if len(drained) != 0 || len(waiting) != 0 {
		t.Fatal("it did not wait")
	}
	parked.Reply(&echo{Text: "in time"})
	if got := receive(t, waiting); got.err != nil {
		t.Fatal(got.err)
	}
	if err := receive(t, drained); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Call[echo](t.Context(), r.conn, subject, &echo{}); !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("after the drain: %v", err)
	}
	if err := r.server.Drain(t.Context()); err != nil {
		t.Fatalf("second drain: %v", err)
	}
}

func TestDrainGivesUp(t *testing.T) {
	r := newRig(t, transport.Limits{})
	waiting := start(t.Context(), r.conn, subject, &fail{How: "wait"})
	handler := receive(t, r.handlerStarted)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.server.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("drain: %v", err)
	}
	if handler.Err() == nil {
		t.Fatal("the handler was not cancelled")
	}
	if got := receive(t, waiting); !errors.Is(got.err, protocol.Unavailable) {
		t.Fatalf("got %v", got.err)
	}
}

// TestDrainWithoutConnection must not wait for the server to come back.
func TestDrainWithoutConnection(t *testing.T) {
	r := newRig(t, transport.Limits{})
	r.fabric.Close()
	eventually(t, func() bool { return !r.serving.Connected() })
	if err := r.server.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestCloseEndsHandlers closes the serving connection without a drain.
func TestCloseEndsHandlers(t *testing.T) {
	r := newRig(t, transport.Limits{})
	start(t.Context(), r.conn, subject, &fail{How: "wait"})
	handler := receive(t, r.handlerStarted)
	r.serving.Close()
	if handler.Err() == nil {
		t.Fatal("the handler's context goes on")
	}
}

func TestMuxRefusesASecondHandler(t *testing.T) {
	m := transport.NewMux()
	m.HandleAsync(echoCode, func(*transport.Request) {})
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	m.HandleAsync(echoCode, func(*transport.Request) {})
}
