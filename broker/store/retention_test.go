package store

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// aged is a log with sealed segments whose messages were stored at one second
// intervals from 1,000,000 s on, and a clock that tests move.
func aged(t *testing.T, dir string, n int, change ...func(*Options)) (l *Log, now *time.Time, o Options) {
	t.Helper()
	clock := time.Unix(1_000_000, 0)
	o = small()
	o.Now = func() time.Time { return clock }
	for _, f := range change {
		f(&o)
	}
	l = mustOpen(t, dir, o)
	for i := range n {
		mustAppend(t, l, messages(uint32(i%2), i/2, 1, 3000))
		clock = clock.Add(time.Second)
	}
	eventually(t, func() bool {
		l.manifest.mu.Lock()
		defer l.manifest.mu.Unlock()
		segments := l.manifest.current.Segments
		return segments[len(segments)-2].Sealed
	})
	return l, &clock, o
}

func never(uint64) time.Duration { return 0 }

func always(d time.Duration) func(uint64) time.Duration {
	return func(uint64) time.Duration { return d }
}

const keepNothing = 1 << 60

func TestRetain_DropsOldSegmentsAndKeepsTheRest(t *testing.T) {
	dir := t.TempDir()
	const n = 300
	l, clock, o := aged(t, dir, n)
	before := l.Status()
	if dropped, err := l.Retain(Retention{MaxAge: always(time.Hour), KeepFrom: keepNothing}); dropped != 0 || err != nil {
		t.Fatalf("dropped %d young segments: %v", dropped, err)
	}
	*clock = clock.Add(time.Hour - 100*time.Second) // the first 200 messages are too old
	dropped, err := l.Retain(Retention{MaxAge: always(time.Hour), KeepFrom: keepNothing})
	if err != nil || dropped == 0 || dropped >= before.Segments-1 {
		t.Fatalf("dropped %d of %d segments: %v", dropped, before.Segments, err)
	}
	var firsts [2]int64
	check := func() {
		t.Helper()
		for q := range uint32(2) {
			first, end := l.Bounds(QueueKey{testTopic, q})
			if end != n/2 || first == 0 || first > 100 {
				t.Fatalf("queue %d has %d to %d", q, first, end)
			}
			if firsts[q] != 0 && firsts[q] != first {
				t.Fatalf("queue %d began at %d and begins at %d", q, firsts[q], first)
			}
			firsts[q] = first
			wantQueue(t, l, q, first, end)
			b, err := l.Read(QueueKey{testTopic, q}, first-1, 1<<20, 0)
			if !errors.Is(err, ErrOutOfRange) || b.Min != first || b.End != end {
				t.Fatalf("below the first: %+v, %v", b, err)
			}
		}
	}
	check()
	mustClose(t, l)
	l = mustOpen(t, dir, o)
	check()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) != l.Status().Segments {
		t.Errorf("%d files for %d segments: %v", len(files), l.Status().Segments, err)
	}
	if c := mustAppend(t, l, messages(0, n/2, 1, 10)); c.BaseOffset != n/2 || c.Index != n+1 {
		t.Errorf("after retention got offset %d index %d", c.BaseOffset, c.Index)
	}
}

// TestRetain_Holds has a reason against dropping in each case, and everything is
// old.
func TestRetain_Holds(t *testing.T) {
	l, clock, _ := aged(t, t.TempDir(), 200)
	*clock = clock.Add(1000 * time.Hour)
	old := always(time.Hour)
	for name, r := range map[string]Retention{
		"for ever":             {MaxAge: never, KeepFrom: keepNothing},
		"the views need it":    {MaxAge: old, KeepFrom: 1},
		"a group needs it":     {MaxAge: old, KeepFrom: keepNothing, NeededFrom: func(QueueKey) int64 { return 0 }},
		"forced, views need":   {MaxAge: old, KeepFrom: 1, Force: true},
		"too large, group":     {MaxAge: never, MaxBytes: 1, KeepFrom: keepNothing, NeededFrom: func(QueueKey) int64 { return 0 }},
		"not larger than that": {MaxAge: never, MaxBytes: 1 << 40, KeepFrom: keepNothing},
	} {
		if dropped, err := l.Retain(r); dropped != 0 || err != nil {
			t.Errorf("%s: dropped %d: %v", name, dropped, err)
		}
	}
	if dropped, err := l.Retain(Retention{MaxAge: never, KeepFrom: keepNothing, Force: true}); dropped != 1 || err != nil {
		t.Errorf("forced: dropped %d, want 1: %v", dropped, err)
	}
	limit := l.Status().DiskBytes - 1
	if dropped, err := l.Retain(Retention{MaxAge: never, MaxBytes: limit, KeepFrom: keepNothing}); dropped != 1 || err != nil {
		t.Errorf("too large: dropped %d, want 1: %v", dropped, err)
	}
	if _, err := l.Retain(Retention{MaxAge: old, KeepFrom: keepNothing}); err != nil || l.Status().Segments != 2 {
		t.Errorf("%d segments are left, want the newest sealed one and the active one: %v", l.Status().Segments, err)
	}
	for q := range uint32(2) {
		first, end := l.Bounds(QueueKey{testTopic, q})
		wantQueue(t, l, q, first, end)
	}
}

