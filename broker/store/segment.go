package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sync"

	"go.etcd.io/bbolt"
)

// segmentInfo is what the manifest says of a segment.
type segmentInfo struct {
	First    uint64 `json:"first"`    // log index of the first record
	Capacity int64  `json:"capacity"` // bytes
	Chain    uint32 `json:"chain"`    // checksum of the chunk before the first
	Sealed   bool   `json:"sealed"`
	// The following are set when it is sealed.
	Last      uint64 `json:"last,omitempty"`      // log index of the last record
	LastChain uint32 `json:"lastChain,omitempty"` // checksum of the last chunk
	// LastMillis is the last record's store time.
	LastMillis int64 `json:"lastMillis,omitempty"`
}

func (i segmentInfo) name() string { return fmt.Sprintf("%020d.seg", i.First) }

// segment is one file of the log. Reads come from any goroutine; commit comes
// from the writer, seal from the sealer.
type segment struct {
	path    string
	storeID string
	newest  *newestChunks // may have what is in the file; nil: nothing
	// The writer's: how many bytes of the file hold something, and how many rows
	// sealing will write.
	used, rows int64

	mu    sync.RWMutex // held while db is read, and to exchange it
	info  segmentInfo
	db    *database   // nil: sealed and not opened yet
	index *queueIndex // nil: sealed
	keys  *keyIndex   // nil: sealed
	ended bool        // closed for good
}

// segmentMeta is the value "segment" in the bucket meta, with a CRC32C behind it.
type segmentMeta struct {
	Version int    `json:"version"`
	StoreID string `json:"storeId"`
	segmentInfo
}

var segmentKey = []byte("segment")

// activate turns a prepared file into the segment for records from info.First.
// It has its entry before it has its name: whoever finds the name finds all of it.
func activate(dir, prepared, storeID string, info segmentInfo) (*segment, error) {
	s := &segment{path: filepath.Join(dir, info.name()), storeID: storeID, info: info, index: newQueueIndex(), keys: &keyIndex{}}
	value, err := json.Marshal(segmentMeta{Version: formatVersion, StoreID: storeID, segmentInfo: info})
	if err != nil {
		return nil, err
	}
	if s.db, err = openFile(prepared, info.Capacity, false); err != nil {
		return nil, err
	}
	err = s.update(func(tx *bbolt.Tx) error {
		s.used = tx.Size()
		if err := tx.Bucket(logBucket).SetSequence(info.First - 1); err != nil {
			return err
		}
		return tx.Bucket(metaBucket).Put(segmentKey, withCRC(value))
	})
	if err == nil {
		err = rename(prepared, s.path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("activate %s: %w", s.path, err), s.db.Close())
	}
	return s, nil
}

// fits reports whether a chunk of so many bytes can be committed within the
// capacity, with room left for what sealing writes.
func (s *segment) fits(bytes int64) bool {
	const slack = 32 << 10 // pages that a commit rewrites beside the chunk
	return s.used+bytes+slack+s.rows*sealedRowBytes <= s.info.Capacity
}

// usedShare is how much of the capacity is used, from 0 to 1.
func (s *segment) usedShare() float64 {
	return min(float64(s.used)/float64(s.info.Capacity), 1)
}

// commit writes a chunk: when it returns nil the chunk is on disk.
func (s *segment) commit(c *chunk) error {
	return s.syncOnce(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		log.FillPercent = 1.0 // keys only grow
		b, err := log.CreateBucket(indexBytes(c.first))
		if err != nil {
			return err
		}
		b.FillPercent = 1.0
		if err := b.Put(dataKey, c.data); err != nil {
			return err
		}
		if err := b.Put(indexKey, c.index); err != nil {
			return err
		}
		s.used = tx.Size() + int64(len(c.data)+len(c.index))
		s.rows += int64(c.rows())
		return log.SetSequence(c.next() - 1)
	})
}

// isEmpty reports whether the file holds no record.
func (s *segment) isEmpty() (empty bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		if log == nil {
			return fmt.Errorf("%w: %s has no log", ErrDamaged, s.path)
		}
		key, _ := log.Cursor().First()
		empty = key == nil
		return nil
	})
	return empty, err
}

