package store

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// Pick hands records from the log index from on and before another one, in log
// order, to visit while it wants more: those that want picks, which sees all of a
// record but its data. It returns the index behind the last record that it has
// looked at; what the log has dropped it passes over. A chunk of which nothing is
// picked is not checked, and its data is not read. A chunk or segment that cannot be
// read is told of once, with the index where it begins. Data is valid during the call
// only; neither want nor visit may wait for the log, or read it.
func (l *Log) Pick(from, before uint64, want func(*Committed) bool, visit func(Committed, error) (more bool)) (next uint64) {
	p := picking{next: from, more: true, want: want, visit: visit}
	l.pickFrom(l.catalog.segments(), min(before, l.catalog.lastIndex()+1), &p)
	return p.next
}

// pickFrom looks at segments that were the log's, before the index before.
func (l *Log) pickFrom(segments []*segment, before uint64, p *picking) {
	for i, s := range segments {
		end := before
		if i+1 < len(segments) {
			end = min(end, segments[i+1].info.First)
		}
		if !p.more || max(p.next, s.info.First) >= end {
			continue
		}
		p.next = max(p.next, s.info.First)
		if err := s.pick(p, end); err != nil {
			if l.dropped(s) {
				err = fmt.Errorf("%w: the log has no record %d any more", ErrOutOfRange, p.next)
			}
			p.fail(err, end)
		}
	}
}

// picking is how far Pick has come.
type picking struct {
	next  uint64 // the index of the record to look at
	more  bool
	want  func(*Committed) bool
	visit func(Committed, error) bool
}

// fail tells of what cannot be read, which ends before an index.
func (p *picking) fail(err error, end uint64) {
	p.more = p.visit(Committed{Index: p.next}, err)
	p.next = end
}

// pick looks at the segment's records before the index end.
func (s *segment) pick(p *picking, end uint64) error {
	return s.view(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		if log == nil {
			return fmt.Errorf("%w: %s has no log", ErrDamaged, s.path)
		}
		c := log.Cursor()
		key, value := seekBefore(c, indexBytes(p.next))
		for ; p.more && p.next < end; key, value = c.Next() {
			if len(key) != 8 || value != nil || binary.BigEndian.Uint64(key) > p.next {
				return fmt.Errorf("%w: %s has no chunk with record %d", ErrDamaged, s.path, p.next)
			}
			b := log.Bucket(key)
			p.chunk(s.path, &chunk{first: binary.BigEndian.Uint64(key), data: b.Get(dataKey), index: b.Get(indexKey)}, end)
		}
		return nil
	})
}

// chunk looks at the records of a chunk before the index end. The chunk is checked
// when the first one is picked.
func (p *picking) chunk(path string, c *chunk, end uint64) {
	checked := false
	end = min(end, c.next())
	for p.more && p.next < end {
		i := int(p.next - c.first)
		if r := c.row(i).Committed; !p.want(&r) {
			p.next++
			continue
		}
		if !checked {
			if _, err := decodeChunk(c.first, c.data, c.index, previousChecksum(c.index)); err != nil {
				p.fail(fmt.Errorf("%s: %w", path, err), end)
				return
			}
			checked = true
		}
		p.more = p.visit(c.record(i), nil)
		p.next++
	}
}
