package store

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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

// TestPrepareFile_IsZeroToItsEnd: whatever the capacity, also one that cannot be
// written past the kernel's cache as a whole.
func TestPrepareFile_IsZeroToItsEnd(t *testing.T) {
	for _, capacity := range []int64{96 << 10, 100_001, 3<<20 + 777} {
		path := filepath.Join(t.TempDir(), "prepared")
		if err := prepareFile(path, "", capacity, atOnce); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || int64(len(b)) != capacity {
			t.Fatalf("%d bytes, want %d: %v", len(b), capacity, err)
		}
		const used = 8 * pageSize // by an empty segment, at most
		if at := bytes.IndexFunc(b[used:], func(r rune) bool { return r != 0 }); at >= 0 {
			t.Errorf("capacity %d: byte %d is not 0", capacity, used+at)
		}
		if err := checkFile(path); err != nil {
			t.Error(err)
		}
	}
}
