package batch

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
)

// A sequence is the same however it got into a batch.
func TestSequence_SetInEachWay(t *testing.T) {
	s := Sequence{Producer: 3, Incarnation: 4, First: 5, Begin: true, Again: true}
	build := func(begun Sequence, set func(*Builder)) []byte {
		b := NewBuilder("topic", 0)
		b.Begin(&Lead{Topic: "topic", Sequence: begun})
		b.Add(&message.Message{ID: message.MakeID(1, 2), BornTime: time.UnixMilli(3)})
		set(b)
		return slices.Clone(b.Finish())
	}
	want := build(s, func(*Builder) {})
	other := Sequence{Producer: 1, Incarnation: 1}
	if got := build(other, func(b *Builder) { b.SetSequence(s) }); !bytes.Equal(got, want) {
		t.Errorf("set before the end: got %x, want %x", got, want)
	}
	got := build(other, func(*Builder) {})
	if SetSequence(got, s); !bytes.Equal(got, want) {
		t.Errorf("set after the end: got %x, want %x", got, want)
	}
	if h, err := Check(want); err != nil || h.Sequence != s {
		t.Errorf("got %+v, %v", h.Sequence, err)
	}
}

func TestFlags_SayWhatAViewHasToSee(t *testing.T) {
	s := Sequence{Producer: 3, Incarnation: 4}
	for _, tc := range []struct {
		lead                   Lead
		key                    string
		plain, numbered, keyed bool
	}{
		{Lead{}, "", true, false, false},
		{Lead{Sequence: s}, "", false, true, false},
		{Lead{}, "k", false, false, true},
		{Lead{Sequence: s}, "k", false, false, true},
		{Lead{Sequence: s, Purpose: ToTimer}, "", false, false, false},
		{Lead{Sequence: s, Release: Release{Origin: 9, Positions: []int{0}}}, "", false, false, false},
	} {
		b := NewBuilder("topic", 0)
		b.Begin(&tc.lead)
		b.Add(&message.Message{ID: message.MakeID(1, 2), BornTime: time.UnixMilli(3), DedupKey: tc.key})
		bytes := b.Finish()
		if IsPlain(bytes) != tc.plain || IsNumbered(bytes) != tc.numbered || HasDedupKey(bytes) != tc.keyed {
			t.Errorf("%+v, key %q: got plain %v, numbered %v, keyed %v", tc.lead, tc.key, IsPlain(bytes), IsNumbered(bytes), HasDedupKey(bytes))
		}
	}
}
