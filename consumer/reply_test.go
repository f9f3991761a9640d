package consumer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestReply_Refuses(t *testing.T) {
	asked := Delivery{replies: newReplier(nil)}
	asked.Topic, asked.CorrelationID, asked.ReplyTo = "t", "c", "client"
	unasked, ours := asked, asked
	unasked.CorrelationID = ""
	ours.replies = nil
	for _, x := range []struct {
		name string
		d    Delivery
		m    *message.Message
		want []error
	}{
		{"not a request", unasked, &message.Message{}, []error{ErrNotRequest, protocol.InvalidArgument}},
		{"not delivered", ours, &message.Message{}, []error{ErrNotRequest}},
		{"nil", asked, nil, []error{protocol.IllegalMessage}},
		{"delayed", asked, &message.Message{Delay: time.Second}, []error{protocol.IllegalMessage, message.ErrIllegalMessage}},
		{"too large", asked, &message.Message{Body: make([]byte, message.MaxBodyBytes+1)}, []error{protocol.IllegalMessage, message.ErrBodyTooLarge}},
		{"bad key", asked, &message.Message{Keys: []string{"a b"}}, []error{protocol.IllegalMessage}},
	} {
		err := x.d.Reply(t.Context(), x.m)
		var e *Error
		for _, want := range x.want {
			if !errors.Is(err, want) || !errors.As(err, &e) || e.Retryable || e.Topic != "t" {
				t.Errorf("%s: got %v, want %v", x.name, err, want)
			}
		}
	}
}

func TestReplyTime(t *testing.T) {
	now := time.UnixMilli(1000)
	for by, want := range map[time.Time]time.Duration{
		{}:                         replyTimeout,
		now.Add(10 * time.Second):  10 * time.Second,
		now.Add(time.Millisecond):  leastReplyTimeout,
		now.Add(-10 * time.Second): leastReplyTimeout, // this machine's clock may be wrong
	} {
		d := Delivery{}
		d.ReplyBy = by
		if got := d.replyTime(now); got != want {
			t.Errorf("until %v: %v, want %v", by, got, want)
		}
	}
}

func TestEncodeReply(t *testing.T) {
	r := newReplier(nil)
	d := &Delivery{}
	d.Topic, d.CorrelationID, d.ReplyTo, d.ReplyBy = "t", "c", "client", time.UnixMilli(5)
	m := &message.Message{Topic: "other", Body: []byte("x"), ReplyTo: "me", CorrelationID: "mine"}
	b, err := r.encode(d, m)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := decodeBatches(b, "")
	if err != nil || len(ms) != 1 {
		t.Fatalf("%v, %v", ms, err)
	}
	got := ms[0]
	if got.Topic != "t" || got.CorrelationID != "c" || got.ReplyTo != "" || !got.ReplyBy.IsZero() || got.ID.IsZero() || got.BornTime.IsZero() {
		t.Errorf("got %+v", got)
	}
	if m.Topic != "other" || !m.ID.IsZero() {
		t.Errorf("the caller's message was changed: %+v", m)
	}
	long := &message.Message{Body: []byte(strings.Repeat("x", message.MaxBodyBytes))}
	if _, err := r.encode(d, long); err != nil {
		t.Errorf("the largest body: %v", err)
	}
}
