package store

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// Retention says which sealed segments may be dropped. Segments go as a whole and
// oldest first; nothing is deleted inside one.
type Retention struct {
	// MaxAge is how long messages of a topic are kept, by its number; 0: for ever.
	// A segment goes when it is older than that for every topic in it.
	MaxAge func(topic uint64) time.Duration
	// MaxBytes, when not 0, drops the oldest segments while all files together
	// are larger.
	MaxBytes int64
	// KeepFrom is the log index from which on everything must stay: what the
	// views have not written yet, and records that are still pending.
	KeepFrom uint64
	// NeededFrom is the offset of a queue from which on its messages must stay
	// whatever their age, because groups have not consumed them; nil, or the
	// highest int64: nothing is needed.
	NeededFrom func(QueueKey) int64
	// Unknown says what decides over a segment that is so damaged that nobody knows
	// which queues it has; it is asked when there is one. Nil: such a segment stays.
	Unknown func() Unknown
	// Force drops the oldest segment whatever MaxAge and NeededFrom say: the disk
	// is almost full. KeepFrom holds.
	Force bool
}

// Unknown is what holds for a segment whose queues are not known: it goes when it
// may, whatever they are.
type Unknown struct {
	// MaxAge is the longest of all topics; 0: for ever.
	MaxAge time.Duration
	// Needed says that there are queues that NeededFrom is about.
	Needed bool
}

// Retain drops what may be dropped now and returns how many segments that were.
// The newest sealed segment stays: it has the ends of all queues. A crash leaves
// either the manifest with a segment or a file that is not in the manifest, which
// the next start removes. It is called by one goroutine at a time.
func (l *Log) Retain(r Retention) (dropped int, err error) {
	for {
		if !l.manifest.canSpareOldest() {
			return dropped, nil
		}
		oldest := l.catalog.segments()[0]
		ends, mayGo, err := l.mayDrop(oldest, r, l.Status().DiskBytes)
		if err != nil || !mayGo {
			return dropped, err
		}
		if err := l.drop(oldest, ends); err != nil {
			return dropped, fmt.Errorf("drop %s: %w", oldest.path, err)
		}
		dropped++
		r.Force = false // one at a time: the disk is looked at again
	}
}

// Spare is a segment that could be dropped.
type Spare struct {
	Next  uint64 // log index behind it
	Bytes int64  // of its file
}

// Spares lists the segments, oldest first, that Retain would drop if KeepFrom
// did not matter. With Force that is all of them but the newest sealed one.
func (l *Log) Spares(r Retention) (spares []Spare, err error) {
	segments, disk := l.catalog.segments(), l.Status().DiskBytes
	r.KeepFrom = math.MaxUint64
	for i := 0; i+1 < len(segments); i++ {
		if _, sealed := segments[i+1].sealedInfo(); !sealed {
			break
		}
		_, mayGo, err := l.mayDrop(segments[i], r, disk)
		if err != nil || !mayGo {
			return spares, err
		}
		s := Spare{Next: segments[i+1].info.First, Bytes: fileBytes(segments[i].path)}
		spares, disk = append(spares, s), disk-s.Bytes
	}
	return spares, nil
}

// mayDrop decides over the oldest segment, when all are of so many bytes. It
// returns where its queues end.
func (l *Log) mayDrop(s *segment, r Retention, bytes int64) (map[QueueKey]int64, bool, error) {
	info, sealed := s.sealedInfo()
	if !sealed || info.Last >= r.KeepFrom {
		return nil, false, nil
	}
	age := time.Duration(l.opts.Now().UnixMilli()-info.LastMillis) * time.Millisecond
	tooLarge := r.MaxBytes > 0 && bytes > r.MaxBytes
	ends, err := s.lastOffsets()
	if errors.Is(err, ErrDamaged) && (r.Force || r.Unknown != nil && r.Unknown().mayGo(age, tooLarge)) {
		return nil, true, nil
	}
	if err != nil || r.Force {
		return ends, err == nil, err
	}
	if r.NeededFrom != nil {
		for q, end := range ends {
			if r.NeededFrom(q) < end {
				return nil, false, nil
			}
		}
	}
	if tooLarge {
		return ends, true, nil
	}
	topics := map[uint64]bool{}
	for q := range ends {
		topics[q.Topic] = true
	}
	for topic := range topics {
		if limit := r.MaxAge(topic); limit == 0 || age < limit {
			return nil, false, nil
		}
	}
	// A segment without messages is as old as any topic lets it be.
	return ends, len(topics) > 0 || age > r.MaxAge(0) && r.MaxAge(0) > 0, nil
}

