package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
	"pgregory.net/rapid"
)

// placesOf is the bytes of a sparse section.
func placesOf(span uint64, at ...uint64) []byte {
	b := binary.AppendUvarint(nil, span)
	for _, p := range at {
		b = binary.AppendUvarint(b, p)
	}
	return b
}

// oneOf takes the messages at some places of a batch.
func oneOf(places ...int) func(*Glance) bool {
	at := -1
	return func(*Glance) bool {
		at++
		return slices.Contains(places, at)
	}
}

func selected(t *testing.T, b []byte, places ...int) []byte {
	t.Helper()
	got, n, err := Select(nil, b, oneOf(places...))
	if err != nil || n != len(places) {
		t.Fatalf("got %d messages, %v, want %d", n, err, len(places))
	}
	return got
}

func TestSelect_GoldenBytes(t *testing.T) {
	b := build("orders", 3, sample()...)
	SetStored(b, 0x0102, 100, 1_700_000_000_456, 1)
	old := golden(t, "sparse.hex", selected(t, b, 1, 2))
	got, rest, err := Decode(nil, old, "a")
	if err != nil || len(got) != 2 || len(rest) != 0 {
		t.Fatalf("got %d messages, %v", len(got), err)
	}
	for i, want := range sample()[1:] {
		if !equal(got[i].Message, want) || got[i].QueueOffset != 101+int64(i) {
			t.Errorf("message %d: got %+v, want %+v", i, got[i], want)
		}
	}
}

// Whatever is selected decodes to just these messages, with the offsets, times and
// the rest that they have in the stored batch.
func TestSelect_IsThePartThatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := drawMessages("orders").Draw(t, "messages")
		b := buildLead(drawLead(t, "orders", 3, len(ms)), ms...)
		SetStored(b, rapid.Uint64().Draw(t, "index"), rapid.Int64Range(0, 1<<40).Draw(t, "base"), rapid.Int64Range(0, 1<<50).Draw(t, "millis"), 7)
		all, _, err := Decode(nil, b, "a")
		if err != nil {
			t.Fatal(err)
		}
		var places []int
		var want []message.Stored
		for i := range all {
			if rapid.Bool().Draw(t, "wanted") {
				places, want = append(places, i), append(want, all[i])
			}
		}
		before := []byte("before")
		dst, n, err := Select(bytes.Clone(before), b, oneOf(places...))
		out, kept := bytes.CutPrefix(dst, before)
		if err != nil || n != len(want) || !kept || (len(out) == 0) != (n == 0) {
			t.Fatalf("got %d messages in %d bytes, %v, want %d", n, len(out), err, len(want))
		}
		if n == len(all) || len(out) == len(b) {
			if !bytes.Equal(out, b) {
				t.Fatal("a whole batch is not as it was stored")
			}
			return
		}
		if n > 0 {
			checkSparse(t, out, b, want)
		}
	})
}

func checkSparse(t *rapid.T, out, b []byte, want []message.Stored) {
	h, err := Verify(out)
	stored, _ := ParseHeader(b)
	if err != nil || h.LogIndex != stored.LogIndex || h.BaseOffset != stored.BaseOffset || h.StoreMillis != stored.StoreMillis ||
		h.Epoch != 7 || h.Queue != 3 || h.Topic != "orders" || h.NextOffset() != stored.NextOffset() || h.Span() != stored.Count || len(out) >= len(b) {
		t.Fatalf("got %+v, %v, of %+v", h, err, stored)
	}
	if n, err := VerifyAll(out); err != nil || n != len(want) {
		t.Fatalf("VerifyAll: got %d, %v", n, err)
	}
	got, rest, err := Decode(nil, out, "a")
	if err != nil || len(got) != len(want) || len(rest) != 0 {
		t.Fatalf("got %d messages, %v, want %d", len(got), err, len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if !equal(g.Message, w.Message) || g.QueueOffset != w.QueueOffset || !g.StoreTime.Equal(w.StoreTime) || g.Queue != w.Queue {
			t.Fatalf("message %d: got %+v, want %+v", i, g, w)
		}
	}
	i := 0
	err = Scan(out, func(id message.ID, keys [][]byte) {
		if id != want[i].ID || len(keys) != len(want[i].Keys) {
			t.Fatalf("Scan: message %d: got %v", i, id)
		}
		i++
	})
	if err != nil || i != len(want) {
		t.Fatalf("Scan: %d messages, %v", i, err)
	}
	if _, err := Check(out); !errors.Is(err, message.ErrIllegalMessage) {
		t.Fatalf("a broker takes it: %v", err)
	}
	if _, _, err := Select(nil, out, oneOf(0)); err == nil {
		t.Fatal("it is selected from again")
	}
}

// What a filter sees of a message is what it has.
func TestGlance_IsTheMessage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := drawMessages("orders").Draw(t, "messages")
		b := build("orders", 3, ms...)
		i, size := 0, 0
		n, err := Count(b, 0, len(ms), func(g *Glance) bool {
			m := ms[i]
			i++
			if string(g.Tag()) != m.Tag {
				t.Fatalf("message %d: tag %q, want %q", i, g.Tag(), m.Tag)
			}
			if string(g.Group()) != m.Group {
				t.Fatalf("message %d: group %q, want %q", i, g.Group(), m.Group)
			}
			if size += g.Size(); g.Size() <= len(m.Body) || size > len(b)-fixedBytes {
				t.Fatalf("message %d: %d bytes, with those before %d of %d", i, g.Size(), size, len(b))
			}
			sees(t, g, "TAGS", m.Tag, m.Tag != "")
			sees(t, g, "KEYS", strings.Join(m.Keys, " "), len(m.Keys) > 0)
			sees(t, g, "\x00 not there", "", false)
			for k, v := range m.Properties {
				sees(t, g, k, v, true)
			}
			return i%2 == 0
		})
		if err != nil || i != len(ms) || n != len(ms)/2 {
			t.Fatalf("counted %d of %d messages, %v", n, i, err)
		}
	})
}

