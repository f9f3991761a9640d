package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"sort"

	"go.etcd.io/bbolt"
)

// What sealing writes, once, in the order of the keys: the Bloom filter, the end
// of every queue that the log knows, and the rows of the key index and the queue
// index in sorted blocks. Each value ends with its CRC32C.
const (
	sealedRowBytes  = 40
	sealedBlockRows = 512
	endBytes        = 20
	sealTxBytes     = 16 << 20 // written in one transaction
	// maxQueueNumber is far above what a broker allows; a table of queues is as
	// large as the highest number in it.
	maxQueueNumber = 1 << 20
)

var (
	bloomKey = []byte("bloom")
	endsKey  = []byte("ends")
)

// blockKey begins with the queue, so that blocks of a queue stand together in
// the order of their offsets.
func blockKey(q QueueKey, base int64) []byte {
	k := binary.BigEndian.AppendUint64([]byte{'q'}, q.Topic)
	k = binary.BigEndian.AppendUint32(k, q.Queue)
	return binary.BigEndian.AppendUint64(k, uint64(base))
}

// blockKeyBytes is the length of a block key of the queue index.
const blockKeyBytes = 21

func queuePrefix(q QueueKey) []byte { return blockKey(q, 0)[:13] }

func queueOfBlock(key []byte) QueueKey {
	return QueueKey{Topic: binary.BigEndian.Uint64(key[1:]), Queue: binary.BigEndian.Uint32(key[9:])}
}

func appendSealedRow(b []byte, l *location) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(l.base))
	b = le.AppendUint32(b, l.count)
	b = le.AppendUint32(b, l.tagHash)
	b = le.AppendUint64(b, l.chunk)
	b = le.AppendUint32(b, l.pos)
	b = le.AppendUint32(b, l.len)
	return le.AppendUint64(b, uint64(l.millis))
}

// checkRows checks a block of rows of the given size.
func checkRows(key, value []byte, rowBytes int) ([]byte, error) {
	rows, err := checkCRC(value)
	if err == nil && (len(rows) == 0 || len(rows)%rowBytes != 0) {
		err = fmt.Errorf("%w: %d bytes of rows", ErrDamaged, len(rows))
	}
	if err != nil {
		return nil, fmt.Errorf("index block %x: %w", key, err)
	}
	return rows, nil
}

// sealedBlock is a checked block of the queue index.
type sealedBlock []byte

func checkBlock(key, value []byte) (sealedBlock, error) {
	return checkRows(key, value, sealedRowBytes)
}

func (b sealedBlock) len() int { return len(b) / sealedRowBytes }

func (b sealedBlock) at(i int) location {
	r := b[i*sealedRowBytes:]
	le := binary.LittleEndian
	return location{
		base: int64(le.Uint64(r)), count: le.Uint32(r[8:]), tagHash: le.Uint32(r[12:]),
		chunk: le.Uint64(r[16:]), pos: le.Uint32(r[24:]), len: le.Uint32(r[28:]),
		millis: int64(le.Uint64(r[32:])),
	}
}

