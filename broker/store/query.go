package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
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

// Records hands records, by their log indexes, to visit while it wants more. A chunk
// is read and checked once for all of its records that follow one another in the
// list, as they do in ascending or descending order. Errors are those of Record; what
// visit gets has the index then, and the next record follows all the same. Data is
// valid during the call only, and visit must not wait for the log.
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
		from, to := segments[i-1].info.First, last
		if i < len(segments) {
			to = min(to, segments[i].info.First-1)
		}
		n := slices.IndexFunc(indexes, func(index uint64) bool { return index < from || index > to })
		if n < 0 {
			n = len(indexes)
		}
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
		chunks := chunkReader{segment: s, log: tx.Bucket(logBucket)}
		for more && n < len(indexes) {
			r, err := chunks.record(indexes[n])
			more = visit(r, err)
			n++
		}
		return nil
	})
	return n, more, err
}

// chunkReader reads records in a transaction, and keeps the chunk that it has read
// last, or why that cannot be read.
type chunkReader struct {
	*segment
	log   *bbolt.Bucket
	first uint64 // the chunk's first record
	chunk *chunk // nil: err holds
	err   error
}

// record returns a record; with an error, one that has but its index.
func (r *chunkReader) record(index uint64) (Committed, error) {
	if c := r.chunk; c == nil || index < c.first || index >= c.next() {
		key, _ := seekBefore(r.log.Cursor(), indexBytes(index))
		if len(key) != 8 {
			return Committed{Index: index}, fmt.Errorf("%w: %s has no chunk with record %d", ErrDamaged, r.path, index)
		}
		if first := binary.BigEndian.Uint64(key); first != r.first {
			r.first = first
			r.chunk, r.err = r.read(key)
		}
	}
	switch {
	case r.chunk == nil:
		return Committed{Index: index}, r.err
	case index >= r.chunk.next():
		return Committed{Index: index}, fmt.Errorf("%w: %s: record %d is missing after chunk %d", ErrDamaged, r.path, index, r.first)
	}
	return r.chunk.record(int(index - r.chunk.first)), nil
}

// read reads and checks a chunk.
func (r *chunkReader) read(key []byte) (*chunk, error) {
	b := r.log.Bucket(key)
	if b == nil {
		return nil, fmt.Errorf("%w: %s: %x is not a chunk", ErrDamaged, r.path, key)
	}
	data, rows, err := r.copyChunk(b)
	if err != nil {
		return nil, err
	}
	c, err := decodeChunk(r.first, data, rows, previousChecksum(rows))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path, err)
	}
	return c, nil
}

// ByKey returns log indexes of batches of a topic that may have a message with
// the key, newest first, below before (0: from the end), at most limit of them
// or, for a limit of 0, all. A hash stands for the key in the index: the caller
// looks whether the key is there. A damaged segment is passed over and its
// error returned beside what the others have.
func (l *Log) ByKey(topic uint64, key string, before uint64, limit int) ([]uint64, error) {
	hash := keyHash(topic, key)
	if before == 0 {
		before = math.MaxUint64
	}
	return l.collect(before, limit, func(s *segment, limit int) ([]uint64, error) { return s.byKey(hash, before, limit) })
}

// ByID is ByKey for a message id.
func (l *Log) ByID(id message.ID) ([]uint64, error) {
	return l.collect(math.MaxUint64, 0, func(s *segment, _ int) ([]uint64, error) { return s.byID(id) })
}

// collect asks one segment after another, the newest first, until there are as many
// indexes as wanted.
func (l *Log) collect(before uint64, limit int, ask func(s *segment, limit int) ([]uint64, error)) (found []uint64, damage error) {
	for _, s := range slices.Backward(l.catalog.segments()) {
		if s.info.First >= before {
			continue
		}
		left := 0
		if limit > 0 {
			if left = limit - len(found); left == 0 {
				break
			}
		}
		some, err := ask(s, left)
		if err != nil && damage == nil && !l.dropped(s) {
			damage = err
		}
		found = append(found, some...)
	}
	return found, damage
}

// keyRows takes rows of one key, in descending order, until it has enough.
type keyRows struct {
	hash, before uint64
	limit        int // 0: none
	found        []uint64
}

// take reports whether more is wanted.
func (k *keyRows) take(r keyRow) (more bool) {
	if r.hash == k.hash && r.index < k.before && (len(k.found) == 0 || k.found[len(k.found)-1] != r.index) {
		k.found = append(k.found, r.index)
	}
	return k.limit == 0 || len(k.found) < k.limit
}

// byKey returns log indexes of batches that may have the key, newest first.
func (s *segment) byKey(hash, before uint64, limit int) ([]uint64, error) {
	k := keyRows{hash: hash, before: before, limit: limit}
	if x := s.unsealedKeys(); x != nil {
		x.byKey(&k)
		return k.found, nil
	}
	err := s.inSeal(hash, func(b *bbolt.Bucket) error {
		return rowsBefore(b, keyRow{hash, before}.key(), keyRowBytes, func(b []byte) (more bool) {
			r := readKeyRow(b)
			return r.hash >= hash && k.take(r)
		})
	})
	return k.found, err
}

// byID returns log indexes of batches that may have the message, newest first.
func (s *segment) byID(id message.ID) (found []uint64, err error) {
	instance, counter := id.Instance(), id.Counter()
	if x := s.unsealedKeys(); x != nil {
		found = x.byID(id)
	} else {
		err = s.inSeal(instance, func(b *bbolt.Bucket) error {
			return rowsFrom(b, idRow{instance: instance}.key(), idRowBytes, func(b []byte) (more bool) {
				r := readIDRow(b)
				if r.instance == instance && r.low <= counter && counter <= r.high {
					found = append(found, r.index)
				}
				return r.instance < instance || r.instance == instance && r.low <= counter
			})
		})
	}
	slices.SortFunc(found, func(a, b uint64) int { return cmp.Compare(b, a) })
	return slices.Compact(found), err
}

func (s *segment) unsealedKeys() *keyIndex {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.keys
}

// inSeal looks into the key index of a sealed segment, unless the Bloom filter says
// that the hash is not in it.
func (s *segment) inSeal(hash uint64, look func(*bbolt.Bucket) error) error {
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
		return look(b)
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.path, err)
	}
	return err
}

// rowsFrom hands rows of an index to visit in ascending order, from the block that
// may hold the key from on, while visit wants more.
func rowsFrom(b *bbolt.Bucket, from []byte, rowBytes int, visit func(row []byte) (more bool)) error {
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
}

// rowsBefore hands rows of an index to visit in descending order, from the block that
// may hold the key before on, while visit wants more.
func rowsBefore(b *bbolt.Bucket, before []byte, rowBytes int, visit func(row []byte) (more bool)) error {
	c := b.Cursor()
	for key, value := seekBefore(c, before); len(key) > 0 && key[0] == before[0]; key, value = c.Prev() {
		rows, err := checkRows(key, value, rowBytes)
		if err != nil {
			return err
		}
		for ; len(rows) > 0; rows = rows[:len(rows)-rowBytes] {
			if !visit(rows[len(rows)-rowBytes:]) {
				return nil
			}
		}
	}
	return nil
}
