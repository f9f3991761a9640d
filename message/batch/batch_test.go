package batch

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"pgregory.net/rapid"
)

// build encodes messages as one batch.
func build(topic string, queue int, ms ...message.Message) []byte {
	b := NewBuilder(topic, queue)
	for i := range ms {
		b.Add(&ms[i])
	}
	return b.Finish()
}

func equal(a, b message.Message) bool {
	return a.Topic == b.Topic && a.Tag == b.Tag && slices.Equal(a.Keys, b.Keys) && a.Group == b.Group &&
		maps.Equal(a.Properties, b.Properties) && bytes.Equal(a.Body, b.Body) && a.ID == b.ID && a.BornTime.Equal(b.BornTime)
}

// sample is three messages that use every field and every flag.
func sample() []message.Message {
	born := time.UnixMilli(1_700_000_000_123)
	return []message.Message{
		{Topic: "orders", Tag: "paid", Keys: []string{"42", "k-2"}, Group: "customer/7", Properties: map[string]string{"line": "1"},
			Body: []byte("hello"), ID: message.MakeID(0x1122334455667788, 1000), BornTime: born},
		{Topic: "orders", Body: []byte{}, ID: message.MakeID(0x1122334455667788, 1001), BornTime: born.Add(3 * time.Millisecond)},
		{Topic: "orders", Tag: "open", Body: []byte{0, 0xff, 'x'}, ID: message.MakeID(0x99, 5), BornTime: born.Add(-time.Second)},
	}
}

// drawMessages makes messages that pass Validate, of one topic.
func drawMessages(topic string) *rapid.Generator[[]message.Message] {
	key := rapid.StringMatching(`[^ ]{1,20}`)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) message.Message {
		return message.Message{
			Topic:      topic,
			Tag:        rapid.StringN(0, 10, 40).Draw(t, "tag"),
			Keys:       rapid.SliceOfN(key, 0, 4).Draw(t, "keys"),
			Group:      rapid.StringN(0, 10, 200).Draw(t, "group"),
			Properties: rapid.MapOfN(rapid.StringN(1, 10, 40), rapid.StringN(0, 200, 400), 0, 4).Draw(t, "properties"),
			Body:       rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body"),
			ID:         message.MakeID(rapid.Uint64Range(0, 2).Draw(t, "instance"), rapid.Uint64().Draw(t, "counter")),
			BornTime:   time.UnixMilli(rapid.Int64().Draw(t, "born")),
		}
	}), 1, 20)
}

func TestBatch_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		topic := rapid.StringMatching(`[%|a-zA-Z0-9_-]{1,255}`).Draw(t, "topic")
		queue := rapid.IntRange(0, 1<<31-1).Draw(t, "queue")
		ms := drawMessages(topic).Draw(t, "messages")
		tail := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "tail")
		offset, store := rapid.Int64Range(0, 1<<62).Draw(t, "offset"), rapid.Int64().Draw(t, "store")

		b := build(topic, queue, ms...)
		SetStored(b, 7, offset, store, 3)
		b = append(b, tail...)
		got, rest, err := Decode(nil, b, "broker-a")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rest, tail) || len(got) != len(ms) {
			t.Fatalf("got %d messages and a rest of %d bytes, want %d and %d", len(got), len(rest), len(ms), len(tail))
		}
		for i, m := range got {
			if !equal(m.Message, ms[i]) {
				t.Fatalf("message %d: got %+v, want %+v", i, m.Message, ms[i])
			}
			want := message.Queue{Topic: topic, Broker: "broker-a", ID: queue}
			if m.Queue != want || m.QueueOffset != offset+int64(i) || m.StoreTime.UnixMilli() != store {
				t.Fatalf("message %d: got %v at %d, stored %v", i, m.Queue, m.QueueOffset, m.StoreTime)
			}
		}
		h, err := Check(b)
		if err != nil {
			t.Fatalf("a batch of valid messages: %v", err)
		}
		if h.Count != len(ms) || h.Queue != queue || h.Topic != topic || h.FirstID != ms[0].ID ||
			h.BornMillis != ms[0].BornTime.UnixMilli() || h.NextOffset() != offset+int64(len(ms)) || h.Length != len(b)-len(tail) {
			t.Fatalf("got header %+v", h)
		}
	})
}

