package producer

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
)

// RocketMQ's rules for batches: one topic, no delay, no retry topic.
func TestSendBatch_Rules(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	for _, tc := range []struct {
		name string
		m    *message.Message
		part string
	}{
		{"another topic", &message.Message{Topic: "u"}, `message 1 of the batch has topic "u"`},
		{"delay", &message.Message{Topic: "t", Delay: time.Second}, "message 1 of the batch is delayed"},
		{"delay level", &message.Message{Topic: "t", DelayLevel: 3}, "message 1 of the batch is delayed"},
		{"time of delivery", &message.Message{Topic: "t", DeliverAt: time.Now()}, "message 1 of the batch is delayed"},
		{"retry topic", &message.Message{Topic: "%RETRY%g"}, "message 1 of 2"},
	} {
		_, err := p.SendBatch(t.Context(), []*message.Message{msg("x"), tc.m})
		var e *Error
		if !errors.Is(err, ErrInvalidArgument) || !errors.As(err, &e) || e.Retryable || !strings.Contains(err.Error(), tc.part) {
			t.Errorf("%s: got %v, want one that names the rule: %s", tc.name, err, tc.part)
		}
	}
	if n := len(b.bodies(-1)); n != 0 {
		t.Errorf("got %d messages at the broker, want none", n)
	}
}

// A batch larger than any frame is split, and each message has its own receipt.
func TestSendBatch_IsSplit(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 2)
	p := newProducer(t, s, func(c *Config) { c.NoCompression = true })
	var ms []*message.Message
	for i := range 12 {
		ms = append(ms, &message.Message{Topic: "t", Body: bytes.Repeat([]byte{byte(i)}, 1<<20)})
	}
	rs, err := p.SendBatch(t.Context(), ms)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		got := b.in(r.Queue.ID)[r.Offset]
		if r.Queue != rs[0].Queue || got.ID != r.MessageID || !bytes.Equal(got.Body, ms[i].Body) {
			t.Errorf("message %d: receipt %+v leads to %v of %d bytes", i, r, got.ID, len(got.Body))
		}
	}
	if b.batches() < 4 {
		t.Errorf("got %d batches for 12 MiB", b.batches())
	}
}
