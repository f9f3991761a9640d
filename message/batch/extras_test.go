package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"pgregory.net/rapid"
)

// number is an extra with a number.
func number(kind byte, v int64) []byte { return text(kind, string(binary.AppendVarint(nil, v))) }

// text is an extra with these bytes.
func text(kind byte, v string) []byte { return appendString([]byte{kind}, v) }

// packed is the extra of a compression.
func packed(c byte, bytes uint64) []byte {
	return text(extraCompression, string(binary.AppendUvarint([]byte{c}, bytes)))
}

// withExtras is a head that has nothing but these.
func withExtras(extras ...[]byte) []byte {
	return append([]byte{hasExtras, 0, 0, byte(len(extras))}, bytes.Join(extras, nil)...)
}

// inGroup is a head with a message group and these.
func inGroup(extras ...[]byte) []byte {
	return append([]byte{hasExtras | hasGroup, 0, 0, 1, 'g', byte(len(extras))}, bytes.Join(extras, nil)...)
}

func TestExtras_AreRefused(t *testing.T) {
	year := message.MaxDelay.Milliseconds()
	tests := []struct {
		name string
		head []byte
		want error
	}{
		{"no extra", withExtras(), nil},
		{"priority", withExtras(number(extraPriority, 9)), nil},
		{"priority of nothing", withExtras(number(extraPriority, 0)), message.ErrIllegalMessage},
		{"priority too high", withExtras(number(extraPriority, 10)), message.ErrIllegalMessage},
		{"priority too low", withExtras(number(extraPriority, -1)), message.ErrIllegalMessage},
		{"first time", withExtras(number(extraDeliverAt, 0)), nil},
		{"time before 1970", withExtras(number(extraDeliverAt, -1)), message.ErrIllegalMessage},
		{"time that reads as none", withExtras(number(extraDeliverAt, time.Time{}.UnixMilli())), message.ErrIllegalMessage},
		{"last time", withExtras(number(extraDeliverAt, message.MaxTimeMillis)), nil},
		{"time too late", withExtras(number(extraDeliverAt, message.MaxTimeMillis+1)), message.ErrIllegalMessage},
		{"longest delay", withExtras(number(extraDelay, year)), nil},
		{"delay too long", withExtras(number(extraDelay, year+1)), message.ErrIllegalMessage},
		{"delay that overflows", withExtras(number(extraDelay, math.MaxInt64)), message.ErrIllegalMessage},
		{"no delay", withExtras(number(extraDelay, 0)), message.ErrIllegalMessage},
		{"delay level", withExtras(number(extraDelayLevel, 1)), nil},
		{"delay level 0", withExtras(number(extraDelayLevel, 0)), message.ErrIllegalMessage},
		{"compression", withExtras(packed(3, message.MaxBodyBytes)), nil},
		{"compression none", withExtras(packed(0, 1)), ErrCorrupt},
		{"unknown compression", withExtras(packed(4, 1)), message.ErrIllegalMessage},
		{"body too large before", withExtras(packed(3, message.MaxBodyBytes+1)), message.ErrIllegalMessage},
		{"body far too large before", withExtras(packed(3, math.MaxUint64)), message.ErrIllegalMessage},
		{"compression without a size", withExtras(text(extraCompression, "\x03")), ErrCorrupt},
		{"compression of nothing", withExtras(text(extraCompression, "")), ErrCorrupt},
		{"longest immunity", withExtras(number(extraImmunity, year)), nil},
		{"immunity too long", withExtras(number(extraImmunity, year+1)), message.ErrIllegalMessage},
		{"no immunity", withExtras(number(extraImmunity, 0)), message.ErrIllegalMessage},
		{"empty deduplication key", withExtras(text(extraDedupKey, "")), message.ErrIllegalMessage},
		{"deduplication key too long", withExtras(text(extraDedupKey, strings.Repeat("k", 256))), message.ErrIllegalMessage},
		{"empty correlation id", withExtras(text(extraCorrelation, "")), message.ErrIllegalMessage},
		{"empty reply address", withExtras(text(extraReplyTo, "")), message.ErrIllegalMessage},
		{"texts at the limit", withExtras(text(extraCorrelation, strings.Repeat("c", 30_000)), text(extraReplyTo, strings.Repeat("r", 2767))), nil},
		{"texts too large", withExtras(text(extraCorrelation, strings.Repeat("c", 30_000)), text(extraReplyTo, strings.Repeat("r", 2768))), ErrTooLarge},
		{"reply too late", withExtras(number(extraReplyBy, message.MaxTimeMillis+1)), message.ErrIllegalMessage},
		{"reply before 1970", withExtras(number(extraReplyBy, -1)), message.ErrIllegalMessage},

		{"failed never", withExtras(number(extraTimes, 0)), message.ErrIllegalMessage},
		{"failed too often", withExtras(number(extraTimes, message.MaxReconsumeTimes+1)), message.ErrIllegalMessage},
		{"mark below 0", withExtras(number(extraMark, -1)), message.ErrIllegalMessage},
		{"copy of no topic", withExtras(text(extraTopic, "")), message.ErrIllegalMessage},
		{"topic of the copied too long", withExtras(text(extraTopic, strings.Repeat("t", 256))), message.ErrIllegalMessage},
		{"queue of the copied below 0", withExtras(number(extraQueue, -1)), message.ErrIllegalMessage},
		{"queue of the copied too high", withExtras(number(extraQueue, math.MaxInt32+1)), message.ErrIllegalMessage},
		{"offset of the copied below 0", withExtras(number(extraOffset, -1)), message.ErrIllegalMessage},
		{"empty error", withExtras(text(extraError, "")), message.ErrIllegalMessage},
		{"error too long", withExtras(text(extraError, strings.Repeat("e", message.MaxErrorBytes+1))), message.ErrIllegalMessage},

		{"extra 0", withExtras(number(0, 1)), ErrCorrupt},
		{"unknown extra", withExtras(number(extraMark+1, 1)), ErrVersion},
		{"last unknown extra", withExtras(number(255, 1)), ErrVersion},
		{"unknown extra behind a known one", withExtras(number(extraReplyBy, 1), number(200, 1)), ErrVersion},
		{"out of order", withExtras(number(extraDelay, 1), number(extraPriority, 1)), ErrCorrupt},
		{"twice", withExtras(number(extraPriority, 1), number(extraPriority, 1)), ErrCorrupt},
		{"value with a byte more", withExtras(text(extraPriority, "\x02\x00")), ErrCorrupt},
		{"number without a byte", withExtras(text(extraPriority, "")), ErrCorrupt},
		{"number that never ends", withExtras(text(extraPriority, strings.Repeat("\xff", 11))), ErrCorrupt},
		{"value cut", withExtras([]byte{extraPriority, 2, 2}), ErrCorrupt},
		{"length cut", withExtras([]byte{extraPriority}), ErrCorrupt},
		{"extra missing", append([]byte{hasExtras, 0, 0, 2}, number(extraPriority, 1)...), ErrCorrupt},
		{"count missing", []byte{hasExtras, 0, 0}, ErrCorrupt},
		{"byte behind", append(withExtras(number(extraPriority, 1)), 0), ErrCorrupt},

		{"time and delay", withExtras(number(extraDeliverAt, 1), number(extraDelay, 1)), message.ErrIllegalMessage},
		{"time and level", withExtras(number(extraDeliverAt, 1), number(extraDelayLevel, 1)), message.ErrIllegalMessage},
		{"delay and level", withExtras(number(extraDelay, 1), number(extraDelayLevel, 1)), message.ErrIllegalMessage},
		{"group and time", inGroup(number(extraDeliverAt, 1)), message.ErrIllegalMessage},
		{"group and delay", inGroup(number(extraDelay, 1)), message.ErrIllegalMessage},
		{"group and level", inGroup(number(extraDelayLevel, 1)), message.ErrIllegalMessage},
		{"group and priority", inGroup(number(extraPriority, 1)), message.ErrIllegalMessage},
		{"group and immunity", inGroup(number(extraImmunity, 1)), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := forge(1, raw("", tt.head...))
			_, err := Check(b)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("Check: got %v, want %v", err, tt.want)
			}
			_, _, decodeErr := Decode(nil, b, "a")
			eachErr := EachExtra(b, func(int, *message.Message) {})
			if err == nil && (decodeErr != nil || eachErr != nil) {
				t.Errorf("Check accepts it; Decode: %v; EachExtra: %v", decodeErr, eachErr)
			}
			if (tt.want == ErrCorrupt || tt.want == ErrVersion) && (!errors.Is(decodeErr, tt.want) || !errors.Is(eachErr, tt.want)) {
				t.Errorf("Decode: got %v; EachExtra: %v; want %v", decodeErr, eachErr, tt.want)
			}
		})
	}
}

