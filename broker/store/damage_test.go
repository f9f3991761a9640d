package store

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is a small log with sealed segments and an active one, and how many
// messages each queue has.
func sample(t testing.TB) (dir string, ends [3]int64) {
	t.Helper()
	return sampleOf(t, 60, func(int) int { return 1500 })
}

// sampleOf has so many batches, whose messages have the size that is said for
// each.
func sampleOf(t testing.TB, batches int, size func(i int) int) (dir string, ends [3]int64) {
	t.Helper()
	dir = t.TempDir()
	l := mustOpen(t, dir, Options{FirstSegmentBytes: 96 << 10, SegmentBytes: 96 << 10})
	for i := range batches {
		q := i % 3
		mustAppend(t, l, messages(uint32(q), int(ends[q]), 2, size(i)))
		ends[q] += 2
		if i%10 == 0 {
			mustAppend(t, l, Record{Type: GroupRecord, Data: []byte("a group")})
		}
	}
	mustClose(t, l)
	return dir, ends
}

// copyDir copies a log, which may be open but at rest. Temporary files are left out: a
// start removes them, and an open log may rename them meanwhile.
func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// outcome opens a log that something was done to and reads all of it: found is
// an error that says so, served means that everything is there as it was. What
// is neither is an error of the test: something wrong was served.
func outcome(t testing.TB, dir string, ends [3]int64) (found error) {
	t.Helper()
	l, err := Open(dir, Options{FirstSegmentBytes: 96 << 10, SegmentBytes: 96 << 10})
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerVersion) {
			t.Fatalf("open: %v: not a typed error", err)
		}
		return err
	}
	defer l.Close()
	for q, end := range ends {
		// A damaged range is refused; what comes after it is served.
		for next := int64(0); next < end; {
			got, err := readAll(l, uint32(q), next)
			switch {
			case err != nil && !errors.Is(err, ErrDamaged):
				t.Fatalf("queue %d at %d: %v", q, got, err)
			case err != nil:
				found, next = err, got+1
			case got != end:
				t.Fatalf("queue %d has %d messages, it had %d", q, got, end)
			default:
				next = got
			}
		}
	}
	return found
}

// files lists what a log is made of.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".tmp") {
			names = append(names, d.Name())
		}
		return err
	})
	if err != nil || len(names) < 4 {
		t.Fatalf("%v: %v", names, err)
	}
	return names
}

// change rewrites one file of a copy of the sample and returns the outcome.
func change(t testing.TB, dir string, ends [3]int64, name string, f func([]byte) []byte) error {
	t.Helper()
	copied := copyDir(t, dir)
	defer os.RemoveAll(copied)
	path := filepath.Join(copied, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(b), 0o600); err != nil {
		t.Fatal(err)
	}
	return outcome(t, copied, ends)
}

func TestLog_FlippedBitIsFoundOrHarmless(t *testing.T) {
	dir, ends := sample(t)
	if err := outcome(t, copyDir(t, dir), ends); err != nil {
		t.Fatalf("the sample itself: %v", err)
	}
	const perFile = 250
	for _, name := range files(t, dir) {
		found := 0
		for i := range perFile {
			if err := change(t, dir, ends, name, func(b []byte) []byte {
				at := flipAt(b, i, perFile)
				b[at/8] ^= 1 << (at % 8)
				return b
			}); err != nil {
				found++
			}
		}
		t.Logf("%s: %d of %d flips found, the others were in bytes that hold nothing", name, found, perFile)
		if found == 0 {
			t.Errorf("no flip in %s was found", name)
		}
	}
}

// flipAt picks a bit: half of the picks are among the bytes that are not zero,
// where the structure is, and they are spread over the whole file.
func flipAt(b []byte, i, n int) int {
	step := len(b) * 8 / n
	at := i*step + rand.IntN(max(step, 1))
	for k := 0; i%2 == 0 && k < len(b) && b[at/8] == 0; k++ {
		at = (at + 8) % (len(b) * 8)
	}
	return at
}

func TestLog_CutFileIsFound(t *testing.T) {
	dir, ends := sample(t)
	for _, name := range files(t, dir) {
		for _, cut := range []float64{0, 0.02, 0.3, 0.6, 0.99} {
			err := change(t, dir, ends, name, func(b []byte) []byte { return b[:int(cut*float64(len(b)))] })
			// The last part of a segment may hold nothing.
			if err == nil && cut < 0.5 {
				t.Errorf("%s cut to %.0f%%: not found", name, 100*cut)
			}
		}
	}
}

