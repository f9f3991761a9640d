package store

import (
	"fmt"

	"github.com/rmqio/rmq/message/batch"
)

// Batches is what Read returns.
type Batches struct {
	// Data is whole batches, one after another, as they were appended.
	Data []byte
	// Next is the queue offset after them.
	Next int64
	// Min is the queue's first offset, End the one after its last.
	Min, End int64
}

// Bounds returns a queue's first offset and the one after its last, as far as
// readers may see; both are 0 for a queue that nothing was appended to.
func (l *Log) Bounds(q QueueKey) (first, end int64) {
	first, end, known, segments := l.catalog.bounds(q)
	if known {
		return first, end
	}
	first = end // when no segment has any of its messages
	for _, s := range segments {
		base, ok, err := s.firstOffset(q)
		if err != nil {
			l.logger.Error("first offset of a queue", "topic", q.Topic, "queue", q.Queue, "err", err)
			continue // readers of what is damaged are told so when they read
		}
		if ok {
			first = base
			break
		}
	}
	l.catalog.learnFirst(q, first, segments)
	return first, end
}

// Read is Find and Append.
func (l *Log) Read(q QueueKey, offset int64, maxBytes, maxCount int) (Batches, error) {
	f, err := l.Find(q, offset, maxBytes, maxCount)
	var data []byte
	if err == nil && f.Size > 0 {
		data, err = f.Append(make([]byte, 0, f.Size))
	}
	return Batches{Data: data, Next: f.Next, Min: f.Min, End: f.End}, err
}

// Found is batches that Find or FindMatching has found and Append reads.
type Found struct {
	// Size is how many bytes they have together.
	Size int
	// Messages is how many of those that were asked for they have; with a filter all
	// that match of a batch that begins before the offset.
	Messages int
	// Next is the queue offset after them.
	Next int64
	// Min is the queue's first offset, End the one after its last.
	Min, End int64

	log    *Log
	queue  QueueKey
	offset int64
	pieces []piece
	data   []byte // what FindMatching has read already
}

// piece is some of what was found: batches of a segment that are yet to be read,
// or a part of what was read.
type piece struct {
	segment  *segment // nil: it was read
	where    []location
	from, to int // within Found.data
}

// addPlace adds a batch that is yet to be read.
func (f *Found) addPlace(s *segment, l *location) {
	f.Size += int(l.len)
	if n := len(f.pieces); n > 0 && f.pieces[n-1].segment == s {
		f.pieces[n-1].where = append(f.pieces[n-1].where, *l)
		return
	}
	f.pieces = append(f.pieces, piece{segment: s, where: []location{*l}})
}

// setData adds what data has beyond what was read before.
func (f *Found) setData(data []byte) {
	from, to := len(f.data), len(data)
	f.data, f.Size = data, f.Size+to-from
	if n := len(f.pieces); n > 0 && f.pieces[n-1].segment == nil {
		f.pieces[n-1].to = to
		return
	}
	f.pieces = append(f.pieces, piece{from: from, to: to})
}

// Find looks for batches of a queue from the one that holds offset: at least one
// when offset is below the end, none at the end, further ones while they fit
// within maxBytes and, if it is not 0, the messages from offset within maxCount.
// ErrOutOfRange comes with Min and End set; ErrDamaged says which segment and
// chunk; other offsets can be read all the same. In a log that was damaged when
// it was opened nobody knows what the end was: to look there is ErrDamaged, too.
func (l *Log) Find(q QueueKey, offset int64, maxBytes, maxCount int) (Found, error) {
	f, err := l.begin(q, offset)
	if err != nil || offset == f.End {
		return f, err
	}
	s, found, err := l.locate(q, offset, maxBytes)
	if err != nil {
		return f, f.unlessDropped(err)
	}
	found, f.Size = limit(found, offset, f.End, maxBytes, maxCount)
	f.pieces = []piece{{segment: s, where: found}}
	f.Next = found[len(found)-1].next()
	f.Messages = int(f.Next - offset)
	return f, nil
}

// begin looks whether there can be something at an offset.
func (l *Log) begin(q QueueKey, offset int64) (Found, error) {
	f := Found{Next: offset, log: l, queue: q, offset: offset}
	f.Min, f.End = l.Bounds(q)
	if l.damage != nil && offset >= f.End {
		return f, fmt.Errorf("%w: topic %d queue %d from offset %d on", l.damage, q.Topic, q.Queue, f.End)
	}
	if offset < f.Min || offset > f.End {
		return f, f.outOfRange()
	}
	return f, nil
}