// setAny sets one field of m to a value at or beyond one of its limits, or to none.
func setAny(t *rapid.T, m *message.Message) {
	word := rapid.Map(rapid.SampledFrom([]int{0, 1, 40, 254, 255, 256, 32_000, message.MaxPropertiesBytes - 1, message.MaxPropertiesBytes}),
		func(n int) string { return strings.Repeat("x", n) })
	delay := rapid.SampledFrom([]time.Duration{math.MinInt64, -time.Millisecond, -1, 0, 1, 1500 * time.Microsecond,
		message.MaxDelay - 1, message.MaxDelay, message.MaxDelay + 1, math.MaxInt64 / 2})
	at := rapid.SampledFrom([]time.Time{{}, time.Time{}.Add(1), time.UnixMilli(-1), time.UnixMilli(0).Add(-1), time.UnixMilli(1),
		time.UnixMilli(message.MaxTimeMillis), time.UnixMilli(message.MaxTimeMillis).Add(1), time.Unix(math.MaxInt64/2, 0), time.Unix(math.MinInt64/2, 0)})
	few := rapid.SampledFrom([]int{0, 1, 9, 10, -1, math.MaxInt, math.MinInt})
	size := rapid.SampledFrom([]int{0, 1, message.MaxBodyBytes, message.MaxBodyBytes + 1, -1, math.MaxInt, math.MinInt})
	switch field := rapid.IntRange(0, 14).Draw(t, "field"); field {
	case 0:
		m.Tag = word.Draw(t, "tag")
	case 1:
		m.Group = word.Draw(t, "group")
	case 2:
		m.DedupKey = word.Draw(t, "dedup key")
	case 3:
		m.CorrelationID = word.Draw(t, "correlation")
	case 4:
		m.ReplyTo = word.Draw(t, "reply to")
	case 5:
		m.Keys = append(m.Keys, rapid.SampledFrom([]string{"", "k", "a b", strings.Repeat("k", 32_000)}).Draw(t, "key"))
	case 6:
		m.Keys = slices.Repeat([]string{"k"}, rapid.IntRange(message.MaxKeys-1, message.MaxKeys+1).Draw(t, "keys"))
	case 7:
		name := rapid.SampledFrom([]string{"", "KEYS", "keys", "TAGS", "traceparent", "a b"}).Draw(t, "name")
		m.Properties = map[string]string{name: word.Draw(t, "value")}
	case 8:
		m.Priority = few.Draw(t, "priority")
	case 9:
		m.DelayLevel = few.Draw(t, "level")
	case 10:
		m.Delay = delay.Draw(t, "delay")
	case 11:
		m.CheckImmunity = delay.Draw(t, "immunity")
	case 12:
		m.DeliverAt = at.Draw(t, "deliver at")
	case 13:
		m.ReplyBy = at.Draw(t, "reply by")
	case 14:
		m.Compression, m.OriginalBytes = message.Compression(rapid.IntRange(0, 5).Draw(t, "compression")), size.Draw(t, "original")
	}
}

