package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// tags is a filter by tag. With exact, every batch is looked at.
type tags struct {
	wanted []string
	exact  bool
	looked *int // how many batches were read
}

func (f tags) Judge(hash uint32) Verdict {
	switch {
	case f.exact || hash == 0:
		return Look
	case slices.ContainsFunc(f.wanted, func(tag string) bool { return batch.TagHash(tag) == hash }):
		return Take
	}
	return Skip
}

func (f tags) match(g *batch.Glance) bool { return slices.Contains(f.wanted, string(g.Tag())) }

func (f tags) Select(dst, b []byte) ([]byte, int, error) {
	*f.looked++
	return batch.Select(dst, b, f.match)
}

func (f tags) Count(b []byte, from, to int) (int, error) {
	*f.looked++
	return batch.Count(b, from, to, f.match)
}

// tagged makes a batch of messages with these tags; first numbers their bodies.
func tagged(queue uint32, first, size int, tags ...string) Record {
	b := batch.NewBuilder("orders", int(queue))
	for i, tag := range tags {
		body := append(fmt.Appendf(nil, "%06d:%s ", first+i, tag), make([]byte, size)...)
		b.Add(&message.Message{Topic: "orders", Tag: tag, ID: message.MakeID(1, uint64(first+i)), BornTime: time.UnixMilli(1), Body: body})
	}
	data := b.Finish()
	h, _ := batch.ParseHeader(data)
	return Record{Type: BatchRecord, Queue: QueueKey{testTopic, queue}, Count: uint32(len(tags)), TagHash: h.TagHash, Data: data}
}

// findAll goes through a queue with a filter, in steps of a budget, and returns the
// offsets of what matches.
func findAll(l *Log, queue uint32, from int64, f tags, budget Budget, maxBytes, maxCount int) (offsets []int64, next int64, err error) {
	next = from
	for {
		left := budget
		found, err := l.FindMatching(QueueKey{testTopic, queue}, next, maxBytes, maxCount, f, &left)
		if err != nil || next == found.End {
			return offsets, next, err
		}
		if found.Next <= next {
			return offsets, next, fmt.Errorf("nothing is looked at from %d on, the end is %d", next, found.End)
		}
		data, err := found.Append([]byte("before"))
		if err != nil {
			return offsets, next, err
		}
		data = data[len("before"):]
		if len(data) != found.Size || (found.Size > 0) != (len(data) > 0) {
			return offsets, next, fmt.Errorf("%d bytes, %d were found", len(data), found.Size)
		}
		before, first := len(offsets), 0
		for all := len(data); len(data) > 0; {
			var ms []message.Stored
			if ms, data, err = batch.Decode(nil, data, ""); err != nil {
				return offsets, next, err
			}
			if first == 0 {
				first = all - len(data)
			} else if all > maxBytes || maxCount > 0 && len(offsets)-before >= maxCount {
				return offsets, next, fmt.Errorf("%d bytes and %d messages before the last batch, %d and %d were asked for", all, len(offsets)-before, maxBytes, maxCount)
			}
			for _, m := range ms {
				if m.QueueOffset >= next && slices.Contains(f.wanted, m.Tag) {
					if want := fmt.Sprintf("%06d:%s ", m.QueueOffset, m.Tag); !bytes.HasPrefix(m.Body, []byte(want)) {
						return offsets, next, fmt.Errorf("at %d got body %.24q", m.QueueOffset, m.Body)
					}
					offsets = append(offsets, m.QueueOffset)
				}
			}
		}
		next = found.Next
	}
}

var unbounded = Budget{Steps: 1 << 30, Bytes: 1 << 30}

// Whatever the batches, the segments, the filter and the budget: what matches is
// found, in order, each once, and counted.
func TestFindMatching_AgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		if err != nil {
			rt.Fatal(err)
		}
		o := Options{FirstSegmentBytes: 64 << 10, SegmentBytes: 64 << 10, TailBytes: int64(rapid.SampledFrom([]int{1, 8 << 10, 1 << 20}).Draw(rt, "tail"))}
		l, err := Open(dir, o)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { l.Close() }()
		m := &matching{log: l, all: map[uint32][]string{}}
		for range rapid.IntRange(1, 3).Draw(rt, "rounds") {
			m.append(t, rt)
			if rapid.Bool().Draw(rt, "reopen") {
				if err := m.log.Close(); err != nil {
					rt.Fatal(err)
				}
				if l, err = Open(dir, o); err != nil {
					rt.Fatal(err)
				}
				m.log = l
			}
			for range 5 {
				m.find(rt)
			}
		}
	})
}

// matching is a log and the tags of all messages in it, by queue.
type matching struct {
	log *Log
	all map[uint32][]string
}

var someTags = []string{"", "a", "b", "c"}

