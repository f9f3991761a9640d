package sequence

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// step is a batch and what is said of it. What is new is taken, at the next
// offsets.
type step struct {
	run          uint64
	first, count int
	flags        string // b: Begin, a: Again
	want         string // "new", "at N", or the name of a code
}

func (s step) sequence() *batch.Sequence {
	q := &batch.Sequence{Producer: 9, Incarnation: s.run, First: uint64(s.first)}
	for _, f := range s.flags {
		q.Begin, q.Again = q.Begin || f == 'b', q.Again || f == 'a'
	}
	return q
}

// recorder applies steps to a track.
type recorder struct {
	track *Track
	end   int64 // of the queue
}

func (r *recorder) do(s step) string {
	at, known, err := r.track.Judge(s.sequence(), s.count)
	switch {
	case err != nil:
		return protocol.CodeOf(err).String()
	case known:
		return fmt.Sprint("at ", at.Base)
	}
	if r.track == nil {
		r.track = &Track{}
	}
	r.track.Take(s.sequence(), s.count, Place{Base: r.end, Index: uint64(r.end) + 1, Millis: r.end * 10})
	r.end += int64(s.count)
	return "new"
}

func TestTrack_Scenarios(t *testing.T) {
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"first of all", []step{{1, 0, 3, "b", "new"}}},
		{"first without begin", []step{{1, 0, 3, "", "SEQUENCE_LOST"}}},
		{"again without begin", []step{{1, 0, 1, "a", "SEQUENCE_LOST"}}},
		{"later ones", []step{{1, 0, 3, "b", "new"}, {1, 3, 2, "", "new"}, {1, 5, 1, "", "new"}}},
		{"the same again", []step{{1, 0, 3, "b", "new"}, {1, 0, 3, "b", "at 0"}, {1, 3, 2, "", "new"}, {1, 3, 2, "", "at 3"}, {1, 0, 3, "", "at 0"}}},
		{"a part again", []step{{1, 0, 3, "b", "new"}, {1, 1, 1, "a", "at 1"}, {1, 1, 2, "", "at 1"}}},
		{"after a gap", []step{{1, 0, 3, "b", "new"}, {1, 7, 2, "", "new"}, {1, 7, 2, "", "at 3"}}},
		{"a late frame", []step{{1, 0, 3, "b", "new"}, {1, 7, 2, "", "new"}, {1, 3, 4, "b", "FENCED"}, {1, 4, 1, "", "FENCED"}}},
		{"on purpose into a gap", []step{{1, 0, 3, "b", "new"}, {1, 7, 2, "", "new"}, {1, 4, 1, "a", "new"}, {1, 4, 1, "a", "at 5"},
			{1, 5, 1, "a", "new"}, {1, 3, 4, "", "MESSAGE_ILLEGAL"}, {1, 9, 1, "", "new"}}},
		{"overlaps", []step{{1, 0, 3, "b", "new"}, {1, 2, 2, "", "MESSAGE_ILLEGAL"}, {1, 5, 2, "", "new"},
			{1, 4, 2, "a", "MESSAGE_ILLEGAL"}, {1, 4, 9, "", "MESSAGE_ILLEGAL"}, {1, 6, 2, "", "MESSAGE_ILLEGAL"}}},
		{"numbers that end", []step{{1, -2, 3, "b", "MESSAGE_ILLEGAL"}}},
		{"a later run", []step{{1, 0, 3, "b", "new"}, {2, 0, 2, "b", "new"}, {2, 0, 2, "b", "at 3"}, {2, 2, 1, "", "new"},
			{1, 3, 1, "b", "FENCED"}, {1, 0, 3, "b", "FENCED"}, {1, 0, 1, "a", "FENCED"}, {2, 3, 1, "", "new"}}},
		{"a later run without begin", []step{{1, 0, 3, "b", "new"}, {2, 0, 2, "", "FENCED"}, {2, 0, 1, "a", "FENCED"}}},
		{"two runs in turn", []step{{1, 0, 1, "b", "new"}, {2, 0, 1, "b", "new"}, {3, 0, 1, "b", "new"}, {2, 1, 1, "b", "FENCED"}, {1, 1, 1, "b", "FENCED"}, {3, 1, 1, "b", "new"}}},
		{"before it began", []step{{1, 5, 1, "b", "new"}, {1, 3, 1, "b", "FENCED"}, {1, 3, 1, "a", "SEQUENCE_LOST"}, {1, 3, 1, "ab", "new"}, {1, 3, 1, "a", "at 1"}, {1, 2, 1, "ab", "new"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r recorder
			for i, s := range tc.steps {
				if got := r.do(s); got != s.want {
					t.Fatalf("step %d, %+v: got %s", i, s, got)
				}
			}
		})
	}
}

