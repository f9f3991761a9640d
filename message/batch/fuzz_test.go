package batch

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/rmqio/rmq/message"
)

func addSeeds(f *testing.F) {
	good := build("orders", 3, sample()...)
	f.Add([]byte{})
	f.Add(good)
	f.Add(good[:len(good)-1])
	for _, b := range goodBatches() {
		f.Add(b)
	}
	f.Add(forgeSections(flagRelease, 2, []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 3, 4}, raw("", 0, 0, 0), raw("", 0, 2, 0)))
	f.Add(forge(1, raw("", withExtras(number(extraPriority, 9), number(extraDelay, 1))...)))
	f.Add(append(bytes.Clone(good), good...))
	f.Add(forge(2, raw("", 0, 0, 0), raw("b", hasTag|hasInstance, 1, 2, 3, 4, 5, 6, 7, 8, 2, 2, 1, 'a')))
	f.Add(forge(1, raw("", hasKeys|hasProperties, 0, 0, 1, 1, 'k', 2, 1, 'n', 0, 1, 'n', 1, 'v')))
	f.Add(forge(1, raw("", 0xff, 0, 0)))
	f.Add(forgeSections(flagSparse, 2, placesOf(9, 3, 8), raw("", 0, 0, 0), raw("", 0, 2, 0)))
	f.Add(forge(MaxCount, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}))
}

// repaired is b with the header and the checksum of a whole batch, and with flags
// that are known, so that the fuzzer reaches what lies behind them.
func repaired(b []byte) []byte {
	if len(b) < fixedBytes || len(b) > MaxBytes {
		return nil
	}
	b = bytes.Clone(b)
	copy(b, NewBuilder("", 0).buf[:3])
	b[3] &= knownBatchFlags
	return seal(b)
}

func FuzzDecode(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		decodeTwice(t, b)
		decodeTwice(t, repaired(b))
	})
}

// decodeTwice holds that what decodes can be encoded, and decodes to the same.
func decodeTwice(t *testing.T, b []byte) {
	got, rest, err := Decode(nil, b, "a")
	if err != nil {
		if got != nil || rest != nil {
			t.Fatalf("got %d messages and a rest of %d bytes beside %v", len(got), len(rest), err)
		}
		return
	}
	h, err := Verify(b)
	if err != nil || h.Count != len(got) || len(rest) != len(b)-h.Length {
		t.Fatalf("got %d messages and a rest of %d bytes; header %+v, %v", len(got), len(rest), h, err)
	}
	if h.Span() != h.Count { // nobody encodes what a broker has left messages out of
		return
	}
	ms := make([]message.Message, len(got))
	for i := range got {
		ms[i] = got[i].Message
	}
	again := buildLead(Lead{h.Topic, h.Queue, h.Purpose, h.Sequence, h.Release}, ms...)
	SetStored(again, h.LogIndex, h.BaseOffset, h.StoreMillis, h.Epoch)
	second, _, err := Decode(nil, again, "a")
	if err != nil || len(second) != len(got) {
		t.Fatalf("encoded again: got %d messages, %v, want %d", len(second), err, len(got))
	}
	g, err := ParseHeader(again)
	if err != nil || g.Purpose != h.Purpose || g.Sequence != h.Sequence || !reflect.DeepEqual(g.Release, h.Release) {
		t.Fatalf("encoded again: got header %+v, %v, want %+v", g, err, h)
	}
	for i := range got {
		if !equal(got[i].Message, second[i].Message) || got[i].QueueOffset != second[i].QueueOffset {
			t.Fatalf("message %d: got %+v, want %+v", i, second[i], got[i])
		}
	}
}

func FuzzDecodeCheck(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		checkIsEnough(t, b)
		checkIsEnough(t, repaired(b))
	})
}

// checkIsEnough holds that what a broker accepts, a consumer can read, and is
// what a producer may send.
func checkIsEnough(t *testing.T, b []byte) {
	h, err := Check(b)
	if err != nil {
		return
	}
	got, _, err := Decode(nil, b, "a")
	if err != nil || len(got) != h.Count {
		t.Fatalf("Check accepts what Decode does not: %d of %d messages, %v", len(got), h.Count, err)
	}
	for i := range got {
		if err := got[i].Validate(); err != nil {
			t.Fatalf("Check accepts message %d, Validate does not: %v", i, err)
		}
	}
	err = EachExtra(b, func(i int, m *message.Message) {
		if !equalExtras(*m, got[i].Message) || m.ID != got[i].ID {
			t.Fatalf("message %d: EachExtra has %+v, Decode %+v", i, m, got[i])
		}
	})
	if err != nil {
		t.Fatalf("Check accepts what EachExtra does not: %v", err)
	}
}