// enter takes a committed chunk into the queue index and the key index. An error
// says that a batch is in the key index in part only.
func (s *segment) enter(c *chunk) error {
	s.index.add(c)
	return s.keys.add(c)
}

// usedBytes is how much of the file holds something.
func (s *segment) usedBytes() (n int64, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		n = tx.Size()
		return nil
	})
	return n, err
}

// checkMeta compares what the file says of itself with the manifest.
func (s *segment) checkMeta(tx *bbolt.Tx) error {
	if err := s.checkEntry(tx.Bucket(metaBucket).Get(segmentKey), tx.Bucket(logBucket).Sequence()); err != nil {
		return fmt.Errorf("%s: %w", s.path, err)
	}
	return nil
}

// checkEntry does so for its entry and the log index of its last record.
func (s *segment) checkEntry(entry []byte, last uint64) error {
	value, err := checkCRC(entry)
	if err != nil {
		return fmt.Errorf("segment entry: %w", err)
	}
	var m segmentMeta
	if err := json.Unmarshal(value, &m); err != nil {
		return fmt.Errorf("%w: segment entry: %v", ErrDamaged, err)
	}
	if m.Version > formatVersion {
		return fmt.Errorf("%w: version %d, known is %d", ErrNewerVersion, m.Version, formatVersion)
	}
	if m.StoreID != s.storeID || m.First != s.info.First || m.Chain != s.info.Chain {
		return fmt.Errorf("%w: it holds records from %d of store %s; the manifest expects %d of %s",
			ErrDamaged, m.First, m.StoreID, s.info.First, s.storeID)
	}
	if s.info.Sealed && last != s.info.Last {
		return fmt.Errorf("%w: it ends at %d; the manifest expects %d", ErrDamaged, last, s.info.Last)
	}
	return nil
}

// view runs fn in a read transaction, opening a sealed file if need be.
func (s *segment) view(fn func(*bbolt.Tx) error) error {
	s.mu.RLock()
	if s.db == nil {
		s.mu.RUnlock()
		if err := s.openSealed(); err != nil {
			return err
		}
		s.mu.RLock()
	}
	defer s.mu.RUnlock()
	if s.db == nil {
		return fmt.Errorf("%s: %w", s.path, ErrClosed)
	}
	return guard(s.path, func() error { return s.db.View(fn) })
}

// reopen closes the file of an unsealed segment, which has records below atLeast,
// and opens it again, after a write failed; readers wait. See recover.
func (s *segment) reopen(atLeast uint64) (cut, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		if err := guard(s.path, s.db.Close); err != nil {
			return nil, err
		}
		s.db = nil
	}
	if cut, err = s.recover(atLeast); err != nil {
		return nil, err
	}
	return cut, s.openWritable()
}

// openWritable checks the file and opens it; mu is held, or nobody else has s.
func (s *segment) openWritable() error {
	if err := checkFile(s.path); err != nil {
		return err
	}
	db, err := openFile(s.path, s.info.Capacity, false)
	if err != nil {
		return err
	}
	s.db = db
	return nil
}

// openSealed checks and opens a sealed file, unless another goroutine did; it
// does nothing for a segment that is closed, or not sealed and being reopened.
func (s *segment) openSealed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil || s.ended || !s.info.Sealed {
		return nil
	}
	return s.openReadOnlyLocked()
}

func (s *segment) openReadOnlyLocked() error {
	if err := checkFile(s.path); err != nil {
		return err
	}
	db, err := openFile(s.path, s.info.Capacity, true)
	if err != nil {
		return err
	}
	if err := guard(s.path, func() error { return db.View(s.checkMeta) }); err != nil {
		return errors.Join(err, db.Close())
	}
	s.db = db
	return nil
}

// close closes the file; the segment can be read no more.
func (s *segment) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return guard(s.path, db.Close)
}

func indexBytes(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

// withCRC appends the CRC32C of b to it.
func withCRC(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// checkCRC takes the CRC32C off the end of b.
func checkCRC(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	value, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(value, castagnoli); got != sum {
		return nil, fmt.Errorf("%w: checksum %#08x, says %#08x", ErrDamaged, got, sum)
	}
	return value, nil
}
