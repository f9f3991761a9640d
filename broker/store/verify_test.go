package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func verifyDir(t *testing.T, dir string) (reports []SegmentReport) {
	t.Helper()
	if err := Verify(t.Context(), dir, func(r SegmentReport) { reports = append(reports, r) }); err != nil {
		t.Fatal(err)
	}
	return reports
}

func TestVerify_CountsAndFindsDamageAndChangesNothing(t *testing.T) {
	dir, ends := sample(t)
	var want int64
	for _, end := range ends {
		want += end
	}
	var messages int64
	reports := verifyDir(t, dir)
	for _, r := range reports {
		messages += r.Messages
		if r.Err != nil {
			t.Errorf("%s: %v", r.Path, r.Err)
		}
	}
	if messages != want || len(reports) < 3 {
		t.Errorf("%d messages in %d segments, want %d", messages, len(reports), want)
	}
	for i, r := range reports {
		copied := copyDir(t, dir)
		path := filepath.Join(copied, filepath.Base(r.Path))
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := findPayload(b)
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for j, r := range verifyDir(t, copied) {
			if (r.Err != nil) != (i == j) || r.Err != nil && !errors.Is(r.Err, ErrDamaged) {
				t.Errorf("bit flipped in segment %d: segment %d: %v", i, j, r.Err)
			}
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(b) {
			t.Errorf("verifying changed %s: %v", path, err)
		}
	}
}

// findPayload is a place within a message's body: a run of dots.
func findPayload(b []byte) int {
	run := 0
	for i, c := range b {
		if c != '.' {
			run = 0
		} else if run++; run == 200 {
			return i - 100
		}
	}
	panic("no body found")
}

func TestVerify_NoManifest(t *testing.T) {
	if err := Verify(t.Context(), t.TempDir(), func(SegmentReport) {}); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want ErrDamaged", err)
	}
}

// TestScrub_FindsDamageWhileTheLogIsUsed damages a sealed segment under an open
// log.
func TestScrub_FindsDamageWhileTheLogIsUsed(t *testing.T) {
	dir, _ := sample(t)
	o := Options{FirstSegmentBytes: 96 << 10, SegmentBytes: 96 << 10}
	l := mustOpen(t, dir, o)
	o.Position = l.Status().LastIndex // the views have it all: opening reads no sealed segment
	mustClose(t, l)
	segments, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(segments[1], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := os.ReadFile(segments[1])
	if err != nil {
		t.Fatal(err)
	}
	at := findPayload(b)
	if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
		t.Fatal(err)
	}
	l = mustOpen(t, dir, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { l.Scrub(ctx); close(done) }()
	eventually(t, func() bool { return len(l.Status().Damaged) == 1 })
	if err := l.Status().Damaged[0]; !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
	cancel()
	<-done
}
