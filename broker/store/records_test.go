package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestLog_Records asks for random records at once, in ascending order, descending and
// none, in sealed segments and the active one, some of which are not there.
func TestLog_Records(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	const n = 300
	for i := range n {
		mustAppend(t, l, Record{Type: GroupRecord, Data: fmt.Appendf(make([]byte, 0, 3000), "%-2000d", i+1)})
	}
	if s := l.Status().Segments; s < 3 {
		t.Fatalf("%d segments", s)
	}
	for round := range 150 {
		var indexes []uint64
		for range rand.IntN(2 * n) {
			indexes = append(indexes, rand.Uint64N(n+20)) // 0, and some above the end
		}
		if order := round % 3; order < 2 {
			if slices.Sort(indexes); order == 1 {
				slices.Reverse(indexes)
			}
		}
		stop := rand.IntN(2 * n)
		var got []uint64
		l.Records(indexes, func(r Committed, err error) bool {
			got = append(got, r.Index)
			switch there := r.Index > 0 && r.Index <= n; {
			case !there && !errors.Is(err, ErrOutOfRange):
				t.Fatalf("record %d: got %v", r.Index, err)
			case there && (err != nil || r.Type != GroupRecord || !bytes.Equal(r.Data, fmt.Appendf(nil, "%-2000d", r.Index))):
				t.Fatalf("record %d: got type %d, %.9q, %v", r.Index, r.Type, r.Data, err)
			}
			return len(got) != stop
		})
		if stop > 0 && stop < len(indexes) {
			indexes = indexes[:stop]
		}
		if !slices.Equal(got, indexes) {
			t.Fatalf("asked for %v, got %v", indexes, got)
		}
	}
}

// TestLog_RecordsOfDamagedAndDroppedSegments: what cannot be read does not hide
// what can.
func TestLog_RecordsOfDamagedAndDroppedSegments(t *testing.T) {
	dir := t.TempDir()
	l, clock, o := aged(t, dir, 200)
	second, cut := l.manifest.current.Segments[1], l.manifest.current.Segments[2]
	mustClose(t, l)
	path := filepath.Join(dir, second.name())
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := second.First + 5
	at := bytes.Index(file, fmt.Appendf(nil, "q%d-%d ", (bad-1)%2, (bad-1)/2))
	file[at] ^= 1
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, cut.name()), 3*4096); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, dir, o)
	check := func(from uint64) {
		t.Helper()
		var all []uint64
		for i := range uint64(200) {
			all = append(all, i+1)
		}
		slices.Reverse(all)
		i := 0
		l.Records(all, func(r Committed, err error) bool {
			var want error
			switch {
			case r.Index < from:
				want = ErrOutOfRange
			case r.Index == bad, cut.First <= r.Index && r.Index <= cut.Last:
				want = ErrDamaged
			}
			if r.Index != all[i] || !errors.Is(err, want) || len(r.Data) == 0 && want == nil {
				t.Fatalf("record %d of %d bytes, want %d: got %v, want %v", r.Index, len(r.Data), all[i], err, want)
			}
			i++
			return true
		})
		if i != len(all) {
			t.Fatalf("%d records, want %d", i, len(all))
		}
	}
	check(1)
	*clock = clock.Add(time.Hour)
	stale := l.catalog.segments()[0]
	if dropped, err := l.Retain(Retention{MaxAge: never, KeepFrom: keepNothing, Force: true}); dropped != 1 || err != nil {
		t.Fatalf("dropped %d: %v", dropped, err)
	}
	check(second.First)
	l.recordsOf(stale, []uint64{1, 2}, func(r Committed, err error) bool { // by who began before the drop
		if !errors.Is(err, ErrOutOfRange) {
			t.Errorf("record %d of a segment that was dropped: got %v", r.Index, err)
		}
		return true
	})
}

// TestSpares: what is listed is what Retain drops, in every case.
func TestSpares(t *testing.T) {
	l, clock, _ := aged(t, t.TempDir(), 300)
	*clock = clock.Add(time.Hour - 150*time.Second)
	size := l.Status().DiskBytes
	for name, r := range map[string]Retention{
		"nothing":     {MaxAge: never},
		"old":         {MaxAge: always(time.Hour)},
		"too large":   {MaxAge: never, MaxBytes: size * 2 / 3},
		"for a group": {MaxAge: always(time.Second), NeededFrom: func(QueueKey) int64 { return 100 }},
		"everything":  {MaxAge: always(time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, l.dir)
			o := small()
			o.Now = func() time.Time { return *clock }
			l := mustOpen(t, dir, o)
			before := l.Status()
			spares, err := l.Spares(r)
			if err != nil {
				t.Fatal(err)
			}
			r.KeepFrom = keepNothing
			dropped, err := l.Retain(r)
			if err != nil || dropped != len(spares) {
				t.Fatalf("%d segments are listed, %d were dropped: %v", len(spares), dropped, err)
			}
			if (dropped == 0) != (name == "nothing") {
				t.Errorf("%d segments were dropped", dropped)
			}
			after, freed := l.Status(), int64(0)
			for _, s := range spares {
				freed += s.Bytes
			}
			if dropped > 0 && after.FirstIndex != spares[dropped-1].Next || freed != before.DiskBytes-after.DiskBytes {
				t.Errorf("the log begins at %d and %d bytes are free; listed were %+v", after.FirstIndex, before.DiskBytes-after.DiskBytes, spares)
			}
		})
	}
	forced, err := l.Spares(Retention{MaxAge: never, Force: true})
	if err != nil || len(forced) != l.Status().Segments-2 {
		t.Errorf("by force %d of %d segments could be dropped: %v", len(forced), l.Status().Segments, err)
	}
}

// TestAppend_Waits: with AsyncFlush a record that waits is applied when it is
// answered, as in no other mode of a batch.
func TestAppend_Waits(t *testing.T) {
	o := small()
	o.Flush = AsyncFlush
	var applied uint64
	o.Apply = func(r Committed) error { applied = r.Index; return nil }
	l := mustOpen(t, t.TempDir(), o)
	for i := range 50 {
		r := messages(0, i, 1, 100)
		r.Waits = true
		if c := mustAppend(t, l, r); applied != c.Index {
			t.Fatalf("record %d was answered when %d was applied", c.Index, applied)
		}
	}
}
