package store

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestRetain_SegmentIsWrittenOver writes, drops and writes, so that new segments
// are made of old files: one file serves again and again, nothing of what it held
// is shown, not by a reopening either, and every check of Verify passes.
func TestRetain_SegmentIsWrittenOver(t *testing.T) {
	dir := t.TempDir()
	l, clock, o := aged(t, dir, 300)
	dropped := fileIDs(t, l)
	n, served := int64(150), 0
	for range 4 {
		*clock = clock.Add(time.Hour)
		if _, err := l.Retain(Retention{MaxAge: always(time.Minute), KeepFrom: keepNothing}); err != nil {
			t.Fatal(err)
		}
		for until := n + 100; n < until; n++ {
			for q := range uint32(2) {
				mustAppend(t, l, messages(q, int(n), 1, 3000))
			}
		}
		for id := range fileIDs(t, l) {
			if dropped[id] {
				served++
			}
		}
		for q := range uint32(2) {
			first, _ := l.Bounds(QueueKey{testTopic, q})
			wantQueue(t, l, q, first, n)
		}
		mustClose(t, l)
		l = mustOpen(t, dir, o)
		for q := range uint32(2) {
			first, _ := l.Bounds(QueueKey{testTopic, q})
			wantQueue(t, l, q, first, n)
		}
	}
	if served == 0 {
		t.Error("no dropped file became a segment")
	}
	mustClose(t, l)
	for _, r := range verifyDir(t, dir) {
		if r.Err != nil {
			t.Errorf("%s: %v", r.Path, r.Err)
		}
	}
}

// fileIDs are the inodes of a log's segments.
func fileIDs(t *testing.T, l *Log) map[uint64]bool {
	t.Helper()
	ids := map[uint64]bool{}
	for _, s := range l.catalog.segments() {
		ids[inode(t, s.path)] = true
	}
	return ids
}

// TestRetain_WhatIsNotKept: a file is not kept to be written over when the disk
// needs its room, or when it was found damaged.
func TestRetain_WhatIsNotKept(t *testing.T) {
	drop := func(t *testing.T, l *Log, clock *time.Time) {
		t.Helper()
		*clock = clock.Add(time.Hour)
		if n, err := l.Retain(Retention{MaxAge: always(time.Minute), KeepFrom: keepNothing}); n == 0 || err != nil {
			t.Fatalf("dropped %d: %v", n, err)
		}
	}
	kept := func(l *Log) bool {
		_, err := os.Stat(l.path(recycledName))
		return !errors.Is(err, os.ErrNotExist)
	}
	var used atomic.Int64
	disk := func(o *Options) {
		o.DiskUse = func(string) (int, int64, error) { return int(used.Load()), 1 << 30, nil }
	}
	t.Run("the disk fills up", func(t *testing.T) {
		l, clock, _ := aged(t, t.TempDir(), 300, disk)
		if drop(t, l, clock); !kept(l) {
			t.Fatal("nothing was kept")
		}
		used.Store(86)
		if level, err := l.CheckDisk(); level != DiskClean || err != nil || kept(l) {
			t.Errorf("level %s, %v, kept %t", level, err, kept(l))
		}
	})
	t.Run("the disk is full", func(t *testing.T) {
		l, clock, _ := aged(t, t.TempDir(), 300, disk)
		if _, err := l.CheckDisk(); err != nil {
			t.Fatal(err)
		}
		if drop(t, l, clock); kept(l) {
			t.Error("a file was kept")
		}
	})
	t.Run("damaged", func(t *testing.T) {
		l, clock, _ := aged(t, t.TempDir(), 300)
		for _, s := range l.catalog.segments() {
			l.catalog.setDamage(s, ErrDamaged)
		}
		if drop(t, l, clock); kept(l) {
			t.Error("a damaged file was kept")
		}
	})
}

// inode tells files apart, whatever their names.
func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