// seal writes the queue index and the queues' ends into the file, and opens it
// anew for reading only when it is read next.
func (s *segment) seal(job sealJob) error {
	if err := guard(s.path, func() error { return s.writeSeal(job.ends) }); err != nil {
		return fmt.Errorf("seal %s: %w", s.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := guard(s.path, s.db.Close); err != nil {
		return fmt.Errorf("seal %s: %w", s.path, err)
	}
	s.db, s.index, s.keys = nil, nil, nil
	// First is not written: others read it without mu.
	s.info.Sealed, s.info.Last, s.info.LastChain, s.info.LastMillis = true, job.last, job.chain, job.millis
	return nil
}

// writeSeal writes the entries in transactions of a bounded size.
func (s *segment) writeSeal(ends queueEnds) error {
	if err := s.update(newSealBucket); err != nil {
		return err
	}
	next, stop := iter.Pull2(s.sealEntries(ends))
	defer stop()
	for more := true; more; {
		err := s.update(func(tx *bbolt.Tx) error {
			b := tx.Bucket(sealBucket)
			b.FillPercent = 1.0 // entries come in the order of their keys
			for written := 0; more && written < sealTxBytes; {
				var key, value []byte
				if key, value, more = next(); !more {
					return nil
				}
				if err := b.Put(key, withCRC(value)); err != nil {
					return err
				}
				written += len(value)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// newSealBucket makes an empty one, in place of one that a crash cut short.
func newSealBucket(tx *bbolt.Tx) error {
	if tx.Bucket(sealBucket) != nil {
		if err := tx.DeleteBucket(sealBucket); err != nil {
			return err
		}
	}
	_, err := tx.CreateBucket(sealBucket)
	return err
}

// sealEntries are all entries of the seal, without their checksums.
func (s *segment) sealEntries(ends queueEnds) iter.Seq2[[]byte, []byte] {
	s.keys.sort()
	return func(yield func(key, value []byte) bool) {
		_ = yield(bloomKey, s.keys.bloom()) &&
			yield(endsKey, ends.encode()) &&
			yieldBlocks(s.keys.ids, idRow.key, appendIDRow, yield) &&
			yieldBlocks(s.keys.keys, keyRow.key, appendKeyRow, yield) &&
			s.index.yieldBlocks(yield)
	}
}

// yieldBlocks cuts sorted rows into blocks, each under its first row's key.
func yieldBlocks[R any](rows []R, key func(R) []byte, appendRow func([]byte, R) []byte, yield func(key, value []byte) bool) bool {
	for block := range slices.Chunk(rows, sealedBlockRows) {
		var b []byte
		for _, r := range block {
			b = appendRow(b, r)
		}
		if !yield(key(block[0]), b) {
			return false
		}
	}
	return true
}

func (x *queueIndex) yieldBlocks(yield func(key, value []byte) bool) bool {
	for _, q := range x.sorted() {
		key := func(l location) []byte { return blockKey(q, l.base) }
		row := func(b []byte, l location) []byte { return appendSealedRow(b, &l) }
		if !yieldBlocks(x.of(q), key, row, yield) {
			return false
		}
	}
	return true
}

// sorted lists the queues in the order of their block keys.
func (x *queueIndex) sorted() []QueueKey {
	x.mu.RLock()
	defer x.mu.RUnlock()
	queues := make([]QueueKey, 0, len(x.queues))
	for q := range x.queues {
		queues = append(queues, q)
	}
	slices.SortFunc(queues, func(a, b QueueKey) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Queue, b.Queue))
	})
	return queues
}

// find returns locations of a queue from the one that holds offset, at most one
// block of them, and at most one beyond maxBytes; older is true when the queue
// begins after offset here.
func (s *segment) find(q QueueKey, offset int64, maxBytes int) (found []location, older bool, err error) {
	if x := s.unsealed(); x != nil {
		found, older = x.from(q, offset)
		return found, older, nil
	}
	err = s.view(func(tx *bbolt.Tx) error {
		block, err := seekBlock(tx, q, offset)
		if err != nil || block == nil {
			return err
		}
		if first := block.at(0); first.base > offset {
			older = true
			return nil
		}
		n := block.len()
		i := sort.Search(n, func(i int) bool { l := block.at(i); return l.next() > offset })
		for size := 0; i < n && size <= maxBytes && (len(found) > 0 || block.at(i).base <= offset); i++ {
			found = append(found, block.at(i))
			size += int(found[len(found)-1].len)
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.path, err)
	}
	return found, older, err
}

func (s *segment) unsealed() *queueIndex {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index
}

// seekBlock returns the last block of the queue that begins at or before
// offset, or its first block, or nil when the queue has none.
func seekBlock(tx *bbolt.Tx, q QueueKey, offset int64) (sealedBlock, error) {
	b := tx.Bucket(sealBucket)
	if b == nil {
		return nil, fmt.Errorf("%w: the seal is missing", ErrDamaged)
	}
	c, prefix := b.Cursor(), queuePrefix(q)
	key, value := seekBefore(c, blockKey(q, offset))
	if !bytes.HasPrefix(key, prefix) {
		key, value = c.Seek(prefix)
	}
	if !bytes.HasPrefix(key, prefix) {
		return nil, nil
	}
	return checkBlock(key, value)
}

// seekBefore moves to the last key at or before the wanted one; nil when there
// is none.
func seekBefore(c *bbolt.Cursor, wanted []byte) (key, value []byte) {
	key, value = c.Seek(wanted)
	switch {
	case key == nil:
		return c.Last()
	case bytes.Equal(key, wanted):
		return key, value
	}
	return c.Prev()
}

// atTime returns the first offset of the queue in this segment that was stored
// at or after millis, if there is one.
func (s *segment) atTime(q QueueKey, millis int64) (offset int64, ok bool, err error) {
	if x := s.unsealed(); x != nil {
		offset, ok = x.atTime(q, millis)
		return offset, ok, nil
	}
	err = s.view(func(tx *bbolt.Tx) error {
		c, prefix := tx.Bucket(sealBucket).Cursor(), queuePrefix(q)
		for key, value := c.Seek(prefix); key != nil && bytes.HasPrefix(key, prefix); key, value = c.Next() {
			block, err := checkBlock(key, value)
			if err != nil {
				return err
			}
			n := block.len()
			if i := sort.Search(n, func(i int) bool { return block.at(i).millis >= millis }); i < n {
				offset, ok = block.at(i).base, true
				return nil
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: %w", s.path, err)
	}
	return offset, ok, err
}

// sealedEnds reads the queues' ends as of the end of a sealed segment.
func (s *segment) sealedEnds() (queueEnds, error) {
	var ends queueEnds
	err := s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(sealBucket)
		if b == nil {
			return fmt.Errorf("%w: the seal is missing", ErrDamaged)
		}
		value, err := checkCRC(b.Get(endsKey))
		if err != nil {
			return fmt.Errorf("queue ends: %w", err)
		}
		ends, err = decodeEnds(value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return ends, nil
}

// queueEnds holds the offset after the last message of each queue, by topic and
// queue number: eight bytes for an idle queue.
type queueEnds map[uint64][]int64

func (e queueEnds) get(q QueueKey) int64 {
	if t := e[q.Topic]; int(q.Queue) < len(t) {
		return t[q.Queue]
	}
	return 0
}

func (e queueEnds) set(q QueueKey, end int64) { *e.of(q) = end }

// of is where the end of a queue is kept, until the next call.
func (e queueEnds) of(q QueueKey) *int64 {
	t := e[q.Topic]
	if int(q.Queue) >= len(t) {
		for int(q.Queue) >= len(t) {
			t = append(t, 0)
		}
		e[q.Topic] = t
	}
	return &t[q.Queue]
}

func (e queueEnds) clone() queueEnds {
	c := make(queueEnds, len(e))
	for topic, ends := range e {
		c[topic] = slices.Clone(ends)
	}
	return c
}

func (e queueEnds) encode() []byte {
	var b []byte
	le := binary.LittleEndian
	for topic, ends := range e {
		for q, end := range ends {
			b = le.AppendUint64(b, topic)
			b = le.AppendUint32(b, uint32(q))
			b = le.AppendUint64(b, uint64(end))
		}
	}
	return b
}

func decodeEnds(b []byte) (queueEnds, error) {
	if len(b)%endBytes != 0 {
		return nil, fmt.Errorf("%w: %d bytes of queue ends", ErrDamaged, len(b))
	}
	le := binary.LittleEndian
	e := queueEnds{}
	for ; len(b) > 0; b = b[endBytes:] {
		q := QueueKey{Topic: le.Uint64(b), Queue: le.Uint32(b[8:])}
		if q.Queue > maxQueueNumber {
			return nil, fmt.Errorf("%w: queue %d of topic %d", ErrDamaged, q.Queue, q.Topic)
		}
		e.set(q, int64(le.Uint64(b[12:])))
	}
	return e, nil
}
