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

// Read returns batches of a queue from the one that holds offset: at least one
// when offset is below the end, none at the end, further ones while they fit
// within maxBytes and, if it is not 0, the messages from offset within maxCount.
// Every batch is checked. ErrOutOfRange comes with Min and End set; ErrDamaged
// says which segment and chunk; other offsets can be read all the same. In a log
// that was damaged when it was opened nobody knows what the end was: reading
// there is ErrDamaged, too.
func (l *Log) Read(q QueueKey, offset int64, maxBytes, maxCount int) (Batches, error) {
	b := Batches{Next: offset}
	b.Min, b.End = l.Bounds(q)
	if l.damage != nil && offset >= b.End {
		return b, fmt.Errorf("%w: topic %d queue %d from offset %d on", l.damage, q.Topic, q.Queue, b.End)
	}
	if offset < b.Min || offset > b.End {
		return b, b.outOfRange(offset)
	}
	if offset == b.End {
		return b, nil
	}
	err := l.read(&b, q, offset, maxBytes, maxCount)
	if first, _ := l.Bounds(q); err != nil && offset < first {
		b.Min = first // it was dropped meanwhile
		return b, b.outOfRange(offset)
	}
	return b, err
}

func (b *Batches) outOfRange(offset int64) error {
	return fmt.Errorf("%w: %d is not within %d to %d", ErrOutOfRange, offset, b.Min, b.End)
}

// read sets Data and Next.
func (l *Log) read(b *Batches, q QueueKey, offset int64, maxBytes, maxCount int) error {
	s, found, err := l.locate(q, offset)
	if err != nil {
		return err
	}
	found, size := limit(found, offset, b.End, maxBytes, maxCount)
	data, err := s.fetch(make([]byte, 0, size), found)
	if err == nil {
		err = verify(data, found)
	}
	if err != nil {
		return fmt.Errorf("topic %d queue %d offset %d: %w", q.Topic, q.Queue, offset, err)
	}
	b.Data, b.Next = data, found[len(found)-1].next()
	return nil
}

// locate finds the segment that has the offset. A damaged segment is passed
// over; its error is returned when no other has the offset.
func (l *Log) locate(q QueueKey, offset int64) (*segment, []location, error) {
	segments := l.catalog.segments()
	var damage error
	for i := len(segments) - 1; i >= 0; i-- {
		found, _, err := segments[i].find(q, offset)
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
		h, err := batch.Verify(data[:l.len])
		switch {
		case err != nil:
			return fmt.Errorf("%w: chunk %d at %d: %w", ErrDamaged, l.chunk, l.pos, err)
		case h.Length != int(l.len) || h.BaseOffset != l.base || h.Count != int(l.count) || h.StoreMillis != l.millis:
			return fmt.Errorf("%w: chunk %d at %d: the batch is not the one the queue index names", ErrDamaged, l.chunk, l.pos)
		}
		data = data[l.len:]
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
	_, found, err := l.locate(q, offset)
	if err == nil {
		return found[0].millis, nil
	}
	if first, end := l.Bounds(q); offset < first {
		err = fmt.Errorf("%w: %d is not within %d to %d", ErrOutOfRange, offset, first, end-1)
	}
	return 0, err
}
