package batch

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"math"
	"reflect"
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

// buildLead is build for a batch that is not plain.
func buildLead(l Lead, ms ...message.Message) []byte {
	b := NewBuilder("of-the-batch-before", 99)
	b.Begin(&l)
	for i := range ms {
		b.Add(&ms[i])
	}
	return b.Finish()
}

func equal(a, b message.Message) bool {
	return a.Topic == b.Topic && a.Tag == b.Tag && slices.Equal(a.Keys, b.Keys) && a.Group == b.Group &&
		maps.Equal(a.Properties, b.Properties) && bytes.Equal(a.Body, b.Body) && a.ID == b.ID && a.BornTime.Equal(b.BornTime) &&
		equalExtras(a, b)
}

func equalExtras(a, b message.Message) bool {
	return a.Priority == b.Priority && a.DeliverAt.Equal(b.DeliverAt) && a.Delay == b.Delay && a.DelayLevel == b.DelayLevel &&
		a.CheckImmunity == b.CheckImmunity && a.DedupKey == b.DedupKey && a.Compression == b.Compression &&
		a.OriginalBytes == b.OriginalBytes && a.CorrelationID == b.CorrelationID && a.ReplyTo == b.ReplyTo && a.ReplyBy.Equal(b.ReplyBy) &&
		a.ReconsumeTimes == b.ReconsumeTimes && reflect.DeepEqual(a.Origin, b.Origin)
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

// special is messages that have every extra, and the lead of the batch that they
// are held back with.
func special() (Lead, []message.Message) {
	born := time.UnixMilli(1_700_000_000_123)
	lead := Lead{Topic: "orders", Queue: 3, Purpose: ToTimer,
		Sequence: Sequence{Producer: 0x1122334455667788, Incarnation: 0x99, First: 41, Begin: true}}
	return lead, []message.Message{
		{Topic: "orders", Body: []byte("packed"), ID: message.MakeID(1, 7), BornTime: born,
			Priority: 9, DeliverAt: time.UnixMilli(1_700_003_600_000), Compression: message.Zstd, OriginalBytes: 5000,
			DedupKey: "order-42", CheckImmunity: time.Minute, CorrelationID: "c-1", ReplyTo: "host@1#a", ReplyBy: born.Add(3 * time.Second)},
		{Topic: "orders", Body: []byte{}, ID: message.MakeID(1, 8), BornTime: born, Delay: 1500 * time.Millisecond},
		{Topic: "orders", Tag: "paid", Body: []byte("x"), ID: message.MakeID(1, 9), BornTime: born, DelayLevel: 3},
	}
}

// released is two messages that were held back, and the lead of the batch that
// shows them.
func released() (Lead, []message.Message) {
	_, ms := special()
	ms[0].CheckImmunity = 0
	ms[1].Delay, ms[1].DeliverAt = 0, time.UnixMilli(1_700_000_001_700)
	return Lead{Topic: "orders", Queue: 3, Release: Release{Origin: 0x0102, Positions: []int{0, 300}}}, ms[:2]
}

// returned is a message that a consumer has failed twice, as it waits for its third
// delivery, and one that was sent again from the dead letters.
func returned() (Lead, []message.Message) {
	born := time.UnixMilli(1_700_000_000_123)
	return Lead{Topic: "%RETRY%billing", Purpose: ToTimer}, []message.Message{
		{Topic: "%RETRY%billing", Body: []byte("pay"), ID: message.MakeID(1, 7), BornTime: born, ReconsumeTimes: 2,
			Origin: &message.Origin{Topic: "orders", Queue: 3, Offset: 300, LastError: "no funds", Mark: 9}},
		{Topic: "%RETRY%billing", Body: []byte{}, ID: message.MakeID(1, 8), BornTime: born, Origin: &message.Origin{Topic: "%DLQ%billing"}},
	}
}

// goodBatches are batches of every shape.
func goodBatches() map[string][]byte {
	timed, held := special()
	release, shown := released()
	back, failed := returned()
	return map[string][]byte{
		"returned": buildLead(back, failed...),
		"plain":    build("orders", 3, sample()...),
		"timed":    buildLead(timed, held...),
		"half":     buildLead(Lead{Topic: "orders", Purpose: ToTransaction}, sample()...),
		"released": buildLead(release, shown...),
	}
}

// drawExtras sets fields of m that few messages have, so that it passes Validate.
func drawExtras(t *rapid.T, m *message.Message) {
	millis := func(low, high int64, label string) int64 { return rapid.Int64Range(low, high).Draw(t, label) }
	longest := message.MaxDelay.Milliseconds()
	if m.Group == "" {
		m.Priority = rapid.IntRange(0, message.MaxPriority).Draw(t, "priority")
		switch rapid.IntRange(0, 3).Draw(t, "delayed by") {
		case 1:
			m.DeliverAt = time.UnixMilli(millis(0, message.MaxTimeMillis, "deliver at"))
		case 2:
			m.Delay = time.Duration(millis(1, longest, "delay")) * time.Millisecond
		case 3:
			m.DelayLevel = rapid.IntRange(1, math.MaxInt).Draw(t, "level")
		}
	}
	m.DedupKey = rapid.StringN(0, 20, message.MaxDedupKeyBytes).Draw(t, "dedup key")
	m.CheckImmunity = time.Duration(millis(0, longest, "immunity")) * time.Millisecond
	if m.Compression = message.Compression(rapid.IntRange(0, 3).Draw(t, "compression")); m.Compression != message.None {
		m.OriginalBytes = rapid.IntRange(0, message.MaxBodyBytes).Draw(t, "original")
	}
	m.CorrelationID, m.ReplyTo = rapid.StringN(0, 20, 300).Draw(t, "correlation"), rapid.StringN(0, 20, 300).Draw(t, "reply to")
	if m.ReplyTo != "" {
		m.ReplyBy = time.UnixMilli(millis(0, message.MaxTimeMillis, "reply by"))
	}
	m.ReconsumeTimes = rapid.IntRange(0, message.MaxReconsumeTimes).Draw(t, "times")
	if rapid.Bool().Draw(t, "copied") {
		m.Origin = &message.Origin{
			Topic: rapid.StringN(1, 20, message.MaxReservedTopicBytes).Draw(t, "origin"), Queue: rapid.IntRange(0, math.MaxInt32).Draw(t, "queue"),
			Offset: rapid.Int64Min(0).Draw(t, "offset"), LastError: rapid.StringN(0, 20, message.MaxErrorBytes).Draw(t, "error"),
			Mark: rapid.Uint64Range(0, math.MaxInt64).Draw(t, "mark"),
		}
	}
}

// drawMessages makes messages that pass Validate, of one topic.
func drawMessages(topic string) *rapid.Generator[[]message.Message] {
	key := rapid.StringMatching(`[^ ]{1,20}`)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) message.Message {
		m := message.Message{
			Topic:      topic,
			Tag:        rapid.StringN(0, 10, 40).Draw(t, "tag"),
			Keys:       rapid.SliceOfN(key, 0, 4).Draw(t, "keys"),
			Group:      rapid.StringN(0, 10, 200).Draw(t, "group"),
			Properties: rapid.MapOfN(rapid.StringN(1, 10, 40), rapid.StringN(0, 200, 400), 0, 4).Draw(t, "properties"),
			Body:       rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body"),
			ID:         message.MakeID(rapid.Uint64Range(0, 2).Draw(t, "instance"), rapid.Uint64().Draw(t, "counter")),
			BornTime:   time.UnixMilli(rapid.Int64().Draw(t, "born")),
		}
		if rapid.Bool().Draw(t, "special") {
			drawExtras(t, &m)
		}
		return m
	}), 1, 20)
}