func TestLog_ZeroedFileIsFound(t *testing.T) {
	dir, ends := sample(t)
	for _, name := range files(t, dir) {
		if err := change(t, dir, ends, name, func(b []byte) []byte { return make([]byte, len(b)) }); err == nil {
			t.Errorf("%s full of zeros: not found", name)
		}
		for page := range 24 {
			change(t, dir, ends, name, func(b []byte) []byte {
				if at := page * 4096; at+4096 <= len(b) {
					clear(b[at : at+4096])
				}
				return b
			})
		}
	}
}

func TestLog_MissingFileIsFound(t *testing.T) {
	dir, ends := sample(t)
	for _, name := range files(t, dir) {
		copied := copyDir(t, dir)
		if err := os.Remove(filepath.Join(copied, name)); err != nil {
			t.Fatal(err)
		}
		if err := outcome(t, copied, ends); err == nil {
			t.Errorf("%s missing: not found", name)
		}
	}
}

// TestLog_SwappedSegmentIsFound puts a segment of another log in a segment's
// place.
func TestLog_SwappedSegmentIsFound(t *testing.T) {
	dir, ends := sample(t)
	other, _ := sample(t)
	for _, name := range files(t, dir) {
		b, err := os.ReadFile(filepath.Join(other, name))
		if err != nil || !strings.HasSuffix(name, ".seg") {
			continue
		}
		if err := change(t, dir, ends, name, func([]byte) []byte { return b }); err == nil {
			t.Errorf("%s of another log: not found", name)
		}
	}
}

func TestLog_NewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	mustAppendClosed(t, dir, 1)
	m, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Version = formatVersion + 1
	if err := m.write(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNewerVersion) {
		t.Fatalf("got %v, want ErrNewerVersion", err)
	}
}

func TestLockDir_NamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	lock, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockDir(dir)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Fatalf("got %v, want ErrLocked with the process id", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestLog_CrashWhileCreatingOrRolling leaves each file that a crash can leave
// behind, and expects the log to open with all it had.
func TestLog_CrashWhileCreatingOrRolling(t *testing.T) {
	dir, ends := sample(t)
	leave := func(name string) string {
		copied := copyDir(t, dir)
		if err := prepareFile(filepath.Join(copied, name), "", 96<<10, atOnce); err != nil {
			t.Fatal(err)
		}
		return copied
	}
	for _, name := range []string{preparedName, "00000000000000009999.seg"} {
		if err := outcome(t, leave(name), ends); err != nil {
			t.Errorf("%s left behind: %v", name, err)
		}
	}
	fresh := t.TempDir()
	if err := prepareFile(filepath.Join(fresh, segmentInfo{First: 1}.name()), "", 96<<10, atOnce); err != nil {
		t.Fatal(err)
	}
	mustAppendClosed(t, fresh, 1) // a first start that crashed before its manifest
}

// TestLog_DamagedActiveSegmentIsServedReadOnly flips a bit in the middle of the
// segment that was written to: the log opens, serves everything but what the
// bit was in, refuses appends, and does not end early in silence.
func TestLog_DamagedActiveSegmentIsServedReadOnly(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	for i := range 20 {
		mustAppend(t, l, messages(uint32(i%2), i/2, 1, 1500))
	}
	path := l.catalog.segments()[0].path
	mustClose(t, l)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const victim = "q0-4 "
	at := strings.Index(string(b), victim)
	b[at+len(victim)+10] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, dir, small())
	if err := l.Status().Refusing; !errors.Is(err, ErrDamaged) {
		t.Fatalf("refusing %v, want ErrDamaged", err)
	}
	if _, err := appendWait(t, l, messages(0, 10, 1, 10)); !errors.Is(err, ErrDamaged) {
		t.Fatalf("append: got %v, want ErrDamaged", err)
	}
	for q, want := range []map[int64]bool{{4: true}, {}} {
		for offset := range int64(10) {
			b, err := l.Read(QueueKey{testTopic, uint32(q)}, offset, 1, 0)
			if damaged := errors.Is(err, ErrDamaged); damaged != want[offset] || !damaged && (err != nil || b.Next != offset+1) {
				t.Errorf("queue %d offset %d: next %d, %v", q, offset, b.Next, err)
			}
		}
		if _, err := l.Read(QueueKey{testTopic, uint32(q)}, 10, 1, 0); !errors.Is(err, ErrDamaged) {
			t.Errorf("queue %d at its end: got %v, want ErrDamaged: nobody knows whether more was there", q, err)
		}
	}
	mustClose(t, l)
	if after, err := os.ReadFile(path); err != nil || string(after) != string(b) {
		t.Errorf("a damaged file was changed: %v", err)
	}
}