func TestTrack_ForgetsTheLowestOfTooManyIntervals(t *testing.T) {
	var r recorder
	for i := range maxSpans + 2 {
		r.do(step{run: 1, first: 10 + 10*i, count: 3, flags: "b"})
	}
	if n := len(r.track.spans); n != maxSpans {
		t.Fatalf("got %d intervals, want %d", n, maxSpans)
	}
	for _, s := range []step{
		{1, 10, 3, "ab", "SEQUENCE_LOST"}, {1, 12, 1, "a", "SEQUENCE_LOST"}, {1, 20, 3, "", "SEQUENCE_LOST"}, {1, 5, 1, "ab", "SEQUENCE_LOST"},
		{1, 30, 3, "", "at 6"}, {1, 33, 1, "a", "new"},
	} {
		if got := r.do(s); got != s.want {
			t.Errorf("%+v: got %s", s, got)
		}
	}
}

func TestTrack_ForgetsTheEarliestOfTooManyRuns(t *testing.T) {
	var r recorder
	for run := range uint64(maxFenced + 2) {
		r.do(step{run: run + 1, count: 1, flags: "b"})
	}
	if n := len(r.track.fenced); n != maxFenced {
		t.Fatalf("got %d runs, want %d", n, maxFenced)
	}
	if got := r.do(step{run: 2, count: 1, flags: "b"}); got != "FENCED" {
		t.Errorf("the second run: got %s", got)
	}
}

// A batch that continues the one before makes no interval more, and the newest
// keeps its own store time.
func TestTrack_JoinsWhatContinues(t *testing.T) {
	var r recorder
	for i := range 1000 {
		r.do(step{run: 1, first: 2 * i, count: 2, flags: "b"})
	}
	if n := len(r.track.spans); n != 2 {
		t.Errorf("got %d intervals, want 2", n)
	}
	s := step{run: 1, first: 1998, count: 2}
	if at, known, err := r.track.Judge(s.sequence(), 2); at != (Place{Base: 1998, Index: 1999, Millis: 19980}) || !known || err != nil {
		t.Errorf("got %v, %v, %v", at, known, err)
	}
	// Another producer's messages lie between: number 2000 is not at offset 2000.
	r.end += 5
	r.do(step{run: 1, first: 2000, count: 1})
	r.do(step{run: 1, first: 2001, count: 1})
	if got := r.do(step{run: 1, first: 1999, count: 1}); got != "at 1999" {
		t.Errorf("got %s", got)
	}
	if got := r.do(step{run: 1, first: 2000, count: 1}); got != "at 2005" {
		t.Errorf("got %s", got)
	}
}

func TestTrack_HeldBack(t *testing.T) {
	track := &Track{}
	for i := range 3 {
		track.Take(step{run: 1, first: 10 * i}.sequence(), 10, Place{Base: -1, Index: uint64(100 + i), Millis: 7})
	}
	for first, want := range map[int]Place{0: {-1, 100, 7}, 13: {-4, 101, 7}, 29: {-10, 102, 7}} {
		if at, known, err := track.Judge(step{run: 1, first: first}.sequence(), 1); at != want || !known || err != nil {
			t.Errorf("number %d: got %v, %v, %v; want %v", first, at, known, err, want)
		}
	}
}

// A message that is held back and the first of a queue are not one interval,
// though their offsets, -1 and 0, look like it.
func TestTrack_HeldBackJoinsNothing(t *testing.T) {
	track := &Track{}
	for i, base := range []int64{-1, 0, 1} {
		track.Take(step{run: 1, first: i}.sequence(), 1, Place{Base: base, Index: uint64(100 + i)})
	}
	for i, base := range []int64{-1, 0, 1} {
		if at, known, _ := track.Judge(step{run: 1, first: i}.sequence(), 1); !known || at.Base != base {
			t.Errorf("number %d: got %v, %v; want base %d", i, at, known, base)
		}
	}
}

func TestTrack_CloneSharesNothing(t *testing.T) {
	var r recorder
	r.do(step{run: 1, first: 0, count: 1, flags: "b"})
	r.do(step{run: 2, first: 0, count: 1, flags: "b"})
	r.do(step{run: 2, first: 9, count: 1})
	clone := r.track.Clone()
	clone.Take(step{run: 2, first: 4}.sequence(), 1, Place{Base: 77})
	clone.Take(step{run: 3, first: 0}.sequence(), 1, Place{Base: 78})
	if got := r.do(step{run: 2, first: 9, count: 1}); got != "at 2" {
		t.Errorf("got %s", got)
	}
	if got := r.do(step{run: 2, first: 4, count: 1, flags: "a"}); got != "new" {
		t.Errorf("got %s", got)
	}
	var none *Track
	if c := none.Clone(); !c.IsEmpty() || !none.IsEmpty() || r.track.IsEmpty() {
		t.Error("a track that nothing was taken by is not the only one that is empty")
	}
}