func (u Unknown) mayGo(age time.Duration, tooLarge bool) bool {
	return !u.Needed && (tooLarge || u.MaxAge > 0 && age >= u.MaxAge)
}

// drop takes a segment out of the manifest, out of what readers see, and off the
// disk, in this order. The file of the newest dropped segment stays, for the next
// one to be written into: to fill one with zeros takes as much of the disk as all
// commits to it. While the disk is almost full none stays, nor one that is damaged.
func (l *Log) drop(s *segment, ends map[QueueKey]int64) error {
	err := l.manifest.update(func(m *manifest) {
		m.Segments = slices.DeleteFunc(m.Segments, func(i segmentInfo) bool { return i.First == s.info.First })
	})
	if err != nil {
		return err
	}
	damage := l.catalog.dropOldest(ends)
	if err := s.close(); err != nil {
		l.logger.Warn("close dropped segment", "path", s.path, "err", err)
	}
	l.logger.Info("segment dropped", "path", s.path)
	whole := ends != nil && damage == nil && fileBytes(s.path) >= s.info.Capacity
	if whole && s.info.Capacity == l.opts.SegmentBytes && l.level < DiskClean {
		return rename(s.path, l.path(recycledName))
	}
	if err := os.Remove(s.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.path))
}

// Trim hides the messages of a queue below an offset from readers: its first
// offset is then that one, or the end if that is lower. What is hidden stays on
// disk until its segment is dropped, and is seen again by the next Open.
func (l *Log) Trim(q QueueKey, offset int64) {
	if first, _ := l.Bounds(q); first < offset {
		l.catalog.trim(q, offset)
	}
}

func (s *segment) sealedInfo() (segmentInfo, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.info, s.info.Sealed
}

// lastOffsets returns, for each queue that has messages in a sealed segment, the
// offset after its last one there.
func (s *segment) lastOffsets() (map[QueueKey]int64, error) {
	ends := map[QueueKey]int64{}
	err := s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(sealBucket)
		if b == nil {
			return fmt.Errorf("%w: %s: the seal is missing", ErrDamaged, s.path)
		}
		c := b.Cursor()
		for key, value := c.Seek([]byte{'q'}); len(key) == blockKeyBytes && key[0] == 'q'; key, value = c.Next() {
			block, err := checkBlock(key, value)
			if err != nil {
				return fmt.Errorf("%s: %w", s.path, err)
			}
			last := block.at(block.len() - 1)
			ends[queueOfBlock(key)] = last.next()
		}
		return nil
	})
	return ends, err
}

// firstOffset returns the queue's first offset in this segment.
func (s *segment) firstOffset(q QueueKey) (offset int64, ok bool, err error) {
	if x := s.unsealed(); x != nil {
		if all := x.of(q); len(all) > 0 {
			return all[0].base, true, nil
		}
		return 0, false, nil
	}
	err = s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(sealBucket)
		if b == nil {
			return fmt.Errorf("%w: %s: the seal is missing", ErrDamaged, s.path)
		}
		key, value := b.Cursor().Seek(queuePrefix(q))
		if !bytes.HasPrefix(key, queuePrefix(q)) {
			return nil
		}
		block, err := checkBlock(key, value)
		if err == nil {
			offset, ok = block.at(0).base, true
		}
		return err
	})
	return offset, ok, err
}
