package store

import (
	"encoding/binary"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"github.com/rmqio/rmq/message"
)

// Record returns a record by its log index. ErrOutOfRange when the log has no
// such record, ErrDamaged when it cannot be read.
func (l *Log) Record(index uint64) (r Committed, err error) {
	l.Records([]uint64{index}, func(found Committed, e error) bool {
		r, err = found, e
		r.Data = slices.Clone(r.Data)
		return false
	})
	return r, err
}

// Records hands records, by their log indexes in ascending order, to visit while
// it wants more. Each chunk is read and checked once, however many of its records
// are wanted. Errors are those of Record; what visit gets has the index then, and
// the next record follows all the same. Data is valid during the call only, and
// visit must not wait for the log.
func (l *Log) Records(indexes []uint64, visit func(Committed, error) (more bool)) {
	segments, last := l.catalog.segments(), l.catalog.lastIndex()
	for len(indexes) > 0 {
		i, _ := slices.BinarySearchFunc(segments, indexes[0]+1, func(s *segment, i uint64) int {
			if s.info.First < i {
				return -1
			}
			return 1
		})
		if i == 0 || indexes[0] > last {
			if !visit(Committed{Index: indexes[0]}, fmt.Errorf("%w: the log has no record %d", ErrOutOfRange, indexes[0])) {
				return
			}
			indexes = indexes[1:]
			continue
		}
		end := last + 1
		if i < len(segments) {
			end = min(end, segments[i].info.First)
		}
		n, _ := slices.BinarySearch(indexes, end)
		if !l.recordsOf(segments[i-1], indexes[:n], visit) {
			return
		}
		indexes = indexes[n:]
	}
}

// recordsOf hands over records of one segment, and reports whether visit wants
// more. When reading fails altogether it goes on behind the record where it did.
func (l *Log) recordsOf(s *segment, indexes []uint64, visit func(Committed, error) bool) bool {
	wanted := func(r Committed, err error) bool {
		if err != nil && l.dropped(s) {
			err = fmt.Errorf("%w: the log has no record %d any more", ErrOutOfRange, r.Index)
		}
		return visit(r, err)
	}
	for len(indexes) > 0 {
		n, more, err := s.records(indexes, wanted)
		if err != nil {
			more = wanted(Committed{Index: indexes[n]}, err)
			n++
		}
		if !more {
			return false
		}
		indexes = indexes[n:]
	}
	return true
}

// dropped reports whether retention has taken the segment away.
func (l *Log) dropped(s *segment) bool { return s.info.First < l.catalog.segments()[0].info.First }

// records hands records to visit, and returns how many it did and whether visit
// wants more.
func (s *segment) records(indexes []uint64, visit func(Committed, error) bool) (n int, more bool, err error) {
	more = true
	err = s.view(func(tx *bbolt.Tx) error {
		var ch *chunk
		for more && n < len(indexes) {
			index := indexes[n]
			var err error
			if ch == nil || index >= ch.next() {
				ch, err = s.chunkWith(tx, index)
			}
			r := Committed{Index: index}
			if err == nil {
				r = ch.record(int(index - ch.first))
			}
			more = visit(r, err)
			n++
		}
		return nil
	})
	return n, more, err
}

// chunkWith reads and checks the chunk that a record is in.
func (s *segment) chunkWith(tx *bbolt.Tx, index uint64) (*chunk, error) {
	key, _ := seekBefore(tx.Bucket(logBucket).Cursor(), indexBytes(index))
	if len(key) != 8 {
		return nil, fmt.Errorf("%w: %s has no chunk with record %d", ErrDamaged, s.path, index)
	}
	b := tx.Bucket(logBucket).Bucket(key)
	if b == nil {
		return nil, fmt.Errorf("%w: %s: %x is not a chunk", ErrDamaged, s.path, key)
	}
	first := binary.BigEndian.Uint64(key)
	data, rows, err := s.copyChunk(b)
	if err != nil {
		return nil, err
	}
	ch, err := decodeChunk(first, data, rows, previousChecksum(rows))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	if index >= ch.next() {
		return nil, fmt.Errorf("%w: %s: record %d is missing after chunk %d", ErrDamaged, s.path, index, first)
	}
	return ch, nil
}

