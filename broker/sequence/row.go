package sequence

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/aged"
	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/broker/store"
)

const keyBytes = 20

func (k Key) bytes() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, keyBytes), k.Producer)
	b = binary.BigEndian.AppendUint64(b, k.Queue.Topic)
	return binary.BigEndian.AppendUint32(b, k.Queue.Queue)
}

func (e *entry) value() []byte {
	b := binary.AppendUvarint(nil, e.index)
	b = binary.AppendVarint(b, e.millis)
	for _, n := range []uint64{e.incarnation, e.floor, e.begun, uint64(len(e.fenced))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, run := range e.fenced {
		b = binary.AppendUvarint(b, run)
	}
	b = binary.AppendUvarint(b, uint64(len(e.spans)))
	end := uint64(0)
	for _, s := range e.spans {
		b = binary.AppendUvarint(b, s.first-end)
		b = binary.AppendUvarint(b, s.count)
		b = binary.AppendVarint(b, s.Base)
		b = binary.AppendUvarint(b, s.Index)
		b = binary.AppendVarint(b, s.Millis)
		end = s.end()
	}
	return b
}

// Name implements view.View.
func (v *View) Name() string { return "sequence" }

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	v.tracks.Changes(func(k Key, e *aged.Entry[Key, entry]) {
		if e != nil {
			put(k.bytes(), e.Value.value())
		} else {
			del(k.bytes())
		}
	})
}

// Load implements view.View. Errors: ErrRow.
func (v *View) Load(key, value []byte) error {
	if len(key) != keyBytes {
		return fmt.Errorf("%w: key %x", ErrRow, key)
	}
	be := binary.BigEndian
	k := Key{Producer: be.Uint64(key), Queue: store.QueueKey{Topic: be.Uint64(key[8:]), Queue: be.Uint32(key[16:])}}
	var e entry
	r := payload.Of(value)
	e.read(&r)
	if !r.Done() || e.incarnation == 0 || len(e.spans) == 0 || e.floor > e.spans[0].first {
		return fmt.Errorf("%w: %x of key %x", ErrRow, value, key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tracks.Load(k, e)
	return nil
}

func (e *entry) read(r *payload.Reader) {
	e.index, e.millis = r.Number(math.MaxUint64), r.Signed(math.MinInt64)
	e.incarnation, e.floor, e.begun = r.Number(math.MaxUint64), r.Number(math.MaxUint64), r.Number(math.MaxUint64)
	for range r.Number(maxFenced) {
		e.fenced = append(e.fenced, r.Number(math.MaxUint64))
	}
	end := uint64(0)
	for range r.Number(maxSpans) {
		s := span{first: r.Number(math.MaxUint64), count: r.Number(math.MaxUint64)}
		if s.first += end; s.first < end || s.end() <= s.first {
			r.Fail()
		}
		s.Base, s.Index, s.Millis = r.Signed(math.MinInt64), r.Number(math.MaxUint64), r.Signed(math.MinInt64)
		e.spans = append(e.spans, s)
		end = s.end()
	}
}
