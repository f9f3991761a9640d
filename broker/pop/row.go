package pop

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/payload"
)

const (
	rowQueue      = 'q'
	rowUnfinished = 'u'

	queueKeyTail = 12 // topic ID and queue
	blockTail    = 8

	// blockOffsets is how many offsets share a row of unfinished messages.
	blockOffsets = 256

	header = -1 // stands for a block
)

// row names a row: a queue, or a block of its unfinished messages.
type row struct {
	key   Key
	block int64
}

func (r row) bytes() []byte {
	kind := byte(rowUnfinished)
	if r.block == header {
		kind = rowQueue
	}
	b := append([]byte{kind, byte(len(r.key.Group))}, r.key.Group...)
	b = binary.BigEndian.AppendUint64(b, r.key.Topic)
	b = binary.BigEndian.AppendUint32(b, r.key.Queue)
	if r.block != header {
		b = binary.BigEndian.AppendUint64(b, uint64(r.block))
	}
	return b
}

// Name implements view.View.
func (v *View) Name() string { return "pop" }

// Changes implements view.View. It takes no lock: only the goroutine that calls it
// writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	for r := range v.changed {
		if value := v.value(r); value != nil {
			put(r.bytes(), value)
		} else {
			del(r.bytes())
		}
	}
	// A map keeps its room; that of a million rows is given back.
	v.changed = map[row]struct{}{}
}

// value of a row; nil when it is not there.
func (v *View) value(r row) []byte {
	q, ok := v.queues[r.key]
	switch {
	case !ok:
		return nil
	case r.block == header:
		b := binary.AppendUvarint(nil, uint64(q.next))
		return binary.AppendUvarint(binary.AppendUvarint(b, q.born), q.last)
	}
	return q.block(r.block)
}

// block is the row of a block; nil when nothing of it is unfinished.
func (q *queue) block(number int64) (b []byte) {
	first := number * blockOffsets
	last := entry{offset: first - 1}
	q.entries.Ascend(entry{offset: first}, func(e *entry) bool {
		if e.offset/blockOffsets != number {
			return false
		}
		b = binary.AppendUvarint(b, uint64(e.offset-last.offset-1))
		b = binary.AppendUvarint(b, uint64(e.lane))
		b = binary.AppendUvarint(b, uint64(e.attempts))
		b = binary.AppendVarint(b, int64(e.fence-last.fence))
		b = binary.AppendVarint(b, e.deadline-last.deadline)
		last = *e
		return true
	})
	return b
}

// Load implements view.View. Errors: ErrRecord.
func (v *View) Load(key, value []byte) error {
	r, ok := parseRow(key)
	if !ok {
		return fmt.Errorf("%w: key %x", ErrRecord, key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.block == header {
		return v.loadQueueLocked(r.key, value)
	}
	q, ok := v.queues[r.key]
	if !ok {
		return fmt.Errorf("%w: messages of %v, which is not there", ErrRecord, r.key)
	}
	err := q.load(r.block*blockOffsets, value)
	clear(v.changed) // what was loaded is in the file
	return err
}

func parseRow(key []byte) (row, bool) {
	if len(key) < 3 || len(key) < 2+int(key[1])+queueKeyTail || key[1] == 0 {
		return row{}, false
	}
	r, rest := row{block: header}, key[2+int(key[1]):]
	r.key = Key{Group: string(key[2 : 2+int(key[1])]), Topic: binary.BigEndian.Uint64(rest), Queue: binary.BigEndian.Uint32(rest[8:])}
	switch rest = rest[queueKeyTail:]; {
	case key[0] == rowQueue:
		return r, len(rest) == 0
	case key[0] != rowUnfinished || len(rest) != blockTail:
		return r, false
	}
	r.block = int64(binary.BigEndian.Uint64(rest))
	return r, r.block >= 0 && r.block <= math.MaxInt64/blockOffsets
}

func (v *View) loadQueueLocked(k Key, value []byte) error {
	p := &fields{payload.Of(value)}
	next, born, last := p.offset(), p.Number(math.MaxUint64), p.Number(math.MaxUint64)
	if last == 0 || born > last {
		p.Fail()
	}
	if err := p.end("row"); err != nil {
		return fmt.Errorf("%v: %w", k, err)
	}
	q := v.addLocked(k)
	q.next, q.born, q.last = next, born, last
	return nil
}

// load takes the unfinished messages of a block, which begins at an offset.
func (q *queue) load(first int64, value []byte) error {
	p := &fields{payload.Of(value)}
	last := entry{offset: first - 1}
	for more := true; more; more = !p.Done() && !p.Bad() {
		e := entry{offset: last.offset + 1 + int64(p.Number(blockOffsets-1)), lane: uint32(p.Number(math.MaxUint32))}
		e.attempts = uint32(p.Number(math.MaxUint32))
		e.fence = last.fence + uint64(p.Signed(math.MinInt64))
		e.deadline = last.deadline + p.Signed(math.MinInt64)
		if e.offset-first >= blockOffsets || e.offset >= q.next || e.fence > q.last || (e.fence == 0) != (e.attempts == 0) {
			p.Fail()
		}
		if !p.Bad() {
			q.add(e)
		}
		last = e
	}
	if err := p.end("row"); err != nil {
		return fmt.Errorf("messages from %d on: %w", first, err)
	}
	return nil
}