// Append appends the batches to dst, each checked. The errors are those of Find;
// Next and Min are then as Find would set them now.
func (f *Found) Append(dst []byte) ([]byte, error) {
	data, err := dst, error(nil)
	for i := 0; i < len(f.pieces) && err == nil; i++ {
		data, err = f.pieces[i].append(data, f.data)
	}
	if err != nil {
		f.Next, f.Size = f.offset, 0
		return dst, f.unlessDropped(fmt.Errorf("topic %d queue %d offset %d: %w", f.queue.Topic, f.queue.Queue, f.offset, err))
	}
	return data, nil
}

func (p *piece) append(dst, read []byte) ([]byte, error) {
	if p.segment == nil {
		return append(dst, read[p.from:p.to]...), nil
	}
	data, err := p.segment.fetch(dst, p.where)
	if err == nil {
		err = verify(data[len(dst):], p.where)
	}
	return data, err
}

// unlessDropped is err, or that the messages were dropped meanwhile.
func (f *Found) unlessDropped(err error) error {
	if first, _ := f.log.Bounds(f.queue); f.offset < first {
		f.Min = first
		return f.outOfRange()
	}
	return err
}

func (f *Found) outOfRange() error {
	return fmt.Errorf("%w: %d is not within %d to %d", ErrOutOfRange, f.offset, f.Min, f.End)
}

// locate finds the segment that has the offset. A damaged segment is passed
// over; its error is returned when no other has the offset. It may leave out what
// is beyond maxBytes.
func (l *Log) locate(q QueueKey, offset int64, maxBytes int) (*segment, []location, error) {
	segments := l.catalog.segments()
	var damage error
	for i := len(segments) - 1; i >= 0; i-- {
		found, _, err := segments[i].find(q, offset, maxBytes)
		if len(found) > 0 {
			return segments[i], found, nil
		}
		if err != nil && damage == nil {
			damage = err
		}
	}
	if damage == nil {
		damage = fmt.Errorf("%w: no segment has topic %d queue %d offset %d", ErrDamaged, q.Topic, q.Queue, offset)
	}
	return nil, nil, damage
}

// limit cuts the locations to what was asked for, to what readers may see, and to
// what is consecutive: where a damaged chunk left a hole the next read says so.
// It returns their size.
func limit(found []location, offset, end int64, maxBytes, maxCount int) ([]location, int) {
	n, size := 0, 0
	for n < len(found) && found[n].base < end && (n == 0 || found[n].base == found[n-1].next()) {
		size += int(found[n].len)
		if n > 0 && (size > maxBytes || maxCount > 0 && found[n].base-offset >= int64(maxCount)) {
			return found[:n], size - int(found[n].len)
		}
		n++
	}
	return found[:n], size
}

// verify checks that data is the batches that the queue index says.
func verify(data []byte, found []location) error {
	for i := range found {
		l := &found[i]
		if err := l.verify(data[:l.len]); err != nil {
			return err
		}
		data = data[l.len:]
	}
	return nil
}

// verify checks that b is the batch.
func (l *location) verify(b []byte) error {
	h, err := batch.Verify(b)
	switch {
	case err != nil:
		return fmt.Errorf("%w: chunk %d at %d: %w", ErrDamaged, l.chunk, l.pos, err)
	case h.Length != int(l.len) || h.BaseOffset != l.base || h.Count != int(l.count) || h.StoreMillis != l.millis:
		return fmt.Errorf("%w: chunk %d at %d: the batch is not the one the queue index names", ErrDamaged, l.chunk, l.pos)
	}
	return nil
}

// OffsetAt returns the first offset of a queue that was stored at or after the
// given time; the queue's end when nothing is that young.
func (l *Log) OffsetAt(q QueueKey, millis int64) (int64, error) {
	first, end := l.Bounds(q)
	for _, s := range l.catalog.segments() {
		if info, sealed := s.sealedInfo(); sealed && info.LastMillis < millis {
			continue
		}
		offset, ok, err := s.atTime(q, millis)
		if ok || err != nil && !l.dropped(s) {
			return max(offset, first), err
		}
	}
	return end, nil
}

// StoredAt returns when the message at an offset was stored, in Unix
// milliseconds. ErrOutOfRange when there is none.
func (l *Log) StoredAt(q QueueKey, offset int64) (int64, error) {
	if first, end := l.Bounds(q); offset < first || offset >= end {
		return 0, fmt.Errorf("%w: %d is not within %d to %d", ErrOutOfRange, offset, first, end-1)
	}
	_, found, err := l.locate(q, offset, 0)
	if err == nil {
		return found[0].millis, nil
	}
	if first, end := l.Bounds(q); offset < first {
		err = fmt.Errorf("%w: %d is not within %d to %d", ErrOutOfRange, offset, first, end-1)
	}
	return 0, err
}
