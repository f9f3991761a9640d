package store

import (
	"errors"
	"os"
	"testing"
)

// TestLog_NextSegmentIsFilledAtThePaceOfCommits: the zeros of the next segment come
// as the active one fills, no faster, and are all there in time.
func TestLog_NextSegmentIsFilledAtThePaceOfCommits(t *testing.T) {
	const capacity = 16 << 20
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{FirstSegmentBytes: capacity, SegmentBytes: capacity})
	n := 0
	appendUpTo := func(share float64) {
		t.Helper()
		for float64(n)*(256<<10) < share*capacity {
			mustAppend(t, l, messages(0, n, 1, 256<<10))
			n++
		}
	}
	filled := func() int64 { return fileBytes(l.path(preparedName)) }

	if appendUpTo(askShare / 2); filled() > 0 {
		t.Errorf("%d bytes of the next segment before it is due", filled())
	}
	appendUpTo(0.4)
	eventually(t, func() bool { return filled() > capacity/4 })
	if got := filled(); got > capacity*2/3 {
		t.Errorf("%d bytes of the next segment when 0.4 of %d are used", got, capacity)
	}
	appendUpTo(readyShare + 0.05)
	eventually(t, func() bool { return filled() == capacity })

	appendUpTo(1.5) // the next one is halfway
	mustClose(t, l)
	if _, err := os.Stat(l.path(preparedName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a closed log left a file half filled: %v", err)
	}
	l = mustOpen(t, dir, Options{})
	wantQueue(t, l, 0, 0, int64(n))
}

func TestPace_WaitEndsWithTheWriter(t *testing.T) {
	p := newPace()
	waited := make(chan error)
	go func() { waited <- p.wait(0.5) }()
	p.end()
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
