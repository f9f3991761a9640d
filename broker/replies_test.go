package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// replying is a cluster with a replier and a requester, of which each is but a
// connection.
type replying struct {
	*testing.T
	cluster            *harness.Cluster
	replier, requester *transport.Conn
	got                chan string
	refuse             error // what the requester says
}

func newReplying(t *testing.T) *replying {
	r := &replying{T: t, cluster: harness.Start(t), got: make(chan string, 100)}
	r.replier, r.requester = r.connect(), r.connect()
	return r
}

func (r *replying) connect() *transport.Conn {
	r.Helper()
	c, err := transport.Dial(r.cluster.NameServers[0], transport.Options{})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(r.Context(), harness.Timeout)
	defer cancel()
	if err := c.WaitConnected(ctx); err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *replying) heartbeat() {
	r.Helper()
	req := &protocol.HeartbeatRequest{ClientID: "requester", Inbox: r.requester.Inbox()}
	_, err := transport.Call[protocol.HeartbeatResponse](r.Context(), r.requester, protocol.BrokerSubject("broker-a", 0, protocol.ClassClient), req)
	if err != nil {
		r.Fatal(err)
	}
}

// listen has the requester take replies.
func (r *replying) listen() {
	r.Helper()
	m := transport.NewMux()
	transport.Handle(m, func(_ context.Context, req *protocol.PushReplyRequest) (*protocol.Empty, error) {
		ms, _, err := batch.Decode(nil, req.Batch, "")
		if err != nil {
			return nil, err
		}
		r.got <- string(ms[0].Body)
		return &protocol.Empty{}, r.refuse
	})
	if _, err := transport.Serve(r.requester, protocol.ReplySubject(r.requester.Inbox()), transport.Limits{}, m); err != nil {
		r.Fatal(err)
	}
}

func reply(body string, copies int) []byte {
	b := batch.NewBuilder("t", 0)
	for range copies {
		b.Add(&message.Message{Topic: "t", ID: message.MakeID(1, 2), BornTime: time.UnixMilli(1), Body: []byte(body), CorrelationID: "c"})
	}
	return b.Finish()
}

// send sends a reply on a goroutine of its own.
func (r *replying) send(ctx context.Context, req *protocol.SendReplyRequest) <-chan error {
	done := make(chan error, 1)
	r.replier.Start(ctx, protocol.BrokerSubject("broker-a", 0, protocol.ClassClient), req, func(_ []byte, err error) { done <- err })
	return done
}

func (r *replying) sendBody(timeout time.Duration, body string) <-chan error {
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	r.Cleanup(cancel)
	return r.send(ctx, &protocol.SendReplyRequest{ClientID: "requester", Batch: reply(body, 1)})
}

func TestReply_IsConfirmedByTheClient(t *testing.T) {
	r := newReplying(t)
	r.listen()
	if err := r.beatUntil(r.sendBody(harness.Timeout, "x")); err != nil || <-r.got != "x" {
		t.Errorf("got %v", err)
	}
	r.refuse = protocol.Errorf(protocol.NotFound, "nobody waits")
	if err := r.beatUntil(r.sendBody(harness.Timeout, "late")); !errors.Is(err, protocol.NotFound) {
		t.Errorf("got %v, want the client's refusal", err)
	}
}

func TestReply_WaitsForTheClient(t *testing.T) {
	r := newReplying(t)
	r.listen()
	early := []<-chan error{r.sendBody(harness.Timeout, "a"), r.sendBody(harness.Timeout, "b")}
	for _, done := range early {
		if err := r.beatUntil(done); err != nil {
			t.Error(err)
		}
	}
	got := map[string]bool{}
	for len(got) < 2 { // one that is slow to be confirmed is brought again
		got[<-r.got] = true
	}
	if !got["a"] || !got["b"] {
		t.Errorf("got %v", got)
	}
}

// A session outlives a connection: what is sent to the one that is gone is sent
// again after the heartbeat of the next one.
func TestReply_IsBroughtAgainWhenTheConnectionIsGone(t *testing.T) {
	r := newReplying(t)
	r.listen()
	r.heartbeat()
	r.requester.Close()
	done := r.sendBody(harness.Timeout, "x")
	r.requester = r.connect()
	r.heartbeat() // this one takes no replies yet
	select {
	case err := <-done:
		t.Fatalf("the reply is settled without a client: %v", err)
	default:
	}
	r.listen()
	if err := r.beatUntil(done); err != nil || <-r.got != "x" {
		t.Errorf("got %v", err)
	}
}