// drawLead makes the lead of a batch of count messages.
func drawLead(t *rapid.T, topic string, queue, count int) Lead {
	l := Lead{Topic: topic, Queue: queue, Purpose: rapid.SampledFrom([]Purpose{ToQueue, ToTimer, ToTransaction}).Draw(t, "purpose")}
	if rapid.Bool().Draw(t, "has a sequence") {
		id := rapid.Uint64Min(1)
		l.Sequence = Sequence{Producer: id.Draw(t, "producer"), Incarnation: id.Draw(t, "incarnation"),
			First: rapid.Uint64Range(0, math.MaxUint64-uint64(count)).Draw(t, "first"),
			Begin: rapid.Bool().Draw(t, "begin"), Again: rapid.Bool().Draw(t, "again")}
	}
	if l.Purpose == ToQueue && rapid.Bool().Draw(t, "is a release") {
		positions := rapid.SliceOfNDistinct(rapid.IntRange(0, MaxCount-1), count, count, rapid.ID[int]).Draw(t, "positions")
		slices.Sort(positions)
		l.Release = Release{Origin: rapid.Uint64Min(1).Draw(t, "origin"), Positions: positions}
	}
	return l
}

func TestBatch_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		topic := rapid.StringMatching(`[%|a-zA-Z0-9_-]{1,255}`).Draw(t, "topic")
		queue := rapid.IntRange(0, 1<<31-1).Draw(t, "queue")
		ms := drawMessages(topic).Draw(t, "messages")
		tail := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "tail")
		offset, store := rapid.Int64Range(0, 1<<62).Draw(t, "offset"), rapid.Int64().Draw(t, "store")

		lead := drawLead(t, topic, queue, len(ms))
		b := buildLead(lead, ms...)
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
		if got := (Lead{h.Topic, h.Queue, h.Purpose, h.Sequence, h.Release}); !reflect.DeepEqual(got, lead) {
			t.Fatalf("got lead %+v, want %+v", got, lead)
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