// TestRetain_UnreadableSegment: a segment that nobody can read goes when it may go
// whatever is in it, and holds up nothing for ever.
func TestRetain_UnreadableSegment(t *testing.T) {
	dir := t.TempDir()
	l, clock, o := aged(t, dir, 300)
	first, last := l.catalog.segments()[0].path, l.Status().LastIndex
	mustClose(t, l)
	if err := os.WriteFile(first, make([]byte, 128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Position = last // else the damage is found by the views
	l = mustOpen(t, dir, o)
	*clock = clock.Add(2 * time.Hour)
	known := func(u Unknown) func() Unknown { return func() Unknown { return u } }
	old := Retention{MaxAge: always(time.Minute), KeepFrom: keepNothing}
	for name, change := range map[string]func(*Retention){
		"nobody says":            func(r *Retention) { r.MaxBytes = 1 },
		"some topic for ever":    func(r *Retention) { r.Unknown = known(Unknown{}) },
		"some topic for longer":  func(r *Retention) { r.Unknown = known(Unknown{MaxAge: 3 * time.Hour}) },
		"some group may need it": func(r *Retention) { r.Unknown, r.MaxBytes = known(Unknown{MaxAge: time.Hour, Needed: true}), 1 },
		"the views need it":      func(r *Retention) { r.Unknown, r.KeepFrom = known(Unknown{MaxAge: time.Hour}), 1 },
	} {
		r := old
		change(&r)
		if n, err := l.Retain(r); n != 0 || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: dropped %d: %v", name, n, err)
		}
	}
	r := old
	r.Unknown = known(Unknown{MaxAge: time.Hour})
	if n, err := l.Retain(r); n < 2 || err != nil {
		t.Errorf("dropped %d: %v", n, err)
	}
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unreadable segment is still there: %v", err)
	}
	for q := range uint32(2) {
		from, end := l.Bounds(QueueKey{testTopic, q})
		wantQueue(t, l, q, from, end)
	}
}

func TestRetain_ClockThatStepsBack(t *testing.T) {
	l, clock, _ := aged(t, t.TempDir(), 100)
	*clock = time.Unix(0, 0)
	if dropped, err := l.Retain(Retention{MaxAge: always(time.Hour), KeepFrom: keepNothing}); dropped != 0 || err != nil {
		t.Errorf("dropped %d: %v", dropped, err)
	}
	mustAppend(t, l, messages(0, 50, 1, 10))
	wantQueue(t, l, 0, 0, 51)
}

func TestRetain_CrashBetweenManifestAndUnlink(t *testing.T) {
	dir := t.TempDir()
	l, clock, o := aged(t, dir, 200)
	oldest := l.catalog.segments()[0]
	saved, err := os.ReadFile(oldest.path)
	if err != nil {
		t.Fatal(err)
	}
	*clock = clock.Add(time.Hour)
	if dropped, err := l.Retain(Retention{MaxAge: never, Force: true, KeepFrom: keepNothing}); dropped != 1 || err != nil {
		t.Fatalf("dropped %d: %v", dropped, err)
	}
	mustClose(t, l)
	if err := os.WriteFile(oldest.path, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, dir, o)
	if _, err := os.Stat(oldest.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dropped segment is still there: %v", err)
	}
	first, end := l.Bounds(QueueKey{testTopic, 0})
	wantQueue(t, l, 0, first, end)
}