// ByKey returns log indexes of batches of a topic that may have a message with
// the key, newest first, below before (0: from the end), at most limit of them
// or, for a limit of 0, all. A hash stands for the key in the index: the caller
// looks whether the key is there. A damaged segment is passed over and its
// error returned beside what the others have.
func (l *Log) ByKey(topic uint64, key string, before uint64, limit int) ([]uint64, error) {
	hash := keyHash(topic, key)
	return l.collect(before, limit, func(s *segment) ([]uint64, error) { return s.byKey(hash) })
}

// ByID is ByKey for a message id.
func (l *Log) ByID(id message.ID) ([]uint64, error) {
	return l.collect(0, 0, func(s *segment) ([]uint64, error) { return s.byID(id) })
}

func (l *Log) collect(before uint64, limit int, ask func(*segment) ([]uint64, error)) (found []uint64, damage error) {
	segments := l.catalog.segments()
	for i := len(segments) - 1; i >= 0 && (limit == 0 || len(found) < limit); i-- {
		if before != 0 && segments[i].info.First >= before {
			continue
		}
		some, err := ask(segments[i])
		if err != nil && damage == nil && !l.dropped(segments[i]) {
			damage = err
		}
		slices.Sort(some)
		some = slices.Compact(some)
		for _, index := range slices.Backward(some) {
			if before == 0 || index < before {
				found = append(found, index)
			}
		}
	}
	if limit > 0 && len(found) > limit {
		found = found[:limit]
	}
	return found, damage
}

func (s *segment) byKey(hash uint64) (found []uint64, err error) {
	if x := s.unsealedKeys(); x != nil {
		return x.byKey(hash), nil
	}
	from := keyRow{hash: hash}.key()
	err = s.sealedRows(hash, from, keyRowBytes, func(b []byte) (more bool) {
		r := readKeyRow(b)
		if r.hash == hash {
			found = append(found, r.index)
		}
		return r.hash <= hash
	})
	return found, err
}

func (s *segment) byID(id message.ID) (found []uint64, err error) {
	if x := s.unsealedKeys(); x != nil {
		return x.byID(id), nil
	}
	instance, counter := id.Instance(), id.Counter()
	err = s.sealedRows(instance, idRow{instance: instance}.key(), idRowBytes, func(b []byte) (more bool) {
		r := readIDRow(b)
		if r.instance == instance && r.low <= counter && counter <= r.high {
			found = append(found, r.index)
		}
		return r.instance < instance || r.instance == instance && r.low <= counter
	})
	return found, err
}

func (s *segment) unsealedKeys() *keyIndex {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keys
}

// sealedRows hands rows of a sealed index to visit, from the block that may hold
// the key from on, while visit wants more, unless the Bloom filter says that
// there is nothing.
func (s *segment) sealedRows(hash uint64, from []byte, rowBytes int, visit func(row []byte) (more bool)) error {
	err := s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(sealBucket)
		if b == nil {
			return fmt.Errorf("%w: the seal is missing", ErrDamaged)
		}
		filter, err := checkCRC(b.Get(bloomKey))
		if err != nil {
			return fmt.Errorf("bloom filter: %w", err)
		}
		if len(filter) == 0 || !bloom(filter).has(hash) {
			return nil
		}
		c := b.Cursor()
		key, value := seekBefore(c, from)
		if len(key) == 0 || key[0] != from[0] {
			key, value = c.Seek(from) // the index begins behind it
		}
		for ; len(key) > 0 && key[0] == from[0]; key, value = c.Next() {
			rows, err := checkRows(key, value, rowBytes)
			if err != nil {
				return err
			}
			for ; len(rows) > 0; rows = rows[rowBytes:] {
				if !visit(rows[:rowBytes]) {
					return nil
				}
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.path, err)
	}
	return err
}
