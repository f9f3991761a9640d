package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"pgregory.net/rapid"
)

// sequence is the bytes of a sequence.
func sequence(producer, incarnation, first uint64, bits byte) []byte {
	le := binary.LittleEndian
	return append(le.AppendUint64(le.AppendUint64(le.AppendUint64(nil, producer), incarnation), first), bits)
}

// release is the bytes of a release that says it has count positions.
func release(origin, count uint64, positions ...uint64) []byte {
	b := binary.AppendUvarint(binary.LittleEndian.AppendUint64(nil, origin), count)
	for _, p := range positions {
		b = binary.AppendUvarint(b, p)
	}
	return b
}

func TestLead_SectionsAreRefused(t *testing.T) {
	const last = MaxCount - 1
	both := byte(flagSequence | flagRelease)
	good := sequence(1, 1, 0, 0)
	tests := []struct {
		name    string
		flags   byte
		section []byte
		want    error
	}{
		{"smallest sequence", flagSequence, sequence(1, 1, 0, 0), nil},
		{"largest sequence", flagSequence, sequence(math.MaxUint64, math.MaxUint64, math.MaxUint64-2, 3), nil},
		{"sequence that overflows", flagSequence, sequence(1, 1, math.MaxUint64-1, 0), ErrCorrupt},
		{"sequence without a producer", flagSequence, sequence(0, 1, 0, 0), ErrCorrupt},
		{"sequence without an incarnation", flagSequence, sequence(1, 0, 0, 0), ErrCorrupt},
		{"unknown bit of a sequence", flagSequence, sequence(1, 1, 0, 4), ErrVersion},
		{"all bits of a sequence", flagSequence, sequence(1, 1, 0, 0xff), ErrVersion},
		{"sequence with a purpose", flagSequence | flagTimer, good, nil},

		{"release", flagRelease, release(1, 2, 0, last), nil},
		{"release behind a sequence", both, append(bytes.Clone(good), release(1, 2, 0, 1)...), nil},
		{"release before a sequence", both, append(release(1, 2, 0, 1), good...), ErrCorrupt},
		{"release of no record", flagRelease, release(0, 2, 0, 1), ErrCorrupt},
		{"release of nothing", flagRelease, release(1, 0), ErrCorrupt},
		{"release of fewer", flagRelease, release(1, 1, 0), ErrCorrupt},
		{"release of more", flagRelease, release(1, 3, 0, 1, 2), ErrCorrupt},
		{"one position twice", flagRelease, release(1, 2, 5, 5), ErrCorrupt},
		{"positions that descend", flagRelease, release(1, 2, 6, 5), ErrCorrupt},
		{"position too high", flagRelease, release(1, 2, 0, MaxCount), ErrCorrupt},
		{"position far too high", flagRelease, release(1, 2, 0, math.MaxUint64), ErrCorrupt},
		{"first position too high", flagRelease, release(1, 2, 1<<32, 1), ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := forgeSections(tt.flags, 2, tt.section, raw("", 0, 0, 0), raw("", 0, 2, 0))
			if _, err := ParseHeader(b); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("ParseHeader: got %v, want %v", err, tt.want)
			}
			for name, decode := range decoders {
				if err := decode(b); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
					t.Errorf("%s: got %v, want %v", name, err, tt.want)
				}
			}
			for n := range tt.section {
				if _, err := ParseHeader(forgeSections(tt.flags, 2, tt.section[:n])); err == nil {
					t.Errorf("cut at %d: accepted", n)
				}
			}
		})
	}
}

func TestSetSequence(t *testing.T) {
	first := Sequence{Producer: 1, Incarnation: 2, First: 3, Begin: true, Again: true}
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint64Min(1)
		want := Sequence{Producer: id.Draw(t, "producer"), Incarnation: id.Draw(t, "incarnation"),
			First: rapid.Uint64Range(0, math.MaxUint64-1<<16).Draw(t, "first"), Begin: rapid.Bool().Draw(t, "begin"), Again: rapid.Bool().Draw(t, "again")}
		ms := drawMessages("orders").Draw(t, "messages")
		for i := range ms {
			ms[i].Properties = nil // they have no order
		}
		lead := drawLead(t, "orders", 3, len(ms))
		lead.Sequence = first
		b := buildLead(lead, ms...)
		SetSequence(b, want)
		lead.Sequence = want
		if !bytes.Equal(b, buildLead(lead, ms...)) {
			t.Fatal("got other bytes than those of a batch that was built with the sequence")
		}
		if h, err := Check(b); err != nil || h.Sequence != want {
			t.Fatalf("got %+v, %v, want %+v", h.Sequence, err, want)
		}
	})
}

// What is plain no view looks into: nothing that one needs may be.
func TestIsPlain(t *testing.T) {
	plain := message.Message{Tag: "t", Keys: []string{"k"}, Group: "g", Compression: message.Zstd, CorrelationID: "c", ReplyTo: "r", ReplyBy: time.UnixMilli(1)}
	dedup := message.Message{DedupKey: "d"}
	seq := Sequence{Producer: 1, Incarnation: 1}
	tests := []struct {
		name string
		b    []byte
		want bool
	}{
		{"messages", build("t", 0, plain, message.Message{Priority: 1}), true},
		{"deduplication key", build("t", 0, dedup, plain), false},
		{"deduplication key of the last", build("t", 0, plain, dedup), false},
		{"timer", buildLead(Lead{Purpose: ToTimer}, plain), false},
		{"transaction", buildLead(Lead{Purpose: ToTransaction}, plain), false},
		{"sequence", buildLead(Lead{Sequence: seq}, plain), false},
		{"release", buildLead(Lead{Release: Release{Origin: 1, Positions: []int{0}}}, plain), false},
	}
	for _, tt := range tests {
		if _, err := Check(tt.b); err != nil || IsPlain(tt.b) != tt.want {
			t.Errorf("%s: got %t, %v, want %t", tt.name, IsPlain(tt.b), err, tt.want)
		}
	}
}

func TestCheck_HoldsTheFlagOfDeduplicationKeys(t *testing.T) {
	with, without := build("t", 0, message.Message{DedupKey: "d"}), build("t", 0, message.Message{})
	for _, b := range [][]byte{with, without} {
		b[3] ^= flagDedup
		if _, err := Check(seal(b)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("flags %#02x: got %v, want ErrCorrupt", b[3], err)
		}
	}
}

func TestBuilder_BeginForgetsTheBatchBefore(t *testing.T) {
	lead, held := special()
	b := NewBuilder("t", 0)
	b.Begin(&lead)
	for i := range held {
		b.Add(&held[i])
	}
	b.Finish()
	b.Reset("orders", 3)
	for _, m := range sample() {
		b.Add(&m)
	}
	if got := b.Finish(); !bytes.Equal(got, build("orders", 3, sample()...)) {
		t.Errorf("got % x", got)
	}
}

func TestScan_PassesSectionsAndExtras(t *testing.T) {
	for name, b := range goodBatches() {
		want, _, err := Decode(nil, b, "a")
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		err = Scan(b, func(id message.ID, keys [][]byte) {
			if id != want[i].ID || len(keys) != len(want[i].Keys) {
				t.Errorf("%s: message %d: got %v with %d keys, want %v with %d", name, i, id, len(keys), want[i].ID, len(want[i].Keys))
			}
			i++
		})
		if err != nil || i != len(want) {
			t.Errorf("%s: got %d of %d messages, %v", name, i, len(want), err)
		}
	}
}