func TestCheckDisk_RefusesAndResumesWithHysteresis(t *testing.T) {
	var used, free atomic.Int64
	used.Store(50)
	free.Store(1 << 30)
	o := small()
	o.DiskUse = func(string) (int, int64, error) { return int(used.Load()), free.Load(), nil }
	l := mustOpen(t, t.TempDir(), o)
	for i, c := range []struct {
		used    int64
		free    int64
		level   DiskLevel
		refuses bool
	}{
		{50, 1 << 30, DiskOK, false}, {75, 1 << 30, DiskWarn, false}, {85, 1 << 30, DiskClean, false},
		{90, 1 << 30, DiskRefuse, true}, {89, 1 << 30, DiskRefuse, true}, {88, 1 << 30, DiskRefuse, true},
		{87, 1 << 30, DiskClean, false}, {89, 1 << 30, DiskClean, false},
		{99, 1 << 40, DiskOK, false}, // a tenth of a large disk is plenty
	} {
		used.Store(c.used)
		free.Store(c.free)
		level, err := l.CheckDisk()
		_, appendErr := appendWait(t, l, messages(0, i, 1, 10))
		if err != nil || level != c.level || errors.Is(appendErr, ErrDiskFull) != c.refuses || (appendErr != nil) != c.refuses {
			t.Errorf("step %d, %d%% used: level %d, append %v, %v", i, c.used, level, appendErr, err)
		}
		if _, err := appendWait(t, l, Record{Type: OffsetsRecord}); err != nil {
			t.Errorf("step %d: consumers cannot commit: %v", i, err)
		}
		for _, kind := range []Type{TimerRecord, HalfRecord} { // they hold messages
			if _, err := appendWait(t, l, Record{Type: kind}); errors.Is(err, ErrDiskFull) != c.refuses {
				t.Errorf("step %d: record of type %d: %v", i, kind, err)
			}
		}
	}
}

func TestOptions_WatermarksMustRise(t *testing.T) {
	for _, w := range []Watermarks{{Warn: 95}, {Clean: 95}, {Refuse: 101}, {Warn: -1}} {
		if _, err := Open(t.TempDir(), Options{Watermarks: w}); err == nil {
			t.Errorf("%+v: no error", w)
		}
	}
}

// TestRetain_QueuesEndWhereTheyEnded after everything of a queue was dropped and
// the log was opened again, however few segments are left.
func TestRetain_QueuesEndWhereTheyEnded(t *testing.T) {
	dir := t.TempDir()
	quiet := messages(9, 0, 5, 10)
	o := small()
	o.Now = func() time.Time { return time.Unix(1_000_000, 0) }
	l := mustOpen(t, dir, o)
	mustAppend(t, l, quiet)
	mustClose(t, l)
	l, clock, o := aged(t, dir, 200)
	*clock = clock.Add(time.Hour)
	if dropped, err := l.Retain(Retention{MaxAge: always(time.Minute), KeepFrom: keepNothing}); dropped == 0 || err != nil {
		t.Fatalf("dropped %d: %v", dropped, err)
	}
	for range 2 {
		if first, end := l.Bounds(QueueKey{testTopic, 9}); first != 5 || end != 5 {
			t.Errorf("the quiet queue has %d to %d, want 5 to 5", first, end)
		}
		mustClose(t, l)
		l = mustOpen(t, dir, o)
	}
	if c := mustAppend(t, l, messages(9, 5, 1, 10)); c.BaseOffset != 5 {
		t.Errorf("the quiet queue goes on at %d, want 5", c.BaseOffset)
	}
}

