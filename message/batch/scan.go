package batch

import (
	"fmt"

	"github.com/rmqio/rmq/message"
)

// Scan hands the id and the keys of each message of a batch to visit, in order,
// without decoding more than that. The keys are lent: they share b's memory and
// the slice is used again. It checks lengths but no checksum.
func Scan(b []byte, visit func(id message.ID, keys [][]byte)) error {
	h, err := ParseHeader(b)
	if err != nil {
		return err
	}
	rest, last := b[h.bodyAt:h.Length], h.FirstID
	var keys [][]byte
	for i := range h.Count {
		head, _, next, err := cutMessage(rest)
		if err != nil {
			return fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		r := reader{b: head}
		keys = r.scan(&last, keys[:0])
		if r.failed {
			return fmt.Errorf("%w: head of message %d of %d", ErrCorrupt, i, h.Count)
		}
		visit(last, keys)
		rest = next
	}
	return nil
}

// scan reads a head as far as its keys; last becomes the message's id.
func (r *reader) scan(last *message.ID, keys [][]byte) [][]byte {
	flags := r.byte()
	instance := last.Instance()
	if flags&hasInstance != 0 {
		instance = r.uint64()
	}
	*last = message.MakeID(instance, last.Counter()+uint64(r.varint()))
	if flags&hasKeys == 0 {
		return keys
	}
	r.varint() // born
	if flags&hasTag != 0 {
		r.bytes()
	}
	for n := r.count(); n > 0 && !r.failed; n-- {
		keys = append(keys, r.bytes())
	}
	return keys
}