func sees(t *rapid.T, g *Glance, name, value string, ok bool) {
	if v, there := g.Property(name); v != value || there != ok {
		t.Fatalf("%s: got %q, %t, want %q, %t", name, v, there, value, ok)
	}
}

func TestCount_LooksBetweenPlaces(t *testing.T) {
	b := build("orders", 3, append(sample(), sample()...)...)
	for _, tt := range []struct{ from, to, want int }{{0, 6, 6}, {2, 5, 3}, {4, 4, 0}, {5, 100, 1}} {
		if n, err := Count(b, tt.from, tt.to, func(*Glance) bool { return true }); n != tt.want || err != nil {
			t.Errorf("%d to %d: got %d, %v, want %d", tt.from, tt.to, n, err, tt.want)
		}
	}
}

// A sparse batch that is no shorter than the whole one is not worth it, and may be
// too long to be decoded.
func TestSelect_IsNeverLongerThanTheBatch(t *testing.T) {
	ms := make([]message.Message, 1000)
	for i := range ms {
		ms[i] = message.Message{ID: message.MakeID(1, uint64(i))}
	}
	b := build("t", 0, ms...)
	got, n, err := Select(nil, b, func() func(*Glance) bool {
		first := true
		return func(*Glance) bool { skip := first; first = false; return !skip }
	}())
	if err != nil || n != 999 || !bytes.Equal(got, b) {
		t.Errorf("got %d messages in %d bytes of %d, %v", n, len(got), len(b), err)
	}
}

func TestSparse_SectionsAreRefused(t *testing.T) {
	tests := []struct {
		name    string
		flags   byte
		section []byte
		want    error
	}{
		{"first and last", flagSparse, placesOf(MaxCount, 0, MaxCount-1), nil},
		{"smallest", flagSparse, placesOf(3, 1, 2), nil},
		{"all of the batch", flagSparse, placesOf(2, 0, 1), ErrCorrupt},
		{"a span of nothing", flagSparse, placesOf(0, 0, 1), ErrCorrupt},
		{"a span too large", flagSparse, placesOf(MaxCount+1, 0, 1), ErrCorrupt},
		{"a place beyond the span", flagSparse, placesOf(3, 1, 3), ErrCorrupt},
		{"a place far beyond the span", flagSparse, placesOf(3, 1, 1<<63), ErrCorrupt},
		{"a place twice", flagSparse, placesOf(3, 1, 1), ErrCorrupt},
		{"places that descend", flagSparse, placesOf(3, 2, 1), ErrCorrupt},
		{"with a purpose", flagSparse | flagTimer, placesOf(3, 1, 2), ErrCorrupt},
		{"with deduplication keys", flagSparse | flagDedup, placesOf(3, 1, 2), ErrCorrupt},
		{"with a sequence", flagSparse | flagSequence, append(sequence(1, 1, 0, 0), placesOf(3, 1, 2)...), ErrCorrupt},
	}
	for _, tt := range tests {
		b := forgeSections(tt.flags, 2, tt.section, raw("", 0, 0, 0), raw("", 0, 2, 0))
		if _, _, err := Decode(nil, b, "a"); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
		for n := range tt.section {
			if _, err := ParseHeader(forgeSections(tt.flags, 2, tt.section[:n])); err == nil {
				t.Errorf("%s, cut at %d: accepted", tt.name, n)
			}
		}
	}
}

func TestSelect_RefusesHeadsThatAreCut(t *testing.T) {
	look := func(g *Glance) bool {
		g.Property("KEYS")
		g.Property("p")
		return string(g.Tag()) != ""
	}
	for name, head := range map[string][]byte{
		"instance":   {hasInstance, 1, 2},
		"tag":        {hasTag, 0, 0, 5, 'a'},
		"keys":       {hasKeys, 0, 0, 2, 1, 'k'},
		"properties": {hasProperties, 0, 0, 1, 1, 'p', 9},
	} {
		dst := []byte("before")
		if got, _, err := Select(dst, forge(1, raw("", head...)), look); !errors.Is(err, ErrCorrupt) || string(got) != "before" {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func FuzzSelect(f *testing.F) {
	addSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, repaired(b)} {
			odd := 0
			got, n, err := Select(nil, b, func(g *Glance) bool {
				g.Property("n")
				g.Property("KEYS")
				odd++
				return odd%2 == 1
			})
			if err != nil || n == 0 {
				continue
			}
			if all, _, err := Decode(nil, b, "a"); err == nil {
				some, rest, err := Decode(nil, got, "a")
				if err != nil || len(rest) != 0 || len(some) != n && len(some) != len(all) {
					t.Fatalf("got %d of %d messages, %v", len(some), n, err)
				}
			}
		}
	})
}
