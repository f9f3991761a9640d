package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/rmqio/rmq/broker/pages"
)

// loader brings the log to the state that is on disk, segment by segment. It
// hands the views what they have not applied, rebuilds the queue index of
// segments that are not sealed, and seals those that a crash left behind.
//
// A damaged segment does not stop it: what can be read of it is taken in, the
// log is then for reading only, and nothing is written to any file.
type loader struct {
	*Log
	writer *writer
	sealed []*segment // so far, oldest first
	ends   bool       // the queues' ends are taken in
}

func (ld *loader) run(m manifest) error {
	ld.writer.next, ld.writer.chain = m.Segments[0].First, m.Segments[0].Chain
	ld.catalog.ends = queueEnds{}
	for i, info := range m.Segments {
		s := &segment{path: ld.path(info.name()), storeID: m.StoreID, info: info, newest: ld.newest}
		ld.catalog.addSegment(s)
		err := ld.load(s, i == len(m.Segments)-1)
		if errors.Is(err, ErrDamaged) {
			err = ld.salvage(s, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (ld *loader) load(s *segment, last bool) error {
	w := ld.writer
	if s.info.First != w.next || s.info.Chain != w.chain {
		return fmt.Errorf("%w: %s begins at %d after checksum %#08x, the segment before it ends at %d with %#08x",
			ErrDamaged, s.path, s.info.First, s.info.Chain, w.next-1, w.chain)
	}
	if s.info.Sealed {
		return ld.loadSealed(s, last)
	}
	if err := ld.loadEnds(); err != nil {
		return err
	}
	if err := ld.loadUnsealed(s); err != nil || ld.damage != nil {
		return err
	}
	if !last {
		return ld.seal(sealJob{segment: s, ends: ld.catalog.copyEnds(), last: w.next - 1, chain: w.chain, millis: ld.tail.millis})
	}
	w.active = s
	return nil
}

// loadSealed believes the manifest about a sealed segment. The file is opened
// only if the views lack something of it.
func (ld *loader) loadSealed(s *segment, last bool) error {
	ld.sealed = append(ld.sealed, s)
	ld.writer.next, ld.writer.chain = s.info.Last+1, s.info.LastChain
	ld.tail.millis = max(ld.tail.millis, s.info.LastMillis)
	ld.catalog.last, ld.catalog.millis = s.info.Last, s.info.LastMillis
	if last {
		return fmt.Errorf("%w: %s is sealed and no segment follows", ErrDamaged, s.path)
	}
	if ld.ends {
		if err := ld.takeEnds(s); err != nil {
			return err
		}
	}
	if s.info.Last <= ld.opts.Position {
		return nil
	}
	_, _, err := s.read(pages.Newest, ld.replay)
	return err
}

// takeEnds takes the queues' ends from a sealed segment behind one that is not
// sealed: a failed write kept that one from being sealed when it was full.
func (ld *loader) takeEnds(s *segment) error {
	ends, err := s.sealedEnds()
	switch {
	case err == nil:
		ld.catalog.ends = ends
	case errors.Is(err, ErrDamaged):
		ld.found(s, err)
		s.readable(ld.catalog.advance)
	default:
		return err
	}
	return nil
}

// loadEnds takes the queues' ends from the newest sealed segment. When that one
// is damaged the ones before it are asked, and its readable chunks added.
func (ld *loader) loadEnds() error {
	if ld.ends {
		return nil
	}
	ld.ends = true
	for i := len(ld.sealed) - 1; i >= 0; i-- {
		ends, err := ld.sealed[i].sealedEnds()
		if err == nil {
			ld.catalog.ends = ends
			for _, later := range ld.sealed[i+1:] {
				later.readable(ld.catalog.advance)
			}
			return nil
		}
		if !errors.Is(err, ErrDamaged) {
			return err
		}
		ld.found(ld.sealed[i], err)
	}
	for _, s := range ld.sealed {
		s.readable(ld.catalog.advance)
	}
	return nil
}

// found notes damage.
func (ld *loader) found(s *segment, what error) {
	ld.logger.Error("damaged segment: the log is for reading only", "path", s.path, "err", what)
	if ld.damage == nil {
		ld.damage = what
	}
	ld.writer.active = nil
	s.openDamaged()
}

func (ld *loader) replay(c *chunk) error {
	for i := range c.rows() {
		r := c.record(i)
		ld.tail.millis = max(ld.tail.millis, r.StoreMillis)
		if r.Index <= ld.opts.Position {
			continue
		}
		if err := ld.opts.Apply(r); err != nil {
			return fmt.Errorf("apply record %d: %w", r.Index, err)
		}
	}
	return nil
}

// loadUnsealed verifies a segment, and rebuilds from it the queue index and the
// queues' ends. A last commit that is not whole was cut short by a crash, unless
// the views or the next segment know more than what was before it.
func (ld *loader) loadUnsealed(s *segment) error {
	if err := ld.recover(s); err != nil {
		return err
	}
	s.index, s.keys = newQueueIndex(), &keyIndex{}
	next, chain, err := s.read(pages.Newest, func(c *chunk) error { return ld.takeIn(s, c) })
	if err != nil {
		return err
	}
	ld.writer.next, ld.writer.chain = next, chain
	if err := s.openWritable(); err != nil {
		return err
	}
	s.used, err = s.usedBytes()
	return err
}

// recover takes nothing back once damage was found: no file is changed then.
func (ld *loader) recover(s *segment) error {
	if ld.damage != nil {
		return nil
	}
	next, _ := ld.after(s)
	cut, err := s.recover(max(next, ld.opts.Position+1))
	if err == nil {
		ld.tellCut(s, cut)
	}
	return err
}

func (ld *loader) takeIn(s *segment, c *chunk) error {
	if err := s.enter(c); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, s.path, err)
	}
	ld.catalog.advance(c)
	s.rows += int64(c.rows())
	return ld.replay(c)
}

// salvage takes in what can be read of a damaged segment.
func (ld *loader) salvage(s *segment, why error) error {
	ld.found(s, why)
	if !s.info.Sealed {
		s.index, s.keys = newQueueIndex(), &keyIndex{}
	}
	applied, failed := ld.catalog.last, error(nil)
	if s.info.Sealed {
		applied = max(s.info.First, ld.opts.Position+1) - 1
	}
	s.readable(func(c *chunk) {
		if !s.info.Sealed {
			if s.enter(c) == nil {
				ld.catalog.advance(c)
			}
		}
		if failed == nil && c.first > applied {
			failed = ld.replay(c)
		}
	})
	ld.writer.next, ld.writer.chain = ld.after(s)
	return failed
}

// after is where the manifest says that the next segment begins.
func (ld *loader) after(s *segment) (next uint64, chain uint32) {
	segments := ld.manifest.current.Segments
	for _, info := range segments {
		if info.First > s.info.First {
			return info.First, info.Chain
		}
	}
	return max(ld.catalog.last+1, ld.writer.next), ld.writer.chain
}

// openDamaged opens the file of a damaged segment for reading, if its structure
// allows it; else nothing of it can be read.
func (s *segment) openDamaged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		return
	}
	if checkStructure(s.path) != nil {
		return
	}
	if db, err := openFile(s.path, s.info.Capacity, true); err == nil {
		s.db = db
	}
}

// readable hands every chunk that passes its own checksum to visit, whatever
// stands before or after it.
func (s *segment) readable(visit func(*chunk)) {
	var firsts []uint64
	err := s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(logBucket).Cursor()
		for key, _ := c.First(); key != nil; key, _ = c.Next() {
			if len(key) == 8 {
				firsts = append(firsts, binary.BigEndian.Uint64(key))
			}
		}
		return nil
	})
	if err != nil && len(firsts) == 0 {
		return
	}
	for _, first := range firsts {
		var found *chunk
		err := s.view(func(tx *bbolt.Tx) error {
			b := tx.Bucket(logBucket).Bucket(indexBytes(first))
			if b == nil {
				return nil
			}
			data, index, err := s.copyChunk(b)
			if err == nil {
				found, err = decodeChunk(first, data, index, previousChecksum(index))
			}
			return err
		})
		if err == nil && found != nil {
			visit(found)
		}
	}
}