// append appends some batches, and waits for the last.
func (m *matching) append(t *testing.T, rt *rapid.T) {
	for n := rapid.IntRange(1, 20).Draw(rt, "batches"); n > 0; n-- {
		q := uint32(rapid.IntRange(0, 1).Draw(rt, "queue"))
		list := rapid.SliceOfN(rapid.SampledFrom(someTags), 1, 12).Draw(rt, "tags")
		if rapid.Bool().Draw(rt, "of one tag") {
			for i := range list {
				list[i] = list[0]
			}
		}
		r := tagged(q, len(m.all[q]), rapid.SampledFrom([]int{0, 300, 3000}).Draw(rt, "size"), list...)
		m.all[q] = append(m.all[q], list...)
		var err error
		if n > 1 {
			err = m.log.Append(r, func(Committed, error) {})
		} else {
			_, err = appendWait(t, m.log, r)
		}
		if err != nil {
			rt.Fatal(err)
		}
	}
}

func (m *matching) find(rt *rapid.T) {
	q := uint32(rapid.IntRange(0, 1).Draw(rt, "queue"))
	all, looked := m.all[q], 0
	f := tags{rapid.SliceOfNDistinct(rapid.SampledFrom(someTags), 0, 3, rapid.ID).Draw(rt, "wanted"), rapid.Bool().Draw(rt, "exact"), &looked}
	from := rapid.IntRange(0, len(all)).Draw(rt, "from")
	to := rapid.IntRange(from, len(all)).Draw(rt, "to")
	var want []int64
	between := int64(0)
	for i := from; i < len(all); i++ {
		if slices.Contains(f.wanted, all[i]) {
			want = append(want, int64(i))
			if i < to {
				between++
			}
		}
	}
	budget := Budget{rapid.SampledFrom([]int{1, 20, 1 << 20}).Draw(rt, "steps"), rapid.SampledFrom([]int{1, 5000, 1 << 30}).Draw(rt, "bytes")}
	got, next, err := findAll(m.log, q, int64(from), f, budget,
		rapid.SampledFrom([]int{1, 2000, 1 << 20}).Draw(rt, "max bytes"), rapid.SampledFrom([]int{0, 1, 5}).Draw(rt, "max count"))
	if err != nil || next != int64(len(all)) || !slices.Equal(got, want) {
		rt.Fatalf("from %d: got %v up to %d, want %v: %v", from, got, next, want, err)
	}
	c, err := m.log.CountMatching(QueueKey{testTopic, q}, int64(from), int64(to), f, new(unbounded))
	if err != nil || c.Matched != between || c.Next != int64(to) {
		rt.Fatalf("from %d to %d: counted %+v, %v, want %d", from, to, c, err, between)
	}
	first, err := m.log.FirstMatching(QueueKey{testTopic, q}, int64(from), int64(to), f, new(unbounded))
	switch {
	case err != nil || first.First != c.First || (between > 0) != (c.First >= 0):
		rt.Fatalf("from %d to %d: the first is %+v, %v, counted %+v", from, to, first, err, c)
	case between > 0:
		at := int64(slices.IndexFunc(all[c.First:], func(tag string) bool { return slices.Contains(f.wanted, tag) }))
		here, err := m.log.StoredAt(QueueKey{testTopic, q}, c.First)
		there, err2 := m.log.StoredAt(QueueKey{testTopic, q}, c.First+at)
		if c.First < int64(from) || c.First+at >= int64(to) || here != there || first.Next > c.First || errors.Join(err, err2) != nil {
			rt.Fatalf("from %d to %d: the first is %+v, which is in the batch of %d", from, to, first, c.First+at)
		}
	}
}

// Segments that are sealed keep the tag hashes: what cannot match is not read.
func TestFindMatching_ReadsNothingThatCannotMatch(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	for i := range 200 {
		mustAppend(t, l, tagged(0, i, 3000, []string{"rare", "common"}[min(i%100, 1)]))
	}
	for _, what := range []string{"as written", "opened again"} {
		looked := 0
		got, _, err := findAll(l, 0, 0, tags{[]string{"rare"}, false, &looked}, unbounded, 1<<20, 0)
		if err != nil || !slices.Equal(got, []int64{0, 100}) || looked != 0 {
			t.Errorf("%s: got %v, %v, with %d batches looked into", what, got, err, looked)
		}
		if n := len(l.catalog.segments()); n < 3 {
			t.Errorf("%d segments only", n)
		}
		mustClose(t, l)
		l = mustOpen(t, dir, small())
	}
}

