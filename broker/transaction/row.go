package transaction

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/message/batch"
)

const (
	rowDecided = 'd'
	rowHalf    = 'h'

	keyBytes       = 9
	leastOpenBytes = 21
)

// row names a row by what it is and its number or origin.
type row struct {
	kind   byte
	number uint64
}

func (r row) key() []byte { return binary.BigEndian.AppendUint64([]byte{r.kind}, r.number) }

// Name implements view.View.
func (v *View) Name() string { return "transaction" }

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	for r := range v.changed {
		if value := v.value(r); value != nil {
			put(r.key(), value)
		} else {
			del(r.key())
		}
	}
	clear(v.changed)
}

// value of a row, nil when it is not there.
func (v *View) value(r row) []byte {
	if r.kind == rowDecided {
		if d := v.decided.at(r.number); d != nil {
			return d.value()
		}
		return nil
	}
	if h, ok := v.halves[r.number]; ok {
		return h.value()
	}
	return nil
}

func (v *Verdict) value() []byte {
	b := binary.AppendUvarint(nil, v.Origin)
	b = binary.AppendUvarint(b, uint64(v.Position))
	b = append(b, v.ID[:]...)
	b = binary.AppendUvarint(b, v.TopicID)
	b = binary.AppendUvarint(b, uint64(v.Queue))
	b = binary.AppendVarint(b, v.Offset)
	return binary.AppendVarint(b, v.StoreMillis)
}

func (h *half) value() []byte {
	b := binary.AppendUvarint(nil, h.at)
	b = binary.AppendUvarint(b, h.topic)
	b = binary.AppendUvarint(b, uint64(h.queue))
	b = binary.AppendUvarint(b, uint64(h.bytes))
	b = binary.AppendVarint(b, h.millis)
	b = payload.AppendText(b, h.group)
	b = binary.AppendUvarint(b, uint64(len(h.open)))
	for i := range h.open {
		b = h.open[i].append(b)
	}
	return b
}

func (o *open) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(o.position))
	b = append(b, o.id[:]...)
	b = binary.AppendUvarint(b, uint64(o.immunity))
	b = binary.AppendUvarint(b, uint64(o.checks))
	b = binary.AppendVarint(b, o.asked)
	if o.parked {
		return append(b, 1)
	}
	return append(b, 0)
}

// Load implements view.View. Errors: ErrRecord.
func (v *View) Load(key, value []byte) error {
	if len(key) != keyBytes {
		return fmt.Errorf("%w: key %x", ErrRecord, key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	p := &fields{payload.Of(value)}
	number, ok := binary.BigEndian.Uint64(key[1:]), false
	switch key[0] {
	case rowDecided:
		verdict := p.verdict()
		ok = p.Done() && v.decided.load(number, verdict)
	case rowHalf:
		h := p.half()
		if ok = p.Done() && number > 0 && h.at >= number && len(h.open) > 0; ok {
			v.addLocked(number, h)
		}
	}
	if !ok {
		return fmt.Errorf("%w: row %x: %x", ErrRecord, key, value)
	}
	return nil
}

func (p *fields) verdict() Verdict {
	return Verdict{
		Key: Key{Origin: p.Number(math.MaxUint64), Position: p.position()}, ID: p.ID(),
		TopicID: p.Number(math.MaxUint64), Queue: int(p.Number(math.MaxInt32)), Offset: p.Signed(-1), StoreMillis: p.Signed(math.MinInt64),
	}
}

func (p *fields) half() *half {
	h := &half{
		at: p.Number(math.MaxUint64), topic: p.Number(math.MaxUint64), queue: uint32(p.Number(math.MaxInt32)),
		bytes: uint32(p.Number(math.MaxUint32)), millis: p.Signed(math.MinInt64), group: p.name(),
	}
	h.open = make([]open, min(p.Count(leastOpenBytes), batch.MaxCount))
	for i := range h.open {
		h.open[i] = p.open()
		if i > 0 && h.open[i].position <= h.open[i-1].position {
			p.Fail()
		}
	}
	return h
}

func (p *fields) open() open {
	return open{
		position: uint32(p.position()), id: p.ID(), immunity: int64(p.Number(math.MaxInt64)),
		checks: uint32(p.Number(math.MaxUint32)), asked: p.Signed(math.MinInt64), parked: p.Byte(1) == 1,
	}
}