// The limits of a message are Validate's: the broker's check of its bytes may
// neither be stricter nor laxer.
func TestCheck_AcceptsWhatValidateAccepts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMessages("t").Draw(t, "legal")[0]
		for range rapid.IntRange(0, 3).Draw(t, "fields set") {
			setAny(t, &m)
		}
		_, err := Check(build("t", 0, message.Message{Body: []byte("first")}, m))
		if want := m.Validate(); (err == nil) != (want == nil) {
			t.Fatalf("Check: %v; Validate: %v", err, want)
		}
	})
}

// Rounded down, a message would be delivered before its time, or at once.
func TestExtras_AreWholeMillisecondsRoundedUp(t *testing.T) {
	base := time.UnixMilli(1_700_000_000_000)
	tests := []struct{ in, want message.Message }{
		{message.Message{DeliverAt: base}, message.Message{DeliverAt: base}},
		{message.Message{DeliverAt: base.Add(1)}, message.Message{DeliverAt: base.Add(time.Millisecond)}},
		{message.Message{DeliverAt: base.Add(-1)}, message.Message{DeliverAt: base}},
		{message.Message{DeliverAt: time.UnixMilli(-5)}, message.Message{DeliverAt: time.UnixMilli(0)}},
		{message.Message{DeliverAt: time.Unix(math.MinInt64/2, 0)}, message.Message{DeliverAt: time.UnixMilli(0)}},
		{message.Message{Delay: 1}, message.Message{Delay: time.Millisecond}},
		{message.Message{Delay: time.Second + 1}, message.Message{Delay: time.Second + time.Millisecond}},
		{message.Message{CheckImmunity: 1}, message.Message{CheckImmunity: time.Millisecond}},
		{message.Message{ReplyBy: base.Add(1)}, message.Message{ReplyBy: base.Add(time.Millisecond)}},
		{message.Message{OriginalBytes: 7}, message.Message{}},
	}
	for _, tt := range tests {
		if got, _, err := Decode(nil, build("t", 0, tt.in), "a"); err != nil || !equalExtras(got[0].Message, tt.want) {
			t.Errorf("%+v: got %+v, %v", tt.in, got, err)
		}
	}
}

