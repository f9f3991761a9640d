package batch

import (
	"encoding/binary"

	"github.com/rmqio/rmq/message"
)

// Flags of one message: which fields its head has.
const (
	hasTag = 1 << iota
	hasKeys
	hasGroup
	hasProperties
	hasInstance // the id's instance differs from the one before
	hasExtras

	knownFlags = hasTag | hasKeys | hasGroup | hasProperties | hasInstance | hasExtras
)

// Builder writes one batch. Its zero value is not usable; see NewBuilder. It is
// not safe for concurrent use.
type Builder struct {
	buf     []byte
	head    []byte // scratch of Add
	count   int
	lastID  message.ID
	born    int64
	tagHash uint32
}

// NewBuilder starts a batch for the queue. The topic has at most 255 bytes.
func NewBuilder(topic string, queue int) *Builder {
	b := &Builder{buf: make([]byte, 0, 512)}
	b.Reset(topic, queue)
	return b
}

// Reset is Begin for a batch that goes to its queue and has no sections.
func (b *Builder) Reset(topic string, queue int) { b.Begin(&Lead{Topic: topic, Queue: queue}) }

// Begin starts another batch in the memory of the one before, whose bytes must
// not be used any more.
func (b *Builder) Begin(l *Lead) {
	b.count = 0
	b.buf = append(b.buf[:0], make([]byte, fixedBytes)...)
	le := binary.LittleEndian
	le.PutUint16(b.buf, magic)
	b.buf[2], b.buf[3] = Version, l.flags()
	le.PutUint32(b.buf[40:], uint32(l.Queue))
	b.buf[76] = uint8(len(l.Topic))
	b.buf = l.appendSections(append(b.buf, l.Topic...))
}

// Count is the number of messages so far.
func (b *Builder) Count() int { return b.count }

// Len is the number of bytes so far.
func (b *Builder) Len() int { return len(b.buf) }

// Add appends a message, which must have passed Validate and have an ID and a
// BornTime. The message is copied.
func (b *Builder) Add(m *message.Message) {
	if b.count == 0 {
		b.start(m)
	}
	b.head = b.appendHead(b.head[:0], m)
	b.buf = binary.AppendUvarint(b.buf, uint64(len(b.head)))
	b.buf = binary.AppendUvarint(b.buf, uint64(len(m.Body)))
	b.buf = append(b.buf, b.head...)
	b.buf = append(b.buf, m.Body...)
	if TagHash(m.Tag) != b.tagHash {
		b.tagHash = 0
	}
	if m.DedupKey != "" {
		b.buf[3] |= flagDedup
	}
	if m.Origin != nil || m.ReconsumeTimes != 0 {
		b.buf[3] |= flagCopy
	}
	b.lastID = m.ID
	b.count++
}

func (b *Builder) start(m *message.Message) {
	b.born, b.lastID, b.tagHash = m.BornTime.UnixMilli(), m.ID, TagHash(m.Tag)
	le := binary.LittleEndian
	le.PutUint64(b.buf[48:], uint64(b.born))
	le.PutUint64(b.buf[56:], m.ID.Instance())
	le.PutUint64(b.buf[64:], m.ID.Counter())
}

func (b *Builder) appendHead(h []byte, m *message.Message) []byte {
	var flags byte
	h = append(h, 0)
	if m.ID.Instance() != b.lastID.Instance() {
		flags |= hasInstance
		h = binary.LittleEndian.AppendUint64(h, m.ID.Instance())
	}
	h = binary.AppendVarint(h, int64(m.ID.Counter()-b.lastID.Counter()))
	h = binary.AppendVarint(h, m.BornTime.UnixMilli()-b.born)
	if m.Tag != "" {
		flags |= hasTag
		h = appendString(h, m.Tag)
	}
	if len(m.Keys) > 0 {
		flags |= hasKeys
		h = binary.AppendUvarint(h, uint64(len(m.Keys)))
		for _, k := range m.Keys {
			h = appendString(h, k)
		}
	}
	if m.Group != "" {
		flags |= hasGroup
		h = appendString(h, m.Group)
	}
	if len(m.Properties) > 0 {
		flags |= hasProperties
		h = binary.AppendUvarint(h, uint64(len(m.Properties)))
		for k, v := range m.Properties {
			h = appendString(appendString(h, k), v)
		}
	}
	h, some := appendExtras(h, m)
	if some {
		flags |= hasExtras
	}
	h[0] = flags
	return h
}

// SetSequence changes the sequence of a batch that was begun with one.
func (b *Builder) SetSequence(s Sequence) { s.put(b.buf[fixedBytes+int(b.buf[76]):]) }

// Finish completes the batch and returns it. The builder must not be used
// again before Reset. A batch without messages is nil.
func (b *Builder) Finish() []byte {
	if b.count == 0 {
		return nil
	}
	le := binary.LittleEndian
	le.PutUint32(b.buf[4:], uint32(len(b.buf)))
	le.PutUint32(b.buf[44:], uint32(b.count))
	le.PutUint32(b.buf[72:], b.tagHash)
	le.PutUint32(b.buf[crcAt:], checksum(b.buf))
	return b.buf
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
