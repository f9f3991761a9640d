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
// a message of it, and says what the message has.
func checkHead(head []byte) (Use, error) {
	r := reader{b: head}
	var id message.ID
	var use Use
	flags := r.ids(&id)
	size, legal := r.properties(flags)
	if flags&hasExtras != 0 {
		more, extra, err := r.checkExtras(flags&hasGroup != 0)
		if err != nil {
			return 0, err
		}
		size, use = size+more, extra
	}
	if flags&hasGroup != 0 {
		use |= UsesGroup
	}
	if err := r.end(); err != nil {
		return 0, err
	}
	switch {
	case size > message.MaxPropertiesBytes:
		return 0, fmt.Errorf("%w: properties of %d bytes, the limit is %d", ErrTooLarge, size, message.MaxPropertiesBytes)
	case !legal:
		return 0, fmt.Errorf("%w: a key is empty or holds a space, there are more than %d, a group has more than %d bytes, or a property has no name or a reserved one",
			message.ErrIllegalMessage, message.MaxKeys, message.MaxGroupNameBytes)
	}
	return use, nil
}

// ids reads what stands in every head: last becomes the message's id.
func (r *reader) ids(last *message.ID) (flags byte) {
	flags = r.byte()
	instance := last.Instance()
	if flags&hasInstance != 0 {
		instance = r.uint64()
	}
	*last = message.MakeID(instance, last.Counter()+uint64(r.varint()))
	r.varint()
	return flags
}

// properties skips tag, keys, group and properties. It returns what message.PropertiesBytes
// would, and whether keys and names are legal.
func (r *reader) properties(flags byte) (size int, legal bool) {
	legal = true
	if flags&hasTag != 0 {
		size += len(r.bytes())
	}
	if flags&hasKeys != 0 {
		n := r.count()
		legal = n <= message.MaxKeys
		for ; n > 0; n-- {
			key := r.bytes()
			size += len(key) + 1
			legal = legal && len(key) > 0 && bytes.IndexByte(key, ' ') < 0
		}
	}
	if flags&hasGroup != 0 {
		group := r.bytes()
		size += len(group)
		legal = legal && len(group) <= message.MaxGroupNameBytes
	}
	if flags&hasProperties != 0 {
		for n := r.count(); n > 0; n-- {
			name := r.bytes()
			size += len(name) + len(r.bytes()) + 2
			legal = legal && len(name) > 0 && !message.IsReservedProperty(name)
		}
	}
	return size, legal
}
