package timer

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/message/batch"
)

const (
	rowMessages = 'm'
	rowRecall   = 'r'

	rowKeyBytes = 9
)

// Name implements view.View.
func (v *View) Name() string { return "timer" }

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	hand := func(kind byte, number uint64, value []byte) {
		key := binary.BigEndian.AppendUint64([]byte{kind}, number)
		if value == nil {
			del(key)
		} else {
			put(key, value)
		}
	}
	for origin := range v.changed {
		hand(rowMessages, origin, v.entries.Get(entry{origin: origin}).value())
	}
	for index := range v.changedRecalls {
		hand(rowRecall, index, v.recalls.Get(recall{index: index}).value())
	}
	// A map keeps its room; that of a million rows is given back.
	v.changed, v.changedRecalls = map[uint64]struct{}{}, map[uint64]struct{}{}
}

// value of an entry's row; nil without an entry.
func (e *entry) value() []byte {
	if e == nil {
		return nil
	}
	b := binary.AppendUvarint(nil, e.at)
	b = binary.AppendUvarint(b, e.topic)
	b = binary.AppendUvarint(b, uint64(e.queue))
	b = binary.AppendUvarint(b, uint64(e.bytes))
	b = binary.AppendUvarint(b, uint64(e.left()))
	last := Key{Position: -1}
	e.each(func(k Key) {
		b = binary.AppendUvarint(b, uint64(k.Position-last.Position-1))
		b = binary.AppendVarint(b, k.Millis-last.Millis)
		last = k
	})
	return b
}

// value of a recall's row; nil without a recall.
func (r *recall) value() []byte {
	if r == nil {
		return nil
	}
	b := binary.AppendUvarint(nil, r.place.Origin)
	b = binary.AppendUvarint(b, uint64(r.place.Position))
	b = binary.AppendUvarint(b, r.topic)
	b = binary.AppendUvarint(b, uint64(r.millis))
	return append(b, r.id[:]...)
}

// Load implements view.View. Errors: ErrRecord.
func (v *View) Load(key, value []byte) error {
	if len(key) != rowKeyBytes {
		return fmt.Errorf("%w: key %x", ErrRecord, key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	number := binary.BigEndian.Uint64(key[1:])
	switch key[0] {
	case rowMessages:
		return v.loadEntryLocked(number, value)
	case rowRecall:
		return v.loadRecallLocked(number, value)
	}
	return fmt.Errorf("%w: key %x", ErrRecord, key)
}

func (v *View) loadEntryLocked(origin uint64, value []byte) error {
	p := &fields{payload.Of(value)}
	e := entry{
		origin: origin, at: p.Number(math.MaxUint64), topic: p.Number(math.MaxUint64),
		queue: uint32(p.Number(math.MaxUint32)), bytes: uint32(p.Number(math.MaxUint32)),
	}
	e.set(p.messages())
	if e.at < origin || e.left() == 0 {
		p.Fail()
	}
	if err := p.end("row"); err != nil {
		return fmt.Errorf("messages of record %d: %w", origin, err)
	}
	if !v.addLocked(e) {
		return fmt.Errorf("%w: record %d stands where another does", ErrRecord, origin)
	}
	return nil
}

// messages takes when the messages of a row are due, by position.
func (p *fields) messages() []int64 {
	left := int(p.Number(uint64(len(p.Rest()) / 2)))
	millis := make([]int64, 0, min(left, batch.MaxCount))
	last := int64(0)
	for range left {
		gap := p.position()
		if p.Bad() || len(millis)+gap >= batch.MaxCount {
			p.Fail()
			return nil
		}
		for range gap {
			millis = append(millis, gone)
		}
		last += p.Signed(math.MinInt64)
		if last == gone {
			p.Fail()
		}
		millis = append(millis, last)
	}
	return millis
}

func (v *View) loadRecallLocked(index uint64, value []byte) error {
	p := &fields{payload.Of(value)}
	r := recall{index: index, place: Place{Origin: p.Number(math.MaxUint64), Position: p.position()}}
	r.topic, r.millis = p.Number(math.MaxUint64), int64(p.Number(math.MaxInt64))
	r.id = p.ID()
	if err := p.end("row"); err != nil {
		return fmt.Errorf("recall record %d: %w", index, err)
	}
	v.rememberLocked(r)
	return nil
}
