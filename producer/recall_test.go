package producer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

func delayed(body string, d time.Duration) *message.Message {
	return &message.Message{Topic: "t", Body: []byte(body), Delay: d}
}

func TestRecall(t *testing.T) {
	c := harness.Start(t)
	p := producerOf(t, c, nil)
	ctx := t.Context()
	for _, m := range []*message.Message{
		delayed("delay", time.Hour),
		{Topic: "t", Body: []byte("time"), DeliverAt: time.Now().Add(time.Hour)},
		{Topic: "t", Body: []byte("level"), DelayLevel: 18},
	} {
		r, err := p.Send(ctx, m)
		if err != nil || r.Offset != -1 || r.RecallHandle == "" || r.MessageID.IsZero() {
			t.Fatalf("%s: %+v, %v", m.Body, r, err)
		}
		other := producerOf(t, c, nil) // a handle is not bound to its producer
		for range 2 {
			if recalled, err := other.Recall(ctx, r.RecallHandle); !recalled || err != nil {
				t.Errorf("%s: recalled %v, %v", m.Body, recalled, err)
			}
		}
	}
	late, err := p.Send(ctx, delayed("late", time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is delivered", func() bool { return slices.Equal(visible(t, c), []string{"late"}) })
	if recalled, err := p.Recall(ctx, late.RecallHandle); recalled || err != nil {
		t.Errorf("recall of what was delivered: %v, %v", recalled, err)
	}
}

func TestRecall_RefusesWhatIsNoHandleOfTheCluster(t *testing.T) {
	c := harness.Start(t)
	p := producerOf(t, c, nil)
	r, err := p.Send(t.Context(), delayed("x", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	h, err := client.ParseHandle(r.RecallHandle)
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*client.Handle)) string {
		x := h
		change(&x)
		return x.String()
	}
	raw, _ := base64.RawURLEncoding.DecodeString(r.RecallHandle)
	raw[len(raw)/2] ^= 1
	for name, x := range map[string]struct {
		handle string
		want   error
	}{
		"nothing":      {"", ErrBadHandle},
		"words":        {"take it back", ErrBadHandle},
		"cut":          {r.RecallHandle[:len(r.RecallHandle)-4], ErrBadHandle},
		"changed":      {base64.RawURLEncoding.EncodeToString(raw), ErrBadHandle},
		"other broker": {changed(func(h *client.Handle) { h.Broker = "elsewhere" }), ErrNotFound},
		"forged id":    {changed(func(h *client.Handle) { h.ID = message.MakeID(1, 2).String() }), ErrNotFound},
		"forged place": {changed(func(h *client.Handle) { h.Position = 7 }), ErrNotFound},
		"old":          {changed(func(h *client.Handle) { h.Origin = 1 << 40 }), ErrNotFound},
		"other topic":  {changed(func(h *client.Handle) { h.Topic = "other" }), ErrNotFound},
	} {
		var e *Error
		recalled, err := p.Recall(t.Context(), x.handle)
		if recalled || !errors.Is(err, x.want) || !errors.As(err, &e) || e.Retryable {
			t.Errorf("%s: got %v, %v; want %v", name, recalled, err, x.want)
		}
	}
	if recalled, err := p.Recall(t.Context(), r.RecallHandle); !recalled || err != nil {
		t.Errorf("the true handle: %v, %v", recalled, err)
	}
}

func TestRecall_WaitsForTheBroker(t *testing.T) {
	c := harness.Start(t)
	p := producerOf(t, c, nil)
	r, err := p.Send(t.Context(), delayed("x", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c.Stop()
	done := make(chan error, 1)
	go func() {
		recalled, err := p.Recall(t.Context(), r.RecallHandle)
		if err == nil && !recalled {
			err = errors.New("it was delivered")
		}
		done <- err
	}()
	c.Start()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A message that is to be held back never shares a batch with one that is not,
// and keeps its place among its like.
func TestSend_BatchesHaveOnePurpose(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	var sent []*message.Message
	for i := range 40 {
		m := msg(fmt.Sprint("now ", i))
		if i%8 > 3 {
			m = delayed(fmt.Sprint("later ", i), time.Hour)
		}
		sent = append(sent, m)
	}
	var purposes []batch.Purpose
	b.setScript(func(_ int, h batch.Header) *protocol.Error {
		purposes = append(purposes, h.Purpose)
		return nil
	})
	rs := make([]Receipt, len(sent))
	for i, m := range sent {
		p.SendAsync(t.Context(), m, func(r Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
			rs[i] = r
		})
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	places := map[string]bool{}
	for i, r := range rs {
		held := sent[i].Delay > 0
		if held != (r.RecallHandle != "") || held != (r.Offset == -1) {
			t.Errorf("message %d: %+v", i, r)
		}
		h, err := client.ParseHandle(r.RecallHandle)
		if held && (err != nil || h.ID != r.MessageID.String() || h.Broker != "a" || h.Topic != "t" || places[r.RecallHandle]) {
			t.Errorf("message %d: handle %+v, %v", i, h, err)
		}
		places[r.RecallHandle] = true
	}
	for i, m := range b.in(0) {
		if string(m.Body) != string(sent[i].Body) {
			t.Fatalf("message %d is %s, want %s", i, m.Body, sent[i].Body)
		}
		if strings.HasPrefix(string(m.Body), "later") != (m.Delay > 0) {
			t.Errorf("%s has a delay of %v", m.Body, m.Delay)
		}
	}
	if n := len(slices.Compact(purposes)); n < 10 {
		t.Errorf("%d changes of purpose, want 10 at least: %v", n, purposes)
	}
}

func TestSendAsync_HasRecallHandles(t *testing.T) {
	s := startSite(t)
	s.broker("a", 1)
	p := newProducer(t, s, nil)
	got := make(chan Receipt, 1)
	p.SendAsync(t.Context(), delayed("x", time.Hour), func(r Receipt, err error) {
		if err != nil {
			t.Error(err)
		}
		got <- r
	})
	if r := <-got; r.Offset != -1 || r.RecallHandle == "" {
		t.Errorf("got %+v", r)
	}
}
