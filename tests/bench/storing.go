package main

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
)

func (b *bench) storeAlone() scenario {
	var chunk float64
	store := spec{Role: "store", Size: 1024, Window: storeWindow}
	lasting := store
	lasting.Retain = b.cfg.bytes / 4 // new segments are written over dropped ones
	return scenario{
		name: "the store alone",
		sides: []side{
			{"the store, which drops what is old", func(ctx context.Context) (sample, error) {
				m, err := b.onDisk(lasting)(ctx)
				chunk = m["chunkBytes"]
				return m, err
			}},
			{"bbolt commits of chunks of the same size", func(ctx context.Context) (sample, error) {
				return b.onDisk(spec{Role: "chunks", Size: max(int(chunk), 4<<10)})(ctx)
			}},
			{"the store when it is new", b.onDisk(store)},
		},
		rows: []row{
			{number: "10", work: "the store alone, batches of 1 KiB", a: bytesOf(0), b: bytesOf(1), must: 0.75, aim: 0.9},
			{number: "10a", work: "the same, with zeros for each new segment", a: bytesOf(2), b: bytesOf(1)},
		},
	}
}

// bytesWritten compares what goes to the disk with the bodies.
func (b *bench) bytesWritten(size int, must, aim float64) scenario {
	work := "bytes written by commits, " + byteText(size) + " at saturation"
	return scenario{
		name:  "bytes written, " + byteText(size),
		sides: []side{{"rmq", b.writing(size)}},
		rows: []row{
			{number: "12", work: work, against: "payload", a: pick{0, "bytes by commits"}, b: pick{0, "payload bytes"}, must: must, aim: aim, lower: true},
			{number: "12a", work: "zeroing of new segments, " + byteText(size), against: "payload", a: pick{0, "bytes by zeroing"}, b: pick{0, "payload bytes"}, lower: true},
		},
	}
}

func (b *bench) writing(size int) func(context.Context) (sample, error) {
	return func(ctx context.Context) (m sample, err error) {
		dir, err := b.freshDir()
		if err != nil {
			return nil, err
		}
		p, err := b.startRMQ(ctx, dir)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.discard()) }()
		written, zeroed := diskWritten(dir), segmentFiles(dir)
		s := b.bounded(rmqAsync(size))
		s.Addr = p.listen
		o, err := b.load(ctx, s)
		if err != nil {
			return nil, err
		}
		zeroed = segmentFiles(dir) - zeroed // a segment is written once as a whole
		written = diskWritten(dir) - written
		m = s.rates(o)
		m["bytes by zeroing"], m["bytes by commits"] = float64(zeroed), float64(written-zeroed)
		m["payload bytes"] = float64(o.Total) * float64(size)
		return m, nil
	}
}

// segmentFiles is the size of all segments under a directory, also of those that
// are being made.
func segmentFiles(dir string) (n int64) {
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(e.Name(), ".seg") {
			return nil // gone since, or something else
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
