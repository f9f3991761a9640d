package transport_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// park starts calls that are not answered, and returns them as the server has them.
func (r *rig) park(t *testing.T, c *transport.Conn, n int) (requests []*transport.Request, outcomes []<-chan outcome) {
	t.Helper()
	for i := range n {
		outcomes = append(outcomes, start(t.Context(), c, subject, &park{N: i}))
		requests = append(requests, receive(t, r.parked))
	}
	return requests, outcomes
}

// frames returns those of a NATS message.
func frames(t *testing.T, b []byte) (found []protocol.Frame) {
	t.Helper()
	for len(b) > 0 {
		one, rest := protocol.CutFrame(b)
		f, err := protocol.DecodeFrame(one)
		if err != nil {
			t.Fatal(err)
		}
		found, b = append(found, f), rest
	}
	return found
}

// TestGather_AnswersInOneMessage: each call gets its own answer, each connection
// one message, and nothing is sent before Gather ends.
func TestGather_AnswersInOneMessage(t *testing.T) {
	r := newRig(t, transport.Limits{})
	other := dial(t, r.fabric.Addr(), transport.Options{})
	seen := make(chan *nats.Msg, 100)
	nc := rawConn(t, r.fabric.Addr())
	if _, err := nc.ChanSubscribe(r.conn.Inbox(), seen); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	const n = 20
	requests, outcomes := r.park(t, r.conn, n)
	others, otherOutcomes := r.park(t, other, 1)
	r.serving.Gather(func() {
		for i, req := range requests {
			if i == n/2 {
				req.Fail(protocol.Errorf(protocol.NoPermission, "not this one"))
				continue
			}
			req.Reply(&echo{Text: fmt.Sprint(i)})
		}
		others[0].Reply(&echo{})
		if len(outcomes[0]) > 0 || len(otherOutcomes[0]) > 0 {
			t.Error("an answer came before all were given")
		}
	})
	for i, c := range outcomes {
		switch o := receive(t, c); {
		case i == n/2:
			if o.err == nil || o.payload != nil {
				t.Errorf("answer %d: %q, %v", i, o.payload, o.err)
			}
		case o.err != nil || !bytes.Contains(o.payload, fmt.Appendf(nil, "%q", fmt.Sprint(i))):
			t.Errorf("answer %d: %q, %v", i, o.payload, o.err)
		}
	}
	receive(t, otherOutcomes[0])
	if got := frames(t, receive(t, seen).Data); len(got) != n {
		t.Errorf("%d answers in the message, want %d", len(got), n)
	}
	requests, outcomes = r.park(t, r.conn, 1)
	requests[0].Reply(&echo{}) // at once
	receive(t, outcomes[0])
	if got := frames(t, receive(t, seen).Data); len(got) != 1 || len(seen) != 0 {
		t.Errorf("%d answers in a message, %d messages more", len(got), len(seen))
	}
}

// TestGather_LargeAnswers are sent as soon as they fill a message; one that is
// larger than that is a message by itself.
func TestGather_LargeAnswers(t *testing.T) {
	r := newRig(t, transport.Limits{})
	requests, outcomes := r.park(t, r.conn, 12)
	sizes := []int{100, 30 << 10, 30 << 10, 30 << 10, 1 << 20, 10, 63 << 10, 10, 64 << 10, 20 << 10, 50 << 10, 1}
	r.serving.Gather(func() {
		for i, req := range requests {
			req.Reply(&echo{Text: strings.Repeat("x", sizes[i])})
			if i == 4 {
				receive(t, outcomes[0])
				receive(t, outcomes[4])
			}
		}
	})
	for i, c := range outcomes {
		if i == 0 || i == 4 {
			continue
		}
		if o := receive(t, c); o.err != nil || bytes.Count(o.payload, []byte("x")) < sizes[i] {
			t.Errorf("answer %d: %d bytes, %v", i, len(o.payload), o.err)
		}
	}
}

// TestGather_Nested waits for the outermost.
func TestGather_Nested(t *testing.T) {
	r := newRig(t, transport.Limits{})
	requests, outcomes := r.park(t, r.conn, 2)
	r.serving.Gather(func() {
		r.serving.Gather(func() { requests[0].Reply(&echo{}) })
		requests[1].Reply(&echo{})
		if len(outcomes[0]) > 0 {
			t.Error("the inner one sent")
		}
	})
	receive(t, outcomes[0])
	receive(t, outcomes[1])
}

// TestAnswersBehindADamagedOne: those before it count, it is a damaged answer, and
// what its length says of those behind it is believed.
func TestAnswersBehindADamagedOne(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	nc := rawConn(t, f.Addr())
	requests := make(chan protocol.Frame, 3)
	if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
		req, err := protocol.DecodeFrame(m.Data)
		if err != nil {
			t.Error(err)
		}
		requests <- req
	}); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	c := dial(t, f.Addr(), transport.Options{})
	var outcomes []<-chan outcome
	var all []byte
	for i := range 3 {
		outcomes = append(outcomes, start(t.Context(), c, subject, &echo{}))
		answer := frame(protocol.Frame{Kind: protocol.KindResponse, ID: receive(t, requests).ID, Payload: []byte("{}")})
		if i == 1 {
			answer = flipped(answer, protocol.FrameHeader)
		}
		all = append(all, answer...)
	}
	all = append(all, "noise"...)
	if err := nc.Publish(c.Inbox(), all); err != nil {
		t.Fatal(err)
	}
	for i, c := range outcomes {
		if o := receive(t, c); (o.err != nil) != (i == 1) {
			t.Errorf("answer %d: %v", i, o.err)
		}
	}
}
