package producer

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/message/compress"
	"github.com/rmqio/rmq/transport/protocol"
)

// prose is a body of n bytes that gets smaller.
func prose(n int) []byte { return []byte(strings.Repeat("order paid ", n/11+1))[:n] }

// opened is the body of a message that a broker has.
func opened(t *testing.T, m message.Stored) []byte {
	t.Helper()
	var d compress.Decoder
	if err := d.Open(&m.Message); err != nil {
		t.Fatal(err)
	}
	return m.Body
}

func TestCompression(t *testing.T) {
	random := make([]byte, 8000)
	for i, x := 0, uint32(1); i < len(random); i++ {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	with := func(how message.Compression) func(*Config) { return func(c *Config) { c.Compression = how } }
	s := startSite(t)
	b := s.broker("a", 1)
	for _, tc := range []struct {
		name   string
		change func(*Config)
		body   []byte
		want   message.Compression
	}{
		{"from 4 KiB on", nil, prose(4096), message.Zstd},
		{"not below", nil, prose(4095), message.None},
		{"not when it gets no smaller", nil, random, message.None},
		{"zlib", with(message.Zlib), prose(4096), message.Zlib},
		{"lz4", with(message.LZ4), prose(4096), message.LZ4},
		{"from where it is told", func(c *Config) { c.CompressOver = 100 }, prose(100), message.Zstd},
		{"and not below that", func(c *Config) { c.CompressOver = 100 }, prose(99), message.None},
		{"not at all", func(c *Config) { c.NoCompression = true }, prose(1 << 20), message.None},
		{"the largest", nil, prose(message.MaxBodyBytes), message.Zstd},
	} {
		p := newProducer(t, s, tc.change)
		m := &message.Message{Topic: "t", Tag: "tag", Keys: []string{"k"}, Properties: map[string]string{"a": "b"}, Body: tc.body}
		before := len(b.in(0))
		r, err := p.Send(t.Context(), m)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		got := b.in(0)[before]
		if got.Compression != tc.want || tc.want == message.None != (got.OriginalBytes == 0) || got.ID != r.MessageID {
			t.Errorf("%s: got %v, %d declared; want %v", tc.name, got.Compression, got.OriginalBytes, tc.want)
		}
		if tc.want != message.None && len(got.Body) > len(tc.body)/2 {
			t.Errorf("%s: %d bytes became %d", tc.name, len(tc.body), len(got.Body))
		}
		if !bytes.Equal(opened(t, got), tc.body) || got.Tag != "tag" || got.Keys[0] != "k" || got.Properties["a"] != "b" {
			t.Errorf("%s: got %+v", tc.name, got.Message)
		}
		if m.Compression != message.None || len(m.Body) != len(tc.body) {
			t.Errorf("%s: the caller's message was changed", tc.name)
		}
	}
}

// What is under way has the size that it has under way.
func TestCompression_CountsCompressed(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, func(c *Config) { c.MaxBufferedBytes, c.OnFull = 1<<16, Fail })
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b.setScript(firstN(1, errSilence))
	for range 10 { // of which the budget has room for one half
		p.SendAsync(t.Context(), &message.Message{Topic: "t", Body: prose(100_000)}, func(_ Receipt, err error) {
			if errors.Is(err, ErrBufferFull) {
				t.Error("compressed bodies count as they were before")
			}
		})
	}
}

// A retry sends the same bytes; a batch that loses messages is encoded again from
// the compressed ones.
func TestCompression_SurvivesRetries(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 2)
	p := newProducer(t, s, nil)
	b.setScript(firstN(2, protocol.Errorf(protocol.SystemError, "scripted")))
	body := prose(20_000)
	rs, err := p.SendBatch(t.Context(), []*message.Message{{Topic: "t", Body: body}, msg("small"), {Topic: "t", Body: body}})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		m := b.in(r.Queue.ID)[r.Offset]
		if want := [][]byte{body, []byte("small"), body}[i]; !bytes.Equal(opened(t, m), want) {
			t.Errorf("message %d: got %d bytes, want %d", i, len(m.Body), len(want))
		}
	}
}

func TestCompression_PlainBodyCounts(t *testing.T) {
	s := startSite(t)
	s.broker("a", 1)
	p := newProducer(t, s, nil)
	if _, err := p.Send(t.Context(), &message.Message{Topic: "t", Body: prose(message.MaxBodyBytes + 1)}); !errors.Is(err, message.ErrBodyTooLarge) {
		t.Errorf("got %v, want %v", err, message.ErrBodyTooLarge)
	}
	for _, m := range []*message.Message{{Topic: "t", Compression: message.Zstd, OriginalBytes: 10 << 20}, {Topic: "t", OriginalBytes: 1}} {
		if _, err := p.Send(t.Context(), m); !errors.Is(err, ErrIllegalMessage) || !errors.Is(err, message.ErrIllegalMessage) {
			t.Errorf("a message that says it is compressed: got %v, want %v", err, ErrIllegalMessage)
		}
	}
	selected := 0
	if _, err := p.Send(t.Context(), &message.Message{Topic: "t", Body: prose(9000)}, WithSelector(func(_ []message.Queue, m *message.Message) int {
		selected = len(m.Body)
		return 0
	})); err != nil || selected != 9000 {
		t.Errorf("a selector sees %d bytes, want 9000; %v", selected, err)
	}
}

// A broker that asks for a half message shows its checker the plain body.
func TestCompression_CheckerSeesThePlainBody(t *testing.T) {
	s := startSite(t)
	s.broker("a", 1)
	seen := make(chan *message.Stored, 1)
	p := newProducer(t, s, func(c *Config) {
		c.TransactionTopics = []string{"t"}
		c.Checker = func(_ context.Context, m *message.Stored) Decision { seen <- m; return Unknown }
	})
	e := &entry{m: &message.Message{Topic: "t", ID: p.ids.Next(), Body: prose(9000)}}
	p.codec.shrink(e)
	if e.m.Compression != message.Zstd {
		t.Fatal("the body is not compressed")
	}
	builder := batch.NewBuilder("t", 0)
	builder.Add(e.m)
	p.checkNow(t.Context(), &protocol.CheckTransactionEvent{
		Broker: "a", Group: DefaultGroup, Held: protocol.Held{Topic: "t", ID: e.m.ID.String()}, Batch: builder.Finish(),
	})
	if m := <-seen; !bytes.Equal(m.Body, prose(9000)) || m.Compression != message.None {
		t.Errorf("got %d bytes of %v", len(m.Body), m.Compression)
	}
}
