package store

import (
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// TestOpen_SegmentThatCouldNotBeSealed opens a log in which a failed write kept
// a segment from being sealed when it was full, and later ones were sealed: the
// queues end where they ended.
func TestOpen_SegmentThatCouldNotBeSealed(t *testing.T) {
	dir, o := t.TempDir(), Options{FirstSegmentBytes: 96 << 10, SegmentBytes: 96 << 10}
	l := mustOpen(t, dir, o)
	ends := map[uint32]int64{}
	for len(l.catalog.segments()) < 4 {
		for _, q := range []uint32{9, uint32(len(l.catalog.segments()))} { // one queue in all segments, one in each
			mustAppend(t, l, messages(q, int(ends[q]), 2, 1500))
			ends[q] += 2
		}
	}
	mustClose(t, l)
	m, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	sealed := slices.IndexFunc(m.Segments, func(i segmentInfo) bool { return !i.Sealed })
	if sealed < 3 {
		t.Fatalf("%d sealed segments, want 3", sealed)
	}
	for i := range sealed - 1 {
		changed := m
		changed.Segments = slices.Clone(m.Segments)
		s := &changed.Segments[i]
		s.Sealed, s.Last, s.LastChain, s.LastMillis = false, 0, 0, 0
		if err := changed.write(dir); err != nil {
			t.Fatal(err)
		}
		l := mustOpen(t, dir, o)
		for q, end := range ends {
			wantQueue(t, l, q, 0, end)
		}
		if _, sealed := l.catalog.segments()[i].sealedInfo(); !sealed {
			t.Errorf("segment %d was not sealed", i)
		}
		mustClose(t, l)
	}
}

// TestLog_NoRoomForASegment takes the room for the next segment away and gives
// it back: the log refuses when the active one is full, says what it lacks, does
// not fill what is left of the disk, and goes on by itself.
func TestLog_NoRoomForASegment(t *testing.T) {
	dir, o := t.TempDir(), small()
	var free atomic.Int64
	free.Store(math.MaxInt64)
	o.DiskUse = func(string) (int, int64, error) { return 0, free.Load(), nil }
	l := mustOpen(t, dir, o)
	free.Store(1000)
	var refusal error
	next := 0
	for ; refusal == nil && next < 1000; next++ {
		_, refusal = appendWait(t, l, messages(0, next, 1, 2000))
	}
	next-- // it was refused
	if !errors.Is(refusal, ErrNoSpace) || !strings.Contains(refusal.Error(), "1000 bytes free") {
		t.Fatalf("got %v, want ErrNoSpace and how much is free", refusal)
	}
	if _, err := os.Stat(l.path(preparedName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a segment was begun: %v", err)
	}
	if s := l.Status(); !errors.Is(s.Refusing, ErrNoSpace) || s.Segments != 1 {
		t.Errorf("status %+v", s)
	}
	free.Store(math.MaxInt64)
	eventually(t, func() bool { return l.Status().Refusing == nil })
	mustAppend(t, l, messages(0, next, 1, 2000))
	wantQueue(t, l, 0, 0, int64(next)+1)
}
