package batch

import (
	"encoding/binary"
	"fmt"
)

// A sparse batch is what a broker gives a consumer that wants some of the messages
// of a stored batch only: these messages, and their places in that batch, so that
// each keeps its queue offset. Its other sections and flags are left out.

// sparse is the section of a sparse batch.
type sparse struct {
	span   int    // how many messages the stored batch has; 0: it is no sparse batch
	places []byte // of the messages, as they stand in the section; checked
}

// Span is how many queue offsets the batch stands for: more than it has messages
// when a broker has left some out.
func (h *Header) Span() int { return max(h.sparse.span, h.Count) }

// readSparse reads the section; rest begins with it.
func (h *Header) readSparse(flags byte, rest []byte) error {
	if flags != flagSparse {
		return fmt.Errorf("%w: flags %#02x contradict one another", ErrCorrupt, flags)
	}
	r := reader{b: rest}
	span := r.uvarint()
	if r.failed || span > MaxCount || int(span) <= h.Count {
		return fmt.Errorf("%w: %d messages of a batch of %d", ErrCorrupt, h.Count, span)
	}
	h.sparse = sparse{span: int(span), places: r.b}
	last := -1
	for i := range h.Count {
		p := int(min(r.uvarint(), MaxCount))
		if r.failed || p <= last || p >= h.sparse.span {
			return fmt.Errorf("%w: place %d in a batch of %d is cut, out of order or not within it", ErrCorrupt, i, span)
		}
		last = p
	}
	h.bodyAt += len(rest) - len(r.b)
	return nil
}

// places tells where the messages of a batch stand in it as it was stored.
type places struct {
	r    reader
	next int64
}

func (h *Header) places() places { return places{r: reader{b: h.sparse.places}} }

// take is the place of the next message.
func (p *places) take() int64 {
	if p.r.b != nil {
		return int64(p.r.uvarint())
	}
	p.next++
	return p.next - 1
}

// Glance is a message of a batch as far as a filter looks at it. It is read from
// the batch's bytes each time. It is a filter.Source.
type Glance struct {
	flags  byte
	fields []byte // of the head, from the born time on
	size   int
	failed bool
}

// Size is how many bytes the message has in the batch, but for their lengths.
func (g *Glance) Size() int { return g.size }

// look reads a head as far as its id, which follows the one before.
func (g *Glance) look(head []byte, id *idHalves) {
	r := reader{b: head}
	g.flags = r.byte()
	if g.flags&hasInstance != 0 {
		id.instance = r.uint64()
	}
	id.counter += uint64(r.varint())
	g.fields, g.failed = r.b, r.failed
}

// idHalves is an id taken apart.
type idHalves struct{ instance, counter uint64 }

// Tag is the message's tag; it shares the batch's memory.
func (g *Glance) Tag() []byte {
	if g.flags&hasTag == 0 {
		return nil
	}
	r := reader{b: g.fields}
	r.varint()
	tag := r.bytes()
	g.failed = g.failed || r.failed
	return tag
}

// Group is the message's group, nil when it has none; it shares the batch's memory.
func (g *Glance) Group() []byte {
	if g.flags&hasGroup == 0 {
		return nil
	}
	r := reader{b: g.fields}
	r.varint()
	if g.flags&hasTag != 0 {
		r.bytes()
	}
	if g.flags&hasKeys != 0 {
		for n := r.count(); n > 0; n-- {
			r.bytes()
		}
	}
	group := r.bytes()
	g.failed = g.failed || r.failed
	return group
}

// Property returns a property, or the tag as TAGS, or the keys, with a space
// between them, as KEYS; false: there is none.
func (g *Glance) Property(name string) (value string, ok bool) {
	if name == "TAGS" {
		tag := g.Tag()
		return string(tag), len(tag) > 0
	}
	r := reader{b: g.fields}
	r.varint()
	if g.flags&hasTag != 0 {
		r.bytes()
	}
	if name == "KEYS" {
		value, ok = r.joinedKeys(g.flags)
	} else {
		value, ok = r.property(g.flags, name)
	}
	g.failed = g.failed || r.failed
	return value, ok
}

func (r *reader) joinedKeys(flags byte) (string, bool) {
	if flags&hasKeys == 0 {
		return "", false
	}
	n := r.count()
	var joined []byte
	for i := range n {
		if i > 0 {
			joined = append(joined, ' ')
		}
		joined = append(joined, r.bytes()...)
	}
	return string(joined), n > 0
}

