package consumer

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/message/compress"
	"github.com/rmqio/rmq/transport/protocol"
)

// storeAs appends messages in one batch, as they are.
func (b *fakeBroker) storeAs(queue int, ms ...*message.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	builder, ids := batch.NewBuilder("t", queue), message.NewIDSource()
	for _, m := range ms {
		m.Topic, m.ID, m.BornTime = "t", ids.Next(), time.Now()
		builder.Add(m)
	}
	raw := builder.Finish()
	batch.SetStored(raw, 1, b.end[queue], time.Now().UnixMilli(), 1)
	b.log[queue] = append(b.log[queue], raw)
	b.end[queue] += int64(len(ms))
	b.wakeLocked()
}

func compressed(t *testing.T, body []byte, how message.Compression) *message.Message {
	t.Helper()
	e, err := compress.NewEncoder(how)
	if err != nil {
		t.Fatal(err)
	}
	small, got := e.Compress(body)
	if got != how {
		t.Fatalf("%v is not compressed by %v", body[:10], how)
	}
	return &message.Message{Body: small, Compression: how, OriginalBytes: len(body)}
}

// bomb says that it is small.
func bomb(t *testing.T) *message.Message {
	m := compressed(t, make([]byte, message.MaxBodyBytes), message.Zstd)
	m.OriginalBytes = 1000
	return m
}

func text(n int) []byte { return []byte(strings.Repeat("order ", n)) }

func TestPushDecompresses(t *testing.T) {
	b := startFake(t, 1)
	for i, how := range []message.Compression{message.Zlib, message.LZ4, message.Zstd} {
		b.storeAs(0, compressed(t, text(1000+i), how), &message.Message{Body: []byte("plain")})
	}
	cfg, _ := groupConfig(b, t)
	cfg.Ordered = true
	seen := make(chan *Delivery, 10)
	failed := false
	run(t, cfg, func(_ context.Context, d *Delivery) error {
		if !failed { // the first one comes again
			failed = true
			d.Body[0] = 'X' // which is the program's copy
			return errors.New("not yet")
		}
		seen <- d
		return nil
	})
	for i := range 6 {
		d := receive(t, "a message", seen)
		want := text(1000 + i/2)
		if i%2 == 1 {
			want = []byte("plain")
		}
		if !bytes.Equal(d.Body, want) || d.Compression != message.None || d.QueueOffset != int64(i) {
			t.Errorf("message %d: got %.10q of %d bytes, %v, want %d bytes", d.QueueOffset, d.Body, len(d.Body), d.Compression, len(want))
		}
		if i == 0 && d.Attempt != 2 {
			t.Errorf("got attempt %d of the first message, want 2", d.Attempt)
		}
	}
}

// What waits takes what it took on the wire, also after a failed attempt.
func TestPushKeepsCompressedWhatWaits(t *testing.T) {
	e := &engine{buffer: newBuffer(t.Context(), orderFree, bounds{count: 10, bytes: 1000})}
	it := &item{Delivery: Delivery{Stored: message.Stored{Message: *compressed(t, make([]byte, 1<<20), message.Zstd)}}}
	size := len(it.Body)
	if d := e.open(it); len(d.Body) != 1<<20 || d == &it.Delivery {
		t.Errorf("got %d bytes, want 1 MiB in a copy", len(d.Body))
	}
	if len(it.Body) != size || it.Compression != message.Zstd {
		t.Errorf("the item has %d bytes of %v now, want %d as they came", len(it.Body), it.Compression, size)
	}
	plain := &item{Delivery: Delivery{Stored: message.Stored{Message: message.Message{Body: []byte("x")}}}}
	if d := e.open(plain); d != &plain.Delivery {
		t.Error("a message that is not compressed is copied")
	}
}

func TestPushHandsOutWhatItCannotDecompress(t *testing.T) {
	b := startFake(t, 1)
	sealed := bomb(t)
	want := bytes.Clone(sealed.Body)
	b.storeAs(0, sealed, &message.Message{Body: []byte("after")})
	cfg, l := groupConfig(b, t)
	cfg.Ordered = true
	faults := make(chan error, 10)
	cfg.OnError = func(err error) { faults <- err }
	seen := make(chan *Delivery, 10)
	run(t, cfg, func(_ context.Context, d *Delivery) error {
		seen <- d
		if d.Attempt == 1 && d.Compression != message.None {
			return errors.New("what is this")
		}
		return nil
	})
	for range 2 {
		if d := receive(t, "the message", seen); !bytes.Equal(d.Body, want) || d.Compression != message.Zstd || d.OriginalBytes != 1000 {
			t.Errorf("got %d bytes of %v, %d declared; want the message as it came", len(d.Body), d.Compression, d.OriginalBytes)
		}
	}
	if d := receive(t, "the one behind", seen); string(d.Body) != "after" {
		t.Errorf("got %q, want after", d.Body)
	}
	err := receive(t, "the report", faults)
	var e *Error
	if !errors.Is(err, ErrCompressed) || !errors.Is(err, compress.ErrSize) || !errors.Is(err, protocol.Damaged) ||
		!errors.As(err, &e) || e.Topic != "t" || e.Broker != fakeName {
		t.Errorf("got %v, want ErrCompressed, ErrSize and Damaged with topic and broker", err)
	}
	if len(faults) != 0 || strings.Count(l.String(), "cannot be decompressed, ") != 1 {
		t.Errorf("got %d more reports of one message", len(faults))
	}
}

func TestPullDecompresses(t *testing.T) {
	b := startFake(t, 1)
	b.storeAs(0, compressed(t, text(2000), message.LZ4), bomb(t), &message.Message{Body: []byte("after")})
	p, err := NewPull(t.Context(), PullConfig{NameServers: []string{b.addr}, Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	var got []string
	faults := 0
	for d, err := range p.Messages(t.Context()) {
		if err != nil {
			if !errors.Is(err, ErrCompressed) {
				t.Fatal(err)
			}
			faults++
			continue
		}
		got = append(got, d.Compression.String())
		if d.QueueOffset == 0 && !bytes.Equal(d.Body, text(2000)) {
			t.Errorf("got %d bytes, want %d", len(d.Body), len(text(2000)))
		}
		if d.QueueOffset == 2 {
			break
		}
	}
	if strings.Join(got, " ") != "none zstd none" || faults != 1 {
		t.Errorf("got messages of %v and %d reports, want none zstd none and 1", got, faults)
	}
}
