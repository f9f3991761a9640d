package store

import (
	"slices"
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
