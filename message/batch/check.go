package batch

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/rmqio/rmq/message"
)

// cutMessage splits the first message of rest into what precedes its body, its
// body, and what follows it. It refuses sizes above the limits and flags that
// this build does not know; the rest of the head it does not look at.
func cutMessage(rest []byte) (head, body, next []byte, err error) {
	headLen, n := binary.Uvarint(rest)
	if n <= 0 {
		return nil, nil, nil, fmt.Errorf("%w: no head length", ErrCorrupt)
	}
	rest = rest[n:]
	bodyLen, n := binary.Uvarint(rest)
	if n <= 0 {
		return nil, nil, nil, fmt.Errorf("%w: no body length", ErrCorrupt)
	}
	rest = rest[n:]
	switch {
	case headLen == 0 || headLen > uint64(len(rest)) || bodyLen > uint64(len(rest))-headLen:
		return nil, nil, nil, fmt.Errorf("%w: head of %d and body of %d in %d bytes", ErrCorrupt, headLen, bodyLen, len(rest))
	case headLen > maxHeadBytes || bodyLen > message.MaxBodyBytes:
		return nil, nil, nil, fmt.Errorf("%w: head of %d and body of %d bytes; the limits are %d and %d",
			ErrTooLarge, headLen, bodyLen, maxHeadBytes, message.MaxBodyBytes)
	case rest[0]&^knownFlags != 0:
		return nil, nil, nil, fmt.Errorf("%w: message flags %#02x", ErrVersion, rest[0])
	}
	return rest[:headLen], rest[headLen : headLen+bodyLen], rest[headLen+bodyLen:], nil
}

// checkHead holds a head to the rules of message.Message.Validate without making
// a message of it.
func checkHead(head []byte) error {
	r := reader{b: head}
	flags := r.ids()
	size, legal := r.properties(flags)
	switch {
	case r.failed || len(r.b) != 0:
		return fmt.Errorf("%w: head of %d bytes", ErrCorrupt, len(head))
	case size > message.MaxPropertiesBytes:
		return fmt.Errorf("%w: properties of %d bytes, the limit is %d", ErrTooLarge, size, message.MaxPropertiesBytes)
	case !legal:
		return fmt.Errorf("%w: a key is empty or holds a space, or a property has no name", message.ErrIllegalMessage)
	}
	return nil
}

// ids skips what stands in every head and returns its flags.
func (r *reader) ids() (flags byte) {
	flags = r.byte()
	if flags&hasInstance != 0 {
		r.uint64()
	}
	r.varint()
	r.varint()
	return flags
}

// properties skips the rest of a head. It returns what message.PropertiesBytes
// would, and whether keys and names are legal.
func (r *reader) properties(flags byte) (size int, legal bool) {
	legal = true
	if flags&hasTag != 0 {
		size += len(r.bytes())
	}
	if flags&hasKeys != 0 {
		for n := r.count(); n > 0; n-- {
			key := r.bytes()
			size += len(key) + 1
			legal = legal && len(key) > 0 && bytes.IndexByte(key, ' ') < 0
		}
	}
	if flags&hasGroup != 0 {
		size += len(r.bytes())
	}
	if flags&hasProperties != 0 {
		for n := r.count(); n > 0; n-- {
			name := r.bytes()
			size += len(name) + len(r.bytes()) + 2
			legal = legal && len(name) > 0
		}
	}
	return size, legal
}
