package transport_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// rawConn speaks NATS without our frames.
func rawConn(t *testing.T, addr string) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func frame(f protocol.Frame) []byte { return protocol.AppendFrame(nil, &f) }

func flipped(b []byte, at int) []byte {
	b[at] ^= 1
	return b
}

func TestBadRequestFramesAreRefused(t *testing.T) {
	r := newRig(t, transport.Limits{})
	nc := rawConn(t, r.fabric.Addr())
	good := protocol.Frame{Kind: protocol.KindRequest, Code: echoCode, ID: 77, Payload: []byte(`{"text":"x"}`)}
	for name, b := range map[string][]byte{
		"damaged payload":  flipped(frame(good), protocol.FrameHeader+3),
		"damaged checksum": flipped(frame(good), 28),
		"unknown version":  flipped(frame(good), 2),
		"cut":              frame(good)[:protocol.FrameHeader+2],
		"length beyond":    flipped(frame(good), 25),
	} {
		m, err := nc.Request(subject, b, patient)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f, err := protocol.DecodeFrame(m.Data)
		var e protocol.Error
		if err != nil || json.Unmarshal(f.Payload, &e) != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if f.Kind != protocol.KindError || f.ID != 77 || e.Code != protocol.IllegalMessage {
			t.Errorf("%s: got %v of id %d, %v", name, f.Kind, f.ID, &e)
		}
	}
	if n := r.server.BadFrames(); n != 5 {
		t.Errorf("counted %d", n)
	}
}

func TestUnreadableFramesAreCounted(t *testing.T) {
	r := newRig(t, transport.Limits{})
	nc := rawConn(t, r.fabric.Addr())
	bad := [][]byte{
		nil, []byte("hello"), make([]byte, protocol.FrameHeader),
		frame(protocol.Frame{Kind: protocol.KindEvent, Code: echoCode}),
		frame(protocol.Frame{Kind: protocol.KindResponse, Code: echoCode, ID: 1}),
	}
	for _, b := range bad {
		if err := nc.Publish(subject, b); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return r.server.BadFrames() == uint64(len(bad)) })
	r.awaitServed(t, subject)
}

// TestTimeoutIsCountedFromTheArrival: no clock but the server's has a part in it.
func TestTimeoutIsCountedFromTheArrival(t *testing.T) {
	r := newRig(t, transport.Limits{})
	nc := rawConn(t, r.fabric.Addr())
	for _, timeout := range []time.Duration{0, time.Millisecond, time.Hour, math.MaxInt64} {
		sent := time.Now()
		if err := nc.Publish(subject, frame(protocol.Frame{Kind: protocol.KindRequest, Code: parkCode, ID: 1, Timeout: timeout})); err != nil {
			t.Fatal(err)
		}
		req := receive(t, r.parked)
		if timeout = timeout.Truncate(time.Millisecond); timeout == 0 {
			if !req.Deadline.IsZero() {
				t.Errorf("no timeout: deadline %v", req.Deadline)
			}
			continue
		}
		if earliest, latest := sent.Add(timeout), time.Now().Add(timeout); req.Deadline.Before(earliest) || req.Deadline.After(latest) {
			t.Errorf("timeout %v: deadline %v, want %v to %v", timeout, req.Deadline, earliest, latest)
		}
	}
}

// TestTimeoutEndsTheHandler also when nobody waits for the answer any more.
func TestTimeoutEndsTheHandler(t *testing.T) {
	r := newRig(t, transport.Limits{})
	nc := rawConn(t, r.fabric.Addr())
	wait := frame(protocol.Frame{Kind: protocol.KindRequest, Code: failCode, Timeout: time.Millisecond, Payload: []byte(`{"How":"wait"}`)})
	if err := nc.Publish(subject, wait); err != nil {
		t.Fatal(err)
	}
	handler := receive(t, r.handlerStarted)
	receive(t, handler.Done())
	if !errors.Is(handler.Err(), context.DeadlineExceeded) {
		t.Fatalf("got %v", handler.Err())
	}
}

// TestRequestWithoutReply is carried out and answered to nobody.
func TestRequestWithoutReply(t *testing.T) {
	r := newRig(t, transport.Limits{Requests: 1})
	nc := rawConn(t, r.fabric.Addr())
	if err := nc.Publish(subject, frame(protocol.Frame{Kind: protocol.KindRequest, Code: parkCode})); err != nil {
		t.Fatal(err)
	}
	receive(t, r.parked).Reply(&echo{})
	r.awaitServed(t, subject)
}

// TestBadAnswers lets a stranger answer calls.
func TestBadAnswers(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	nc := rawConn(t, f.Addr())
	answers := make(chan func(protocol.Frame) []byte, 1)
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		req, err := protocol.DecodeFrame(m.Data)
		if err != nil {
			t.Error(err)
		}
		_ = m.Respond([]byte("noise")) // is skipped
		_ = m.Respond(frame(protocol.Frame{Kind: protocol.KindResponse, ID: req.ID + 1000}))
		_ = m.Respond((<-answers)(req))
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	c := dial(t, f.Addr(), transport.Options{})
	for name, test := range map[string]struct {
		answer func(protocol.Frame) []byte
		want   error
	}{
		"damaged": {func(r protocol.Frame) []byte {
			return flipped(frame(protocol.Frame{Kind: protocol.KindResponse, ID: r.ID, Payload: []byte("{}")}), protocol.FrameHeader)
		}, protocol.UnknownOutcome},
		"newer version": {func(r protocol.Frame) []byte {
			return flipped(frame(protocol.Frame{Kind: protocol.KindResponse, ID: r.ID}), 2)
		}, protocol.UnknownOutcome},
		"unreadable error": {func(r protocol.Frame) []byte {
			return frame(protocol.Frame{Kind: protocol.KindError, ID: r.ID, Payload: []byte("oops")})
		}, protocol.SystemError},
	} {
		answers <- test.answer
		if _, err := transport.Call[echo](t.Context(), c, subject, &echo{}); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

// TestNoiseAmongEvents shows that what is no event reaches no subscriber.
func TestNoiseAmongEvents(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	nc := rawConn(t, f.Addr())
	c := dial(t, f.Addr(), transport.Options{})
	heard := make(chan protocol.Frame, 16)
	if _, err := c.Subscribe("rmq.test.events", func(f protocol.Frame) { heard <- f }); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Call[echo](t.Context(), c, "rmq.test.nobody", &echo{}); !errors.Is(err, protocol.Unreachable) {
		t.Fatal(err) // it was behind the subscription
	}
	for _, b := range [][]byte{nil, []byte("x"), frame(protocol.Frame{Kind: protocol.KindRequest}), frame(protocol.Frame{Kind: protocol.KindEvent, Code: protocol.RouteChanged})} {
		if err := nc.Publish("rmq.test.events", b); err != nil {
			t.Fatal(err)
		}
	}
	if got := receive(t, heard); got.Kind != protocol.KindEvent || len(heard) != 0 {
		t.Fatalf("got %+v", got)
	}
}