// One call looks at what its budget allows, and takes from it what it has used.
func TestFindMatching_KeepsToItsBudget(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	for i := range 50 {
		mustAppend(t, l, tagged(0, 2*i, 1000, "a", "b"))
	}
	q, size := QueueKey{testTopic, 0}, len(tagged(0, 0, 1000, "a", "b").Data)
	looked := 0
	none := tags{[]string{"c"}, true, &looked}
	tests := []struct {
		name   string
		filter Filter
		budget Budget
		next   int64
		left   Budget
	}{
		{"steps", none, Budget{30, 1 << 20}, 20, Budget{0, 1<<20 - 10*size}},
		{"bytes", none, Budget{1000, 3*size + 1}, 8, Budget{1000 - 4*3, 1 - size}},
		{"nothing", none, Budget{0, 0}, 2, Budget{-3, -size}},
		{"all", none, Budget{1000, 1 << 20}, 100, Budget{1000 - 150, 1<<20 - 50*size}},
		{"what is skipped is cheap", skipping{}, Budget{30, 1 << 20}, 60, Budget{0, 1 << 20}},
	}
	for _, tt := range tests {
		b := tt.budget
		f, err := l.FindMatching(q, 0, 1<<20, 0, tt.filter, &b)
		if err != nil || f.Size != 0 || f.Next != tt.next || b != tt.left {
			t.Errorf("%s: got up to %d, left %+v, %v; want %d and %+v", tt.name, f.Next, b, err, tt.next, tt.left)
		}
	}
	b := Budget{Steps: 100, Bytes: 1000}
	b.Spend(4, func(part *Budget) {
		if *part != (Budget{25, 250}) {
			t.Errorf("a fourth is %+v", *part)
		}
		part.Steps, part.Bytes = 5, -50
	})
	if b != (Budget{80, 700}) {
		t.Errorf("left %+v", b)
	}
}

// skipping is a filter that needs to read nothing.
type skipping struct{ tags }

func (skipping) Judge(uint32) Verdict { return Skip }

// damagedAt is a log of some batches, of which one is damaged in a sealed segment.
func damagedAt(t *testing.T, batches int, damaged int64, tag func(i int) string) *Log {
	t.Helper()
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	for i := range batches {
		mustAppend(t, l, tagged(0, i, 3000, tag(i)))
	}
	mustClose(t, l)
	paths, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(paths) < 3 {
		t.Fatalf("got %v, %v", paths, err)
	}
	for _, path := range paths[:len(paths)-1] {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, fmt.Appendf(nil, "%06d:%s ", damaged, tag(int(damaged)))); at >= 0 {
			b[at] ^= 1
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			o := small()
			o.Position = uint64(batches) // so that nothing is read for the views
			return mustOpen(t, dir, o)
		}
	}
	t.Fatal("the batch is in no sealed segment")
	return nil
}

func TestFindMatching_DamageInWhatIsSkipped(t *testing.T) {
	looked := 0
	l := damagedAt(t, 200, 13, func(i int) string { return []string{"a", "b"}[i%2] })
	got, _, err := findAll(l, 0, 0, tags{[]string{"a"}, false, &looked}, unbounded, 1<<20, 0)
	if err != nil || len(got) != 100 || looked != 0 {
		t.Errorf("got %d of 100 messages, %v", len(got), err)
	}
}

// What cannot be read is never passed over: it may match.
func TestFindMatching_DamageInWhatIsLookedAt(t *testing.T) {
	for _, exact := range []bool{true, false} {
		looked := 0
		l := damagedAt(t, 200, 13, func(i int) string { return []string{"a", "b"}[i%2] })
		f := tags{[]string{"b"}, exact, &looked}
		got, next, err := findAll(l, 0, 0, f, unbounded, 8000, 0) // two batches at a time
		if !errors.Is(err, ErrDamaged) || !slices.Equal(got, []int64{1, 3, 5, 7, 9, 11}) || next > 13 {
			t.Errorf("exact %t: got %v up to %d, %v", exact, got, next, err)
		}
		if got, _, err := findAll(l, 0, 14, f, unbounded, 1<<20, 0); err != nil || len(got) != 93 {
			t.Errorf("exact %t: behind the damage: got %d messages, %v", exact, len(got), err)
		}
	}
}

func TestFindMatching_OutOfRange(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	mustAppend(t, l, tagged(0, 0, 10, "a"))
	looked := 0
	f := tags{[]string{"a"}, false, &looked}
	found, err := l.FindMatching(QueueKey{testTopic, 0}, 2, 1000, 0, f, new(unbounded))
	if !errors.Is(err, ErrOutOfRange) || found.End != 1 || found.Next != 2 {
		t.Errorf("got %+v, %v", found, err)
	}
	if _, err := l.CountMatching(QueueKey{testTopic, 0}, 2, 3, f, new(unbounded)); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("count: got %v", err)
	}
	if found, err := l.FindMatching(QueueKey{testTopic, 0}, 1, 1000, 0, f, new(unbounded)); err != nil || found.Size != 0 || found.Next != 1 {
		t.Errorf("at the end: got %+v, %v", found, err)
	}
}
