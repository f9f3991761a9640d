package transaction

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

const (
	recordVersion = 1
	maxNameBytes  = 255
	checksumBytes = 4
	leastKeyBytes = 2 // origin, position
)

// Decision says what a decision record says of its messages.
type Decision uint8

// The decisions. The numbers are on disk. A commit is a batch record.
const (
	Asked      Decision = 0 // their producers were asked
	RolledBack Decision = 1
)

// Half is what a half record has.
type Half struct {
	Group string
	// ImmunityMillis is, for each message of the batch, for how long nobody is
	// asked; 0: as the broker does by default.
	ImmunityMillis []int64
	Batch          []byte
}

// EncodeHalf is the payload of a half record. The group has 1 to 255 bytes, and
// the batch, which is copied, has passed batch.Check.
func EncodeHalf(h *Half) []byte {
	b := make([]byte, 0, len(h.Group)+len(h.ImmunityMillis)+len(h.Batch)+32)
	b = appendName(append(b, recordVersion), h.Group)
	b = binary.AppendUvarint(b, uint64(len(h.ImmunityMillis)))
	for _, millis := range h.ImmunityMillis {
		b = binary.AppendVarint(b, millis)
	}
	b = binary.LittleEndian.AppendUint32(b, checksum(b))
	return append(b, h.Batch...)
}

// DecodeHalf reads what EncodeHalf wrote. Batch shares data's memory. Errors:
// ErrRecord.
func DecodeHalf(data []byte) (Half, error) {
	p := versioned(data)
	h := Half{Group: p.name()}
	h.ImmunityMillis = make([]int64, min(p.count(1), batch.MaxCount))
	for i := range h.ImmunityMillis {
		h.ImmunityMillis[i] = p.varint(0)
	}
	if p.bad || len(p.b) < checksumBytes {
		return Half{}, fmt.Errorf("%w: half messages are cut", ErrRecord)
	}
	head := data[:len(data)-len(p.b)]
	if got, want := checksum(head), binary.LittleEndian.Uint32(p.b); got != want {
		return Half{}, fmt.Errorf("%w: half messages have checksum %#08x, the record says %#08x", ErrRecord, got, want)
	}
	h.Batch = p.b[checksumBytes:]
	if head, err := batch.ParseHeader(h.Batch); err != nil || head.Length != len(h.Batch) || head.Count != len(h.ImmunityMillis) {
		return Half{}, fmt.Errorf("%w: half messages: %d times for a batch of %d: %w", ErrRecord, len(h.ImmunityMillis), head.Count, orCorrupt(err))
	}
	return h, nil
}

func orCorrupt(err error) error {
	if err == nil {
		return batch.ErrCorrupt
	}
	return err
}

// EncodeDecision is the payload of a decision record on some messages. Without
// any it has no effect.
func EncodeDecision(d Decision, keys ...Key) []byte {
	b := binary.AppendUvarint([]byte{recordVersion, byte(d)}, uint64(len(keys)))
	for _, k := range keys {
		b = binary.AppendUvarint(b, k.Origin)
		b = binary.AppendUvarint(b, uint64(k.Position))
	}
	return b
}

// DecodeDecision reads what EncodeDecision wrote. Errors: ErrRecord.
func DecodeDecision(data []byte) (Decision, []Key, error) {
	p := versioned(data)
	d := Decision(p.byte(byte(RolledBack)))
	keys := make([]Key, p.count(leastKeyBytes))
	for i := range keys {
		keys[i] = Key{Origin: p.uvarint(math.MaxUint64), Position: p.position()}
	}
	if p.bad || len(p.b) > 0 {
		return 0, nil, fmt.Errorf("%w: a decision is cut, too long or damaged", ErrRecord)
	}
	return d, keys, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func appendName(b []byte, name string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(name))), name...)
}

// payload takes fields from the front of b. After one that is not there, or is
// out of its range, all further ones are zero and bad is set.
type payload struct {
	b   []byte
	bad bool
}

// versioned takes the version.
func versioned(data []byte) *payload {
	p := &payload{b: data}
	if p.byte(recordVersion) != recordVersion {
		p.fail()
	}
	return p
}

func (p *payload) fail() { p.b, p.bad = nil, true }

func (p *payload) byte(limit byte) byte {
	if len(p.b) == 0 || p.b[0] > limit {
		p.fail()
		return 0
	}
	v := p.b[0]
	p.b = p.b[1:]
	return v
}

func (p *payload) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || v > limit {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *payload) varint(least int64) int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 || v < least {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *payload) position() int { return int(p.uvarint(batch.MaxCount - 1)) }

// count takes the number of elements of at least size bytes that follow, so that
// nothing is allocated for a false one.
func (p *payload) count(size int) int { return int(p.uvarint(uint64(len(p.b) / size))) }

func (p *payload) name() string {
	n := int(p.uvarint(maxNameBytes))
	if n < 1 || n > len(p.b) {
		p.fail()
		return ""
	}
	s := string(p.b[:n])
	p.b = p.b[n:]
	return s
}

func (p *payload) id() (id message.ID) {
	if len(p.b) < len(id) {
		p.fail()
		return id
	}
	p.b = p.b[copy(id[:], p.b):]
	return id
}
