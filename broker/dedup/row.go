package dedup

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/aged"
	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/message"
)

const topicBytes = 8

func (k Key) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, topicBytes+len(k.Text)), k.Topic), k.Text...)
}

func (p Place) value() []byte {
	b := binary.AppendUvarint(nil, p.Index)
	b = binary.AppendVarint(b, p.Millis)
	b = binary.AppendUvarint(b, uint64(p.Queue))
	return binary.AppendUvarint(b, uint64(p.Offset))
}

// Name implements view.View.
func (v *View) Name() string { return v.name }

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	v.keys.Changes(func(k Key, e *aged.Entry[Key, Place]) {
		if e != nil {
			put(k.bytes(), e.Value.value())
		} else {
			del(k.bytes())
		}
	})
}

// Load implements view.View. Errors: ErrRow.
func (v *View) Load(key, value []byte) error {
	var at Place
	ok := len(key) > topicBytes && len(key) <= topicBytes+message.MaxDedupKeyBytes && at.read(value)
	if !ok {
		return fmt.Errorf("%w: %x of key %x", ErrRow, value, key)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys.Load(Key{Topic: binary.BigEndian.Uint64(key), Text: string(key[topicBytes:])}, at)
	return nil
}

func (p *Place) read(value []byte) bool {
	r := payload.Of(value)
	p.Index, p.Millis = r.Number(math.MaxUint64), r.Signed(math.MinInt64)
	p.Queue, p.Offset = uint32(r.Number(math.MaxUint32)), int64(r.Number(math.MaxInt64))
	return r.Done()
}
