package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rmqio/rmq/broker/pages"
	"github.com/rmqio/rmq/message/batch"
)

// SegmentReport is what a look at a whole segment found.
type SegmentReport struct {
	Path    string
	First   uint64 // log index of the first record
	Last    uint64 // of the last one that is intact, in order from the first
	Sealed  bool
	Records int64
	// Messages and Bytes are of the batches that were checked.
	Messages int64
	Bytes    int64
	// Err is what is damaged; nil when everything passed.
	Err error
	// Cut is what is missing of the last commit, when a crash cut that short and the
	// next Open takes it back, unless Options.Position says that it was whole. It is
	// not part of what was checked.
	Cut error
}

// Verify checks every byte of a log that no process has open: the manifest, each
// segment's pages, chunks, their chain, every batch, and the seals. It changes
// nothing. report is called for each segment, in log order; an error of Verify
// itself means that the manifest cannot be read. The caller holds LockDir.
func Verify(ctx context.Context, dir string, report func(SegmentReport)) error {
	m, err := readManifest(dir)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s has no %s", ErrDamaged, dir, manifestName)
	}
	if err != nil {
		return err
	}
	next, chain := m.Segments[0].First, m.Segments[0].Chain
	for i, info := range m.Segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &segment{path: filepath.Join(dir, info.name()), storeID: m.StoreID, info: info}
		r := SegmentReport{Path: s.path, First: info.First, Sealed: info.Sealed}
		if info.First != next || info.Chain != chain {
			r.Err = fmt.Errorf("%w: the manifest says that it begins at %d after checksum %#08x, the segment before ends at %d with %#08x",
				ErrDamaged, info.First, info.Chain, next-1, chain)
		}
		if info.Sealed {
			next, chain, err = info.Last+1, info.LastChain, s.verify(ctx, &r, unpaced)
		} else {
			next, chain, err = s.verifyUnsealed(&r, m.following(i))
		}
		r.Err = errors.Join(r.Err, err)
		report(r)
		if err := s.close(); err != nil {
			return err
		}
	}
	return nil
}

func unpaced(context.Context, int) error { return nil }

// verify checks a sealed segment. pace is called with the bytes of each chunk, and
// may wait.
func (s *segment) verify(ctx context.Context, r *SegmentReport, pace func(context.Context, int) error) error {
	// One transaction for each chunk: a slow look must not keep pages or a lock.
	next, chain := s.info.First, s.info.Chain
	for {
		c, err := s.chunkAt(next, chain)
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
		if err := verifyRecords(c, r); err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
		next, chain = c.next(), c.crc
		r.Last = next - 1
		if err := pace(ctx, len(c.data)+len(c.index)); err != nil {
			return err
		}
	}
	return s.view(func(tx *bbolt.Tx) error { return s.verifyEnd(tx, next, chain) })
}

// verifyUnsealed checks a segment that is not sealed as a start does, and its batches.
// It returns where it ends, or, if it is damaged, where the following one begins. A
// last commit that a crash cut short is no error.
func (s *segment) verifyUnsealed(r *SegmentReport, following segmentInfo) (next uint64, chain uint32, err error) {
	look := func(state pages.State) (SegmentReport, error) {
		found, err := *r, error(nil)
		next, chain, err = s.read(state, func(c *chunk) error {
			if err := verifyRecords(c, &found); err != nil {
				return err
			}
			found.Last = c.next() - 1
			return nil
		})
		return found, err
	}
	newest, err := look(pages.Newest)
	if !errors.Is(err, ErrDamaged) {
		*r = newest
		return next, chain, err
	}
	before, failed := look(pages.Previous)
	if failed != nil || next < following.First {
		*r = newest
		return following.First, following.Chain, err
	}
	*r, r.Cut = before, err
	return next, chain, nil
}

// chunkAt copies the chunk that begins at a log index and checks it; nil when
// there is none and none behind it.
func (s *segment) chunkAt(first uint64, prev uint32) (c *chunk, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		b := log.Bucket(indexBytes(first))
		if b == nil {
			if key, _ := log.Cursor().Seek(indexBytes(first)); key != nil {
				return fmt.Errorf("%w: %s: chunk %d is missing, %x follows", ErrDamaged, s.path, first, key)
			}
			return nil
		}
		data, index, err := s.copyChunk(b)
		if err != nil {
			return err
		}
		if c, err = decodeChunk(first, data, index, prev); err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
		return nil
	})
	return c, err
}

// verifyRecords checks the batches of a chunk against their rows.
func verifyRecords(c *chunk, r *SegmentReport) error {
	for i := range c.rows() {
		row := c.row(i)
		r.Records++
		if row.Type != BatchRecord {
			continue
		}
		data := c.data[row.pos : row.pos+row.len]
		l := location{base: row.BaseOffset, count: row.Count, millis: row.StoreMillis, chunk: c.first, pos: row.pos, len: row.len}
		if err := verify(data, []location{l}); err != nil {
			return err
		}
		if _, err := batch.Check(data); err != nil {
			return fmt.Errorf("%w: record %d: %w", ErrDamaged, row.Index, err)
		}
		r.Messages += int64(row.Count)
		r.Bytes += int64(len(data))
	}
	return nil
}

// verifyEnd checks where a sealed segment ends, and its seal.
func (s *segment) verifyEnd(tx *bbolt.Tx, next uint64, chain uint32) error {
	if last := tx.Bucket(logBucket).Sequence(); last != next-1 {
		return fmt.Errorf("%w: %s: records end at %d, the log was committed up to %d", ErrDamaged, s.path, next-1, last)
	}
	if s.info.LastChain != chain {
		return fmt.Errorf("%w: %s ends with checksum %#08x, the manifest says %#08x", ErrDamaged, s.path, chain, s.info.LastChain)
	}
	b := tx.Bucket(sealBucket)
	if b == nil || b.Get(endsKey) == nil || b.Get(bloomKey) == nil {
		return fmt.Errorf("%w: %s: the seal is missing", ErrDamaged, s.path)
	}
	return b.ForEach(func(key, value []byte) error {
		if _, err := checkCRC(value); err != nil {
			return fmt.Errorf("%s: seal entry %x: %w", s.path, key, err)
		}
		return nil
	})
}

// scrubRate is how many bytes a second the scrubber reads, so that it is not
// noticed: a terabyte in about a day and a half.
const scrubRate = 8 << 20

// Scrub reads sealed segments, one after another and for ever, at a bounded rate,
// until ctx ends. What it finds damaged is logged and in Status.Damaged. One
// goroutine runs it.
func (l *Log) Scrub(ctx context.Context) {
	for {
		for _, s := range l.catalog.segments() {
			if _, sealed := s.sealedInfo(); sealed {
				l.scrub(ctx, s)
			}
			if pause(ctx, time.Second) != nil {
				return
			}
		}
		if pause(ctx, l.opts.ScrubPause) != nil {
			return
		}
	}
}

func (l *Log) scrub(ctx context.Context, s *segment) {
	var r SegmentReport
	err := s.verify(ctx, &r, func(ctx context.Context, n int) error {
		return pause(ctx, time.Duration(n)*time.Second/scrubRate)
	})
	if ctx.Err() != nil || errors.Is(err, ErrClosed) { // dropped by retention meanwhile
		return
	}
	if l.catalog.setDamage(s, err) && err != nil {
		l.logger.Error("damaged segment", "path", s.path, "err", err)
	}
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