// memory remembers everything that a track was given.
type memory struct {
	run     uint64
	earlier map[uint64]bool
	at      map[uint64]int64 // offset by number
	batches []step           // of the run
	high    uint64           // after the highest number
	begun   uint64
	end     int64
}

// check holds the track's word on a batch against what is remembered.
func (m *memory) check(t *rapid.T, s step, got string) {
	q := s.sequence()
	stored, inOrder := 0, true
	for i := range uint64(s.count) {
		if at, ok := m.at[q.First+i]; ok && m.run == s.run {
			stored++
			inOrder = inOrder && at == m.at[q.First]+int64(i)
		}
	}
	other := m.run != 0 && m.run != s.run
	switch {
	case got == "new" && (stored > 0 || other && m.earlier[s.run] || m.run != s.run && !q.Begin):
		t.Fatalf("%+v is taken; %d of it are stored", s, stored)
	case got == "new" && !other && q.First < m.high && !q.Again:
		t.Fatalf("%+v is taken behind later ones", s)
	case got[:2] == "at" && (stored < s.count || got != fmt.Sprint("at ", m.at[q.First])):
		t.Fatalf("%+v: got %s, %d are stored, the first at %d", s, got, stored, m.at[q.First])
	case got == "FENCED" && (stored > 0 || !other && (m.run == 0 || q.Again || q.First >= m.high)):
		t.Fatalf("%+v is fenced; %d of it are stored, the end is %d", s, stored, m.high)
	case got == "MESSAGE_ILLEGAL" && (stored == 0 || stored == s.count && inOrder && m.isPart(s)):
		t.Fatalf("%+v is illegal; %d of it are stored", s, stored)
	case got == "SEQUENCE_LOST" && !other && m.run != 0 && m.intervals() < maxSpans && (q.First >= m.begun || q.Begin):
		t.Fatalf("%+v is lost with %d intervals, begun at %d", s, m.intervals(), m.begun)
	}
}

func (m *memory) isPart(s step) bool {
	for _, b := range m.batches {
		if b.first <= s.first && s.first+s.count <= b.first+b.count {
			return true
		}
	}
	return false
}

func (m *memory) intervals() int { return len(m.batches) }

func (m *memory) take(s step) {
	if m.run != s.run {
		if m.run != 0 {
			m.earlier[m.run] = true
		}
		m.run, m.at, m.batches, m.high, m.begun = s.run, map[uint64]int64{}, nil, 0, uint64(s.first)
	}
	for i := range s.count {
		m.at[uint64(s.first+i)] = m.end
		m.end++
	}
	m.batches = append(m.batches, s)
	m.high = max(m.high, uint64(s.first+s.count))
}

func TestTrack_AgainstMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := memory{earlier: map[uint64]bool{}}
		var r recorder
		run, next := uint64(1), 0
		draw := func(name string, low, high int) int { return rapid.IntRange(low, high).Draw(t, name) }
		for range draw("steps", 1, 150) {
			s := step{run: run, count: draw("count", 1, 4), flags: rapid.SampledFrom([]string{"", "b", "b", "a", "ab"}).Draw(t, "flags")}
			switch draw("what", 0, 9) {
			case 0, 1, 2, 3:
				s.first = next + draw("gap", 0, 3)
				next = s.first + s.count
			case 4, 5:
				if len(m.batches) > 0 {
					b := rapid.SampledFrom(m.batches).Draw(t, "batch")
					s.first, s.count = b.first, b.count
					if cut := draw("cut", 0, b.count-1); cut > 0 {
						s.first, s.count = b.first+cut, 1
					}
				}
			case 6, 7, 8:
				s.first = draw("first", 0, next+2)
			case 9:
				if draw("restart", 0, 3) == 0 {
					run++
					next = 0
				}
				s.run = uint64(draw("run", max(1, int(run)-maxFenced), int(run)))
			}
			r.end = m.end
			got := r.do(s)
			m.check(t, s, got)
			if got == "new" {
				m.take(s)
			}
			if r.track != nil && draw("reload", 0, 9) == 0 {
				r.track = reloaded(t, r.track)
			}
		}
	})
}

// reloaded is the track after its row was written and read.
func reloaded(t *rapid.T, track *Track) *Track {
	v := New(Config{})
	k := Key{Producer: 1}
	e := entry{Track: *track, index: 5, millis: -6}
	if err := v.Load(k.bytes(), e.value()); err != nil {
		t.Fatal(err)
	}
	return v.Track(k)
}

func TestTrack_ErrorsSayWhatIsWrong(t *testing.T) {
	var none *Track
	_, _, err := none.Judge(&batch.Sequence{Producer: 0xabc, Incarnation: 1, First: 7}, 1)
	var e *protocol.Error
	if !errors.As(err, &e) || e.Code != protocol.SequenceLost || e.Code.Retryable() {
		t.Errorf("got %v", err)
	}
}