func TestTrim_HidesWhatIsBelow(t *testing.T) {
	dir := t.TempDir()
	l, clock, o := aged(t, dir, 200)
	q := QueueKey{testTopic, 0}
	want := func(first int64) {
		t.Helper()
		if got, end := l.Bounds(q); got != first || end != 100 {
			t.Fatalf("got %d to %d, want %d to 100", got, end, first)
		}
		wantQueue(t, l, 0, first, 100)
		if b, err := l.Read(q, first-1, 1<<20, 0); !errors.Is(err, ErrOutOfRange) || b.Min != first {
			t.Fatalf("below the first: %+v, %v", b, err)
		}
	}
	l.Trim(q, 50)
	want(50)
	l.Trim(q, 20)
	want(50) // it never falls
	if at, err := l.OffsetAt(q, 0); at != 50 || err != nil {
		t.Errorf("the first message of all times: %d, %v", at, err)
	}
	if _, err := l.StoredAt(q, 49); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("a hidden message was stored: %v", err)
	}
	if dropped, err := l.Retain(Retention{MaxAge: never, Force: true, KeepFrom: keepNothing}); dropped != 1 || err != nil {
		t.Fatalf("dropped %d: %v", dropped, err)
	}
	want(50) // the segment ended below that
	wantQueue(t, l, 1, mustBound(l, 1), 100)

	*clock = clock.Add(time.Hour)
	mustClose(t, l)
	l = mustOpen(t, dir, o)
	first := mustBound(l, 0)
	if first == 0 || first >= 50 {
		t.Errorf("opened again the queue begins at %d, want where its segment does", first)
	}
	l.Trim(q, first-1)
	if got := mustBound(l, 0); got != first {
		t.Errorf("trimming below the first offset moved it to %d", got)
	}
	l.Trim(q, 1000)
	if first := mustBound(l, 0); first != 100 {
		t.Errorf("trimmed beyond the end the queue begins at %d, want its end", first)
	}
	l.Trim(QueueKey{99, 0}, 7)
	if first, end := l.Bounds(QueueKey{99, 0}); first != 0 || end != 0 {
		t.Errorf("a queue that is not there has %d to %d", first, end)
	}
	mustAppend(t, l, messages(0, 100, 1, 10))
	wantQueue(t, l, 0, 100, 101)
}

func mustBound(l *Log, queue uint32) int64 {
	first, _ := l.Bounds(QueueKey{testTopic, queue})
	return first
}

func TestFirstIndex(t *testing.T) {
	dir := t.TempDir()
	if first, err := FirstIndex(dir); first != 1 || err != nil {
		t.Errorf("no log: %d, %v", first, err)
	}
	l, _, _ := aged(t, dir, 200)
	if first, err := FirstIndex(dir); first != 1 || err != nil {
		t.Errorf("a whole log: %d, %v", first, err)
	}
	if dropped, err := l.Retain(Retention{MaxAge: never, Force: true, KeepFrom: keepNothing}); dropped != 1 || err != nil {
		t.Fatalf("dropped %d: %v", dropped, err)
	}
	if first, err := FirstIndex(dir); first != l.Status().FirstIndex || first == 1 || err != nil {
		t.Errorf("got %d, want %d: %v", first, l.Status().FirstIndex, err)
	}
	if err := os.WriteFile(filepath.Join(dir, manifestName), []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FirstIndex(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged manifest: %v", err)
	}
}

// TestRetain_UnderReaders drops and trims all the time while others read: they
// get messages, or hear that an offset is out of range, and nothing else.
func TestRetain_UnderReaders(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	q := QueueKey{testTopic, 0}
	mustAppend(t, l, messages(0, 0, 1, 3000))
	done := make(chan struct{})
	var readers sync.WaitGroup
	read := func(one func(first, end int64) error) {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := one(l.Bounds(q)); err != nil && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
					return
				}
			}
		})
	}
	read(func(first, _ int64) error { _, err := l.Read(q, first, 1<<20, 0); return err })
	read(func(first, end int64) error { _, err := l.Read(q, (first+end)/2, 1, 0); return err })
	read(func(first, _ int64) error { _, err := l.StoredAt(q, first); return err })
	read(func(int64, int64) error { _, err := l.Record(l.Status().FirstIndex); return err })
	read(func(int64, int64) error { _, err := l.ByKey(testTopic, "none", 0, 0); return err })
	read(func(int64, int64) error { _, err := l.OffsetAt(q, 0); return err })
	const n = 150
	for i := 1; i < n; i++ {
		mustAppend(t, l, messages(0, i, 1, 3000))
		if _, err := l.Retain(Retention{MaxAge: never, Force: i%5 == 0, KeepFrom: keepNothing}); err != nil {
			t.Fatal(err)
		}
		if i%7 == 0 {
			first, end := l.Bounds(q)
			l.Trim(q, (3*first+end)/4)
		}
	}
	close(done)
	readers.Wait()
	if first, end := l.Bounds(q); first == 0 || end != n {
		t.Errorf("the queue has %d to %d of %d messages", first, end, n)
	}
	if l.Status().FirstIndex == 1 {
		t.Error("nothing was dropped")
	}
}
