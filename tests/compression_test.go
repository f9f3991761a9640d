package tests

import (
	"bytes"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

// Bodies are compressed by one side and undone by the other; the broker in
// between stores the small ones.
func TestCompression_EndToEnd(t *testing.T) {
	c := harness.Start(t)
	body := bytes.Repeat([]byte("order paid "), 10_000)
	var sent []producer.Receipt
	for _, how := range []message.Compression{message.Zlib, message.LZ4, message.Zstd} {
		p, err := producer.New(t.Context(), producer.Config{NameServers: c.NameServers, Compression: how})
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Send(t.Context(), &message.Message{Topic: "t", Keys: []string{"k"}, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, r)
	}
	pull, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: c.NameServers, Subscriptions: []consumer.Subscription{{Topic: "t"}}, From: consumer.Earliest(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pull.Close(t.Context())
	read := 0
	for d, err := range pull.MessagesToEnd(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.Body, body) || d.Compression != message.None {
			t.Errorf("a consumer gets %d bytes of %v", len(d.Body), d.Compression)
		}
		read++
	}
	if read != len(sent) {
		t.Errorf("a consumer gets %d messages, want %d", read, len(sent))
	}
	a, err := admin.New(t.Context(), admin.Config{NameServers: c.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, r := range sent {
		m, err := a.MessageAt(t.Context(), r.Queue, r.Offset)
		if err != nil || !bytes.Equal(m.Body, body) {
			t.Errorf("an operator gets %d bytes, %v", len(m.Body), err)
		}
	}
}