func TestReply_ToNobody(t *testing.T) {
	r := newReplying(t)
	// The broker gives up a tenth of the time before the sender does.
	if err := <-r.sendBody(3*time.Second, "x"); !errors.Is(err, protocol.UnknownMember) {
		t.Errorf("got %v, want %v", err, protocol.UnknownMember)
	}
}

// A client that has said goodbye is not waited for, unless it has come back.
func TestReply_ToOneThatHasLeft(t *testing.T) {
	r := newReplying(t)
	r.heartbeat() // and takes no replies
	waits := r.sendBody(harness.Timeout, "waits")
	goodbye := func() {
		t.Helper()
		req := &protocol.LeaveGroupRequest{ClientID: "requester"}
		if _, err := transport.Call[protocol.Empty](t.Context(), r.requester, protocol.BrokerSubject("broker-a", 0, protocol.ClassClient), req); err != nil {
			t.Fatal(err)
		}
	}
	goodbye()
	for _, done := range []<-chan error{waits, r.sendBody(harness.Timeout, "late")} {
		if err := <-done; !errors.Is(err, protocol.UnknownMember) || !strings.Contains(err.Error(), "has ended its session") {
			t.Errorf("got %v, want %v", err, protocol.UnknownMember)
		}
	}
	r.listen()
	r.heartbeat()
	if err := r.beatUntil(r.sendBody(harness.Timeout, "back")); err != nil || <-r.got != "back" {
		t.Errorf("got %v", err)
	}
}

func TestReply_Refused(t *testing.T) {
	r := newReplying(t)
	timed := batch.NewBuilder("t", 0)
	timed.Begin(&batch.Lead{Topic: "t", Purpose: batch.ToTimer})
	timed.Add(&message.Message{Topic: "t", ID: message.MakeID(1, 2), BornTime: time.UnixMilli(1), CorrelationID: "c", Delay: time.Second})
	for name, x := range map[string]struct {
		req  protocol.SendReplyRequest
		want error
	}{
		"no client": {protocol.SendReplyRequest{Batch: reply("x", 1)}, protocol.InvalidArgument},
		"no batch":  {protocol.SendReplyRequest{ClientID: "c"}, protocol.IllegalMessage},
		"damaged":   {protocol.SendReplyRequest{ClientID: "c", Batch: reply("x", 1)[1:]}, protocol.IllegalMessage},
		"two":       {protocol.SendReplyRequest{ClientID: "c", Batch: reply("x", 2)}, protocol.IllegalMessage},
		"more":      {protocol.SendReplyRequest{ClientID: "c", Batch: append(reply("x", 1), 0)}, protocol.IllegalMessage},
		"delayed":   {protocol.SendReplyRequest{ClientID: "c", Batch: timed.Finish()}, protocol.IllegalMessage},
	} {
		if err := <-r.send(t.Context(), &x.req); !errors.Is(err, x.want) {
			t.Errorf("%s: got %v, want %v", name, err, x.want)
		}
	}
}

// Replies that wait are bounded, so that heartbeats get in: without them no reply
// would find its client.
func TestReply_ThoseThatWaitAreBounded(t *testing.T) {
	r := newReplying(t)
	r.listen()
	body := string(make([]byte, 3<<20))
	const taken = 5 // one more is above the limit, whichever comes last
	ended := make(chan error, taken+1)
	for range taken + 1 {
		done := r.sendBody(harness.Timeout, body)
		go func() { ended <- <-done }()
	}
	busy := <-ended
	var e *protocol.Error
	if !errors.Is(busy, protocol.Busy) || !errors.As(busy, &e) || e.RetryAfter() == 0 {
		t.Errorf("got %v, want %v", busy, protocol.Busy)
	}
	for range taken {
		if err := r.beatUntil(ended); err != nil {
			t.Error(err)
		}
	}
	if err := r.beatUntil(r.sendBody(harness.Timeout, body)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// beatUntil sends heartbeats as clients do until a reply is settled.
func (r *replying) beatUntil(done <-chan error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		r.heartbeat()
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
	}
}

func TestReply_EndsWithTheBroker(t *testing.T) {
	r := newReplying(t)
	done := r.sendBody(harness.Timeout, "x")
	<-r.send(t.Context(), &protocol.SendReplyRequest{}) // what was sent before is being handled
	r.cluster.Stop()
	if err := <-done; !protocol.CodeOf(err).Retryable() {
		t.Errorf("got %v, want what is worth another try", err)
	}
}
