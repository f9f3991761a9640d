package store

import (
	"fmt"
	"log/slog"
	"time"
)

// FlushMode says when an append is acknowledged.
type FlushMode string

// The flush modes, named as in RocketMQ.
const (
	// SyncFlush acknowledges after the commit: the record is on disk. The default.
	SyncFlush FlushMode = "SYNC_FLUSH"
	// AsyncFlush acknowledges messages when they are queued; other records as
	// SyncFlush does. They are committed as soon as the disk is free, within about
	// 10 ms on a disk that keeps up; a crash loses what was queued, and corrupts
	// nothing.
	AsyncFlush FlushMode = "ASYNC_FLUSH"
)

// Options of a log. The zero value of a field means its default.
type Options struct {
	Flush FlushMode // default SyncFlush
	// SegmentBytes is the capacity of a segment; default 256 MiB, at least 64 KiB.
	// The first is FirstSegmentBytes and each next one doubles up to it.
	SegmentBytes      int64
	FirstSegmentBytes int64 // default 16 MiB
	// MaxPendingBytes bounds what waits for the disk; default 64 MiB.
	MaxPendingBytes int64
	// TailBytes bounds the memory that keeps the newest data for readers; default 32 MiB.
	TailBytes int64
	// Position is the index of the last record that the views have applied:
	// Open hands what follows to Apply.
	Position uint64
	// Apply gets every committed record once, in log order, from one goroutine:
	// first, during Open, those after Position; then those appended. It must not
	// call the log's Append and wait for it. An error during Open fails Open;
	// later ones are logged. Data is valid during the call only.
	Apply func(Committed) error
	// Answer calls its argument, which tells those who wait for the records of a
	// commit: what it does around that is done once for all of them. It may be nil.
	Answer func(tell func())
	// Dropped is called, from the writer's goroutine, when what was appended cannot
	// be committed and nothing is appended any more, before those who wait are told.
	// Of an early answer it is the only correction. It may be nil.
	Dropped func()
	// Watermarks of the disk, which CheckDisk goes by.
	Watermarks Watermarks
	// ScrubPause is how long Scrub rests after it has read everything; default 1 h.
	ScrubPause time.Duration
	// DiskUse returns the share of the disk of a directory in use, in percent, and
	// the bytes free; default: what the system says.
	DiskUse func(dir string) (used int, free int64, err error)
	Now     func() time.Time // default time.Now
	Logger  *slog.Logger     // default: none
}

const (
	defaultSegmentBytes      = 256 << 20
	defaultFirstSegmentBytes = 16 << 20
	defaultMaxPendingBytes   = 64 << 20
	defaultTailBytes         = 32 << 20
	minSegmentBytes          = 64 << 10
	// maxCommitBytes is how much one group commit takes: above it bbolt's
	// throughput no longer grows.
	maxCommitBytes = 4 << 20
)

func (o Options) withDefaults() (Options, error) {
	if o.Flush == "" {
		o.Flush = SyncFlush
	}
	o.SegmentBytes = orDefault(o.SegmentBytes, defaultSegmentBytes)
	o.FirstSegmentBytes = min(orDefault(o.FirstSegmentBytes, defaultFirstSegmentBytes), o.SegmentBytes)
	o.MaxPendingBytes = orDefault(o.MaxPendingBytes, defaultMaxPendingBytes)
	o.TailBytes = orDefault(o.TailBytes, defaultTailBytes)
	if o.Apply == nil {
		o.Apply = func(Committed) error { return nil }
	}
	if o.Answer == nil {
		o.Answer = func(tell func()) { tell() }
	}
	if o.ScrubPause == 0 {
		o.ScrubPause = time.Hour
	}
	if o.DiskUse == nil {
		o.DiskUse = diskUse
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if o.Watermarks, err = o.Watermarks.withDefaults(); err != nil {
		return o, err
	}
	if o.Flush != SyncFlush && o.Flush != AsyncFlush {
		return o, fmt.Errorf("flush mode %q: want %s or %s", o.Flush, SyncFlush, AsyncFlush)
	}
	if o.FirstSegmentBytes < minSegmentBytes {
		return o, fmt.Errorf("segment of %d bytes: at least %d are needed", o.FirstSegmentBytes, minSegmentBytes)
	}
	return o, nil
}

func orDefault(v, d int64) int64 {
	if v == 0 {
		return d
	}
	return v
}