func TestCheck_SaysWhatMessagesUse(t *testing.T) {
	at := time.UnixMilli(1)
	group, priority, dedup := message.Message{Group: "g"}, message.Message{Priority: 1}, message.Message{DedupKey: "d", Group: "g"}
	all := message.Message{Priority: 1, DeliverAt: at, DedupKey: "d"}
	tests := []struct {
		name     string
		in       []message.Message
		any, all Use
	}{
		{"nothing", []message.Message{{Tag: "t", Compression: message.LZ4, ReplyTo: "c", CheckImmunity: time.Second, ReplyBy: at}}, 0, 0},
		{"group", []message.Message{group, group}, UsesGroup, UsesGroup},
		{"group of one", []message.Message{{}, group}, UsesGroup, 0},
		{"group of the first", []message.Message{group, {}}, UsesGroup, 0},
		{"priority", []message.Message{priority}, UsesPriority, UsesPriority},
		{"time", []message.Message{{DeliverAt: at}}, UsesDelay, UsesDelay},
		{"each delay", []message.Message{{DeliverAt: at}, {Delay: 1}, {DelayLevel: 1}}, UsesDelay, UsesDelay},
		{"deduplication", []message.Message{dedup, group}, UsesDedupKey | UsesGroup, UsesGroup},
		{"origin", []message.Message{{Origin: &message.Origin{Topic: "t"}}, {ReconsumeTimes: 1}}, UsesOrigin, UsesOrigin},
		{"many", []message.Message{all, all, {Priority: 9}}, UsesPriority | UsesDelay | UsesDedupKey, UsesPriority},
	}
	for _, tt := range tests {
		h, err := Check(build("t", 0, tt.in...))
		if want := (Uses{tt.any, tt.all}); err != nil || h.Uses != want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, h.Uses, err, want)
		}
	}
	if h, err := Verify(build("t", 0, all)); err != nil || h.Uses != (Uses{}) {
		t.Errorf("Verify: got %+v, %v, want nothing", h.Uses, err)
	}
}

func TestCheck_TheFlagsTellOfCopies(t *testing.T) {
	for _, b := range [][]byte{
		forge(1, raw("", withExtras(number(extraTimes, 1))...)), forge(1, raw("", withExtras(text(extraTopic, "t"))...)),
		forge(1, raw("", withExtras(text(extraError, "e"))...)),
	} {
		if _, err := Check(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want %v", err, ErrCorrupt)
		}
	}
}

func TestEachExtra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := drawMessages("orders").Draw(t, "messages")
		next := 0
		err := EachExtra(buildLead(drawLead(t, "orders", 3, len(ms)), ms...), func(i int, m *message.Message) {
			if i != next || m.ID != ms[i].ID || !equalExtras(*m, ms[i]) {
				t.Fatalf("got message %d: %+v, want %d: %+v", i, m, next, ms[i])
			}
			if m.Topic != "" || m.Tag != "" || m.Keys != nil || m.Group != "" || m.Properties != nil || m.Body != nil {
				t.Fatalf("message %d has fields that are no extras: %+v", i, m)
			}
			next++
		})
		if err != nil || next != len(ms) {
			t.Fatalf("got %d of %d messages, %v", next, len(ms), err)
		}
	})
}

func TestEachExtra_StopsAtTheBadMessage(t *testing.T) {
	seen := 0
	visit := func(int, *message.Message) { seen++ }
	for name, bad := range map[string][]byte{
		"cut":    {3, 200, 1, 0, 0, 0},
		"longer": raw("", 0, 0, 0, 0),
		"extra":  raw("", withExtras(number(extraPriority, 10))...),
	} {
		seen = 0
		if err := EachExtra(forge(2, raw("", 0, 0, 0), bad), visit); err == nil || seen != 1 {
			t.Errorf("%s: got %d messages, %v, want 1 and an error", name, seen, err)
		}
	}
	if err := EachExtra([]byte("no batch"), visit); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no batch: got %v", err)
	}
}
