package batch

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/rmqio/rmq/message"
)

// minMessageBytes is what a message takes at least: two lengths and the flags.
const minMessageBytes = 3

// Decode verifies the batch at the start of b, appends its messages to dst and
// returns what follows the batch. Broker names the broker that it came from.
// Bodies share b's memory; everything else is copied. With an error dst is
// returned as it came.
func Decode(dst []message.Stored, b []byte, broker string) ([]message.Stored, []byte, error) {
	h, err := Verify(b)
	if err != nil {
		return dst, nil, err
	}
	all := dst
	err = h.decode(b, broker, func() *message.Stored {
		all = append(all, message.Stored{})
		return &all[len(all)-1]
	})
	if err != nil {
		return dst, nil, err
	}
	return all, b[h.Length:], nil
}

// VerifyAll verifies the batches that fill b, one after another, and returns how
// many messages their headers tell of, so that memory for them can be made at
// once: there are never more than their bytes have room for.
func VerifyAll(b []byte) (messages int, err error) {
	for len(b) > 0 {
		h, err := Verify(b)
		if err != nil {
			return 0, err
		}
		if h.Count > (h.Length-h.bodyAt)/minMessageBytes {
			return 0, fmt.Errorf("%w: %d messages in %d bytes", ErrCorrupt, h.Count, h.Length-h.bodyAt)
		}
		messages += h.Count
		b = b[h.Length:]
	}
	return messages, nil
}

// DecodeVerified is Decode of a batch that passed VerifyAll. Each message is
// written to where place says, which is asked once for each, and must be zero.
func DecodeVerified(b []byte, broker string, place func() *message.Stored) (rest []byte, err error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	return b[h.Length:], h.decode(b, broker, place)
}

// decode writes the messages of the batch at the start of b to their places.
func (h *Header) decode(b []byte, broker string, place func() *message.Stored) error {
	queue := message.Queue{Topic: h.Topic, Broker: broker, ID: h.Queue}
	store := time.UnixMilli(h.StoreMillis)
	rest, last, at := b[h.bodyAt:h.Length], h.FirstID, h.places()
	for i := range h.Count {
		head, body, next, err := cutMessage(rest)
		if err != nil {
			return fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		m := place()
		m.Queue, m.QueueOffset, m.StoreTime = queue, h.BaseOffset+at.take(), store
		m.Topic, m.Body = h.Topic, body
		r := reader{b: head}
		r.message(&m.Message, last, h.BornMillis)
		if err := r.end(); err != nil {
			return fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		rest, last = next, m.ID
	}
	if len(rest) != 0 {
		return fmt.Errorf("%w: %d bytes after the last message", ErrCorrupt, len(rest))
	}
	return nil
}

// reader takes fields from the front of b; after a field that is not there
// every further one is zero and failed is set.
type reader struct {
	b      []byte
	failed bool
	err    error // says why it failed where that is not just that bytes are missing
}

// end is the error of a head that must have been read as a whole.
func (r *reader) end() error {
	switch {
	case r.err != nil:
		return r.err
	case r.failed || len(r.b) != 0:
		return fmt.Errorf("%w: the head is cut or longer than its fields", ErrCorrupt)
	}
	return nil
}

func (r *reader) message(m *message.Message, last message.ID, bornBase int64) {
	flags := r.byte()
	instance := last.Instance()
	if flags&hasInstance != 0 {
		instance = r.uint64()
	}
	m.ID = message.MakeID(instance, last.Counter()+uint64(r.varint()))
	m.BornTime = time.UnixMilli(bornBase + r.varint())
	if flags&hasTag != 0 {
		m.Tag = r.string()
	}
	if flags&hasKeys != 0 {
		m.Keys = make([]string, r.count())
		for i := range m.Keys {
			m.Keys[i] = r.string()
		}
	}
	if flags&hasGroup != 0 {
		m.Group = r.string()
	}
	if flags&hasProperties != 0 {
		n := r.count()
		m.Properties = make(map[string]string, min(n, 64)) // a false count makes no large map
		for range n {
			k := r.string()
			m.Properties[k] = r.string()
		}
	}
	if flags&hasExtras != 0 {
		r.readExtras(m)
	}
}

func (r *reader) byte() byte {
	if len(r.b) < 1 {
		r.failed = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.failed = true
		return 0
	}
	v := binary.LittleEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count reads how many strings follow; each takes a byte at least, so that a
// false count cannot make a large allocation.
func (r *reader) count() int {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(len(r.b)-n) {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

// bytes reads a string without copying it.
func (r *reader) bytes() []byte {
	n := r.count()
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.bytes()) }