// property reads on from the keys. Of a name that is there twice the last counts,
// as it does for who decodes the message.
func (r *reader) property(flags byte, name string) (string, bool) {
	if flags&hasProperties == 0 {
		return "", false
	}
	if flags&hasKeys != 0 {
		for n := r.count(); n > 0; n-- {
			r.bytes()
		}
	}
	if flags&hasGroup != 0 {
		r.bytes()
	}
	var found []byte
	ok := false
	for n := r.count(); n > 0; n-- {
		k, v := r.bytes(), r.bytes()
		if string(k) == name {
			found, ok = v, true
		}
	}
	return string(found), ok && !r.failed
}

// Count counts the messages of the batch at the start of b that want takes, from one
// place in it up to another. The batch has passed Verify; Count checks the lengths
// that it goes by. What want is given it may use during the call only.
func Count(b []byte, from, to int, want func(*Glance) bool) (int, error) {
	n, at := 0, 0
	_, _, err := pick(nil, b, func(g *Glance) bool {
		if at >= from && at < to && want(g) {
			n++
		}
		at++
		return false
	})
	return n, err
}

// Select appends to dst what a consumer is given that wants some of the messages of
// the batch at the start of b: nothing when want takes none of them, the batch as
// it is when want takes all, and else a sparse one with those. It returns how many
// want takes. Where a sparse batch would be no shorter the whole one is given: a
// consumer looks again. What is said of Count holds here too; with an error dst is
// returned as it came.
func Select(dst, b []byte, want func(*Glance) bool) (_ []byte, n int, err error) {
	var room [32]picked
	some, h, err := pick(room[:0], b, want)
	switch {
	case err != nil:
		return dst, 0, err
	case len(some) == 0:
		return dst, 0, nil
	case len(some) == h.Count:
		return append(dst, b[:h.Length]...), h.Count, nil
	}
	at := len(dst)
	dst = h.appendSparse(dst, b, some)
	if len(dst)-at >= h.Length {
		dst = append(dst[:at], b[:h.Length]...)
	}
	return dst, len(some), nil
}

// picked is a message that is taken.
type picked struct {
	place  int
	id     idHalves
	flags  byte
	fields []byte // of the head, from the born time on
	body   []byte
}

// pick appends the messages that want takes.
func pick(some []picked, b []byte, want func(*Glance) bool) ([]picked, Header, error) {
	h, err := ParseHeader(b)
	if err == nil && h.sparse.span > 0 {
		err = fmt.Errorf("%w: messages are left out of it already", ErrVersion)
	}
	if err != nil {
		return nil, h, err
	}
	rest, id := b[h.bodyAt:h.Length], idHalves{h.FirstID.Instance(), h.FirstID.Counter()}
	var g Glance
	for i := range h.Count {
		head, body, next, err := cutMessage(rest)
		if err != nil {
			return nil, h, fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		g.look(head, &id)
		g.size = len(head) + len(body)
		if want(&g) {
			some = append(some, picked{i, id, g.flags, g.fields, body})
		}
		if g.failed {
			return nil, h, fmt.Errorf("%w: head of message %d of %d", ErrCorrupt, i, h.Count)
		}
		rest = next
	}
	return some, h, nil
}

// appendSparse appends the sparse batch of b with these messages, of which there
// is one at least.
func (h *Header) appendSparse(dst, b []byte, some []picked) []byte {
	at := len(dst)
	dst = append(dst, b[:fixedBytes+len(h.Topic)]...)
	dst = binary.AppendUvarint(dst, uint64(h.Count))
	for i := range some {
		dst = binary.AppendUvarint(dst, uint64(some[i].place))
	}
	last := some[0].id
	for i := range some {
		dst = some[i].append(dst, last)
		last = some[i].id
	}
	s, le := dst[at:], binary.LittleEndian
	s[3] = flagSparse
	le.PutUint32(s[4:], uint32(len(s)))
	le.PutUint32(s[44:], uint32(len(some)))
	le.PutUint64(s[56:], some[0].id.instance)
	le.PutUint64(s[64:], some[0].id.counter)
	le.PutUint32(s[crcAt:], checksum(s))
	return dst
}

// append appends the message behind one with the id last.
func (p *picked) append(dst []byte, last idHalves) []byte {
	var id [1 + 8 + binary.MaxVarintLen64]byte
	start := append(id[:0], p.flags&^hasInstance)
	if p.id.instance != last.instance {
		start[0] |= hasInstance
		start = binary.LittleEndian.AppendUint64(start, p.id.instance)
	}
	start = binary.AppendVarint(start, int64(p.id.counter-last.counter))
	dst = binary.AppendUvarint(dst, uint64(len(start)+len(p.fields)))
	dst = binary.AppendUvarint(dst, uint64(len(p.body)))
	return append(append(append(dst, start...), p.fields...), p.body...)
}
