package store

import (
	"errors"
	"testing"
	"time"
)

// What was found may be dropped before it is read: the reader is told where the
// queue begins, and what stood in the buffer before stays.
func TestFound_DroppedMeanwhileIsOutOfRange(t *testing.T) {
	l, clock, _ := aged(t, t.TempDir(), 300)
	q := QueueKey{testTopic, 0}
	f, err := l.Find(q, 0, 1<<20, 0)
	if err != nil || f.Size == 0 {
		t.Fatalf("got %+v, %v", f, err)
	}
	l.newest.mu.Lock()
	l.newest.limit = 0 // what is in memory can still be read
	l.newest.mu.Unlock()
	l.newest.trim()
	*clock = clock.Add(time.Hour)
	if dropped, err := l.Retain(Retention{MaxAge: always(time.Minute), KeepFrom: keepNothing}); dropped == 0 || err != nil {
		t.Fatalf("dropped %d segments: %v", dropped, err)
	}
	first, _ := l.Bounds(q)
	data, err := f.Append([]byte("before"))
	if !errors.Is(err, ErrOutOfRange) || string(data) != "before" || f.Min != first || f.Next != 0 || f.Size != 0 {
		t.Fatalf("got %d bytes, %v, min %d next %d; the queue begins at %d", len(data), err, f.Min, f.Next, first)
	}
}

// A sealed segment names no more batches than fit, and always one.
func TestFind_SealedSegmentKeepsToTheLimits(t *testing.T) {
	l, _, _ := aged(t, t.TempDir(), 300)
	q := QueueKey{testTopic, 0}
	for _, c := range []struct{ maxBytes, maxCount, want int }{
		{1, 0, 1}, {7000, 0, 2}, {1 << 20, 3, 3}, {7000, 1, 1},
	} {
		f, err := l.Find(q, 2, c.maxBytes, c.maxCount)
		if err != nil || f.Next != int64(2+c.want) {
			t.Fatalf("%d bytes, %d messages: got up to %d, %v, want %d messages from 2", c.maxBytes, c.maxCount, f.Next, err, c.want)
		}
		if cap(f.pieces[0].where) > 8 {
			t.Errorf("%d locations were decoded for %d", cap(f.pieces[0].where), c.want)
		}
		data, err := f.Append(nil)
		if err != nil || len(data) != f.Size {
			t.Fatalf("got %d bytes, %v, want %d", len(data), err, f.Size)
		}
	}
}
