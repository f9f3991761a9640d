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

// TestLog_Pick picks types of records from random parts of the log, in sealed
// segments and the active one.
func TestLog_Pick(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	const n = 300
	types := map[uint64]Type{}
	for i := range uint64(n) {
		types[i+1] = []Type{GroupRecord, OffsetsRecord, LeasesRecord}[rand.IntN(3)]
		mustAppend(t, l, Record{Type: types[i+1], Data: fmt.Appendf(make([]byte, 0, 3000), "%-2000d", i+1)})
	}
	if s := l.Status().Segments; s < 3 {
		t.Fatalf("%d segments", s)
	}
	for range 100 {
		from, before := rand.Uint64N(n+20), rand.Uint64N(n+20)
		wanted := Type(rand.IntN(10))
		stop := 1 + rand.IntN(n)
		var want, got []uint64
		next := max(from, 1)
		for ; next < min(before, n+1) && len(want) < stop; next++ {
			if types[next] == wanted {
				want = append(want, next)
			}
		}
		reached := l.Pick(from, before, func(r *Committed) bool { return r.Type == wanted }, func(r Committed, err error) bool {
			if err != nil || r.Type != wanted || !bytes.Equal(r.Data, fmt.Appendf(nil, "%-2000d", r.Index)) {
				t.Fatalf("record %d: got type %d, %.9q, %v", r.Index, r.Type, r.Data, err)
			}
			got = append(got, r.Index)
			return len(got) < stop
		})
		if !slices.Equal(got, want) {
			t.Fatalf("from %d before %d, at most %d: got %v, want %v", from, before, stop, got, want)
		}
		if from < before && from > 0 && from <= n && reached != next {
			t.Fatalf("from %d before %d, at most %d: came to %d, want %d", from, before, stop, reached, next)
		}
	}
}

// TestLog_PickPassesOverDamage: what cannot be read is told of once, and what can be
// is found. Damage in what nobody wants is not looked for.
func TestLog_PickPassesOverDamage(t *testing.T) {
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
	file[bytes.Index(file, fmt.Appendf(nil, "q%d-%d ", (bad-1)%2, (bad-1)/2))] ^= 1
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, cut.name()), 3*4096); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, dir, o)
	pick := func(from uint64, want func(*Committed) bool) (found []uint64, damaged []uint64) {
		t.Helper()
		next := l.Pick(from, 1<<40, want, func(r Committed, err error) bool {
			if err == nil {
				found = append(found, r.Index)
			} else if damaged = append(damaged, r.Index); !errors.Is(err, ErrDamaged) {
				t.Fatalf("record %d: %v", r.Index, err)
			}
			return true
		})
		if next != 201 {
			t.Fatalf("came to %d", next)
		}
		return found, damaged
	}
	expected := func(from uint64) (all []uint64) {
		for i := from; i <= 200; i++ {
			if i != bad && (i < cut.First || i > cut.Last) {
				all = append(all, i)
			}
		}
		return all
	}
	all := func(*Committed) bool { return true }
	if found, damaged := pick(1, all); !slices.Equal(found, expected(1)) || !slices.Equal(damaged, []uint64{bad, cut.First}) {
		t.Fatalf("found %v, and damage at %v", found, damaged)
	}
	others := func(r *Committed) bool { return r.Index != bad }
	if found, damaged := pick(1, others); !slices.Equal(found, expected(1)) || !slices.Equal(damaged, []uint64{cut.First}) {
		t.Fatalf("without the bad one: found %v, and damage at %v", found, damaged)
	}
	*clock = clock.Add(time.Hour)
	stale := l.catalog.segments()
	if dropped, err := l.Retain(Retention{MaxAge: never, KeepFrom: keepNothing, Force: true}); dropped != 1 || err != nil {
		t.Fatalf("dropped %d: %v", dropped, err)
	}
	if found, _ := pick(1, all); !slices.Equal(found, expected(second.First)) {
		t.Fatalf("after the drop: found %v", found)
	}
	told := 0
	l.pickFrom(stale, second.First, &picking{next: 1, more: true, want: all, visit: func(_ Committed, err error) bool {
		if told++; !errors.Is(err, ErrOutOfRange) { // by who began before the drop
			t.Errorf("a record of a segment that was dropped: got %v", err)
		}
		return true
	}})
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
