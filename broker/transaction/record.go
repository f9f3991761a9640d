package transaction

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/rmqio/rmq/broker/payload"
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
	b = payload.AppendText(append(b, recordVersion), h.Group)
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
	h.ImmunityMillis = make([]int64, min(p.Count(1), batch.MaxCount))
	for i := range h.ImmunityMillis {
		h.ImmunityMillis[i] = p.Signed(0)
	}
	if p.Bad() || len(p.Rest()) < checksumBytes {
		return Half{}, fmt.Errorf("%w: half messages are cut", ErrRecord)
	}
	head := data[:len(data)-len(p.Rest())]
	if got, want := checksum(head), binary.LittleEndian.Uint32(p.Rest()); got != want {
		return Half{}, fmt.Errorf("%w: half messages have checksum %#08x, the record says %#08x", ErrRecord, got, want)
	}
	h.Batch = p.Rest()[checksumBytes:]
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
	d := Decision(p.Byte(byte(RolledBack)))
	keys := make([]Key, p.Count(leastKeyBytes))
	for i := range keys {
		keys[i] = Key{Origin: p.Number(math.MaxUint64), Position: p.position()}
	}
	if !p.Done() {
		return 0, nil, fmt.Errorf("%w: a decision is cut, too long or damaged", ErrRecord)
	}
	return d, keys, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// fields are those of a record or row of this package.
type fields struct{ payload.Reader }

// versioned takes the version.
func versioned(data []byte) *fields { return &fields{payload.Versioned(data, recordVersion)} }

func (p *fields) position() int { return int(p.Number(batch.MaxCount - 1)) }

func (p *fields) name() string { return p.Text(1, maxNameBytes) }