func TestDecode_AppendsBatchAfterBatch(t *testing.T) {
	ms := sample()
	b := append(build("orders", 1, ms[0]), build("orders", 2, ms[1:]...)...)
	var got []message.Stored
	var err error
	for rest := b; len(rest) > 0; {
		if got, rest, err = Decode(got, rest, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 3 || got[0].Queue.ID != 1 || got[2].Queue.ID != 2 {
		t.Fatalf("got %+v", got)
	}
	if &got[0].Body[0] != &b[bytes.Index(b, []byte("hello"))] {
		t.Error("a body is copied, want it to share the batch's memory")
	}
}

func TestDecode_FailureLeavesWhatWasThere(t *testing.T) {
	before := []message.Stored{{QueueOffset: 1}}
	b := build("orders", 1, sample()...)
	binary.LittleEndian.PutUint32(b[44:], 4) // one message more than there is
	seal(b)
	got, rest, err := Decode(before, b, "a")
	if err == nil || rest != nil || len(got) != 1 || got[0].QueueOffset != 1 {
		t.Fatalf("got %d messages, rest %d, %v", len(got), len(rest), err)
	}
}

func TestBuilder_CountsAndKeepsNothingOfTheMessage(t *testing.T) {
	b := NewBuilder("orders", 3)
	if b.Count() != 0 || b.Len() != fixedBytes+len("orders") || b.Finish() != nil {
		t.Fatalf("empty: got count %d, length %d", b.Count(), b.Len())
	}
	m := sample()[0]
	b.Add(&m)
	m.Body[0] = 'X'
	if b.Count() != 1 {
		t.Fatalf("got count %d, want 1", b.Count())
	}
	n := b.Len()
	got := b.Finish()
	if len(got) != n || !bytes.Contains(got, []byte("hello")) {
		t.Fatalf("got %d bytes, want %d with the body as it was", len(got), n)
	}
}

func TestSetStored_LeavesTheProducersPart(t *testing.T) {
	a, b := build("orders", 1, sample()...), build("orders", 1, sample()...)
	SetStored(b, 1<<63|1, 1<<40, -5, 9)
	if !bytes.Equal(a[:8], b[:8]) || !bytes.Equal(a[crcAt:], b[crcAt:]) {
		t.Fatal("SetStored wrote outside bytes 8 to 36")
	}
	h, err := Check(b)
	if err != nil {
		t.Fatal(err)
	}
	if h.LogIndex != 1<<63|1 || h.BaseOffset != 1<<40 || h.StoreMillis != -5 || h.Epoch != 9 {
		t.Fatalf("got %+v", h)
	}
}

func TestTagHash(t *testing.T) {
	ms := sample()
	tests := []struct {
		name string
		in   []message.Message
		want uint32
	}{
		{"one tag", ms[:1], TagHash("paid")},
		{"no tag", ms[1:2], TagHash("")},
		{"several", ms, 0},
		{"a tag and none", ms[:2], 0},
	}
	for _, tt := range tests {
		if h, err := ParseHeader(build("orders", 0, tt.in...)); err != nil || h.TagHash != tt.want {
			t.Errorf("%s: got %#x, %v, want %#x", tt.name, h.TagHash, err, tt.want)
		}
	}
	if got := TagHash("\xcc\x24\x31\xc4"); got != 1 { // its FNV-1a is 0
		t.Errorf("a hash of 0: got %#x, want 1", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		tag := rapid.String().Draw(t, "tag")
		h := fnv.New32a()
		h.Write([]byte(tag))
		if got := TagHash(tag); got != max(h.Sum32(), 1) {
			t.Fatalf("got %#x, want FNV-1a %#x", got, h.Sum32())
		}
	})
}

// The design asks for at most 40 bytes of overhead a message.
func TestBatch_OverheadOfAMessage(t *testing.T) {
	b := NewBuilder("orders", 1)
	source, n := message.NewIDSource(), 1000
	body := strings.Repeat("x", 100)
	for i := range n {
		b.Add(&message.Message{Body: []byte(body), Tag: "paid", Keys: []string{"order-4711"}, ID: source.Next(), BornTime: time.UnixMilli(int64(i))})
	}
	if got := (len(b.Finish()) - n*len(body)) / n; got > 40 {
		t.Errorf("got %d bytes a message, want at most 40", got)
	}
}
