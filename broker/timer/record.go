package timer

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
	checksumBytes = 4
)

// gone is the time of a message that does not wait any more, or never did.
const gone = Earliest

// Encode is the payload of a timer record: a batch, which has passed batch.Check,
// and for each of its messages when it is due. The batch is copied. A payload that
// cannot be decoded would stop every reader of the log.
func Encode(millis []int64, b []byte) []byte {
	data := make([]byte, 1, 1+binary.MaxVarintLen64*(1+len(millis))+checksumBytes+len(b))
	data[0] = recordVersion
	data = binary.AppendUvarint(data, uint64(len(millis)))
	for _, m := range millis {
		data = binary.AppendVarint(data, m)
	}
	data = binary.LittleEndian.AppendUint32(data, checksum(data))
	return append(data, b...)
}

// Decode reads what Encode wrote. The batch shares the payload's memory and is not
// looked into; it has a checksum of its own. Errors: ErrRecord.
func Decode(data []byte) (millis []int64, b []byte, err error) {
	p := open(data)
	millis = make([]int64, p.number(uint64(min(len(p.b), batch.MaxCount))))
	for i := range millis {
		millis[i] = p.signed()
		if millis[i] == gone {
			p.fail()
		}
	}
	sum := checksum(data[:len(data)-len(p.b)])
	if p.bad || len(millis) == 0 || len(p.b) < checksumBytes || binary.LittleEndian.Uint32(p.b) != sum {
		return nil, nil, fmt.Errorf("%w: timer record of %d bytes is cut or damaged", ErrRecord, len(data))
	}
	return millis, p.b[checksumBytes:], nil
}

// EncodeRecall is the payload of a record that takes a message back.
func EncodeRecall(at Place, id message.ID) []byte {
	b := binary.AppendUvarint([]byte{recordVersion}, at.Origin)
	b = binary.AppendUvarint(b, uint64(at.Position))
	return append(b, id[:]...)
}

// DecodeRecall reads what EncodeRecall wrote. Errors: ErrRecord.
func DecodeRecall(data []byte) (Place, message.ID, error) {
	p := open(data)
	at := Place{Origin: p.number(math.MaxUint64), Position: p.position()}
	id := p.id()
	return at, id, p.end("recall")
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// payload takes fields from the front of b. After one that is not there, or is
// out of its range, all further ones are zero and bad is set.
type payload struct {
	b   []byte
	bad bool
}

// open takes the version.
func open(data []byte) *payload {
	p := &payload{b: data}
	if len(data) == 0 || data[0] != recordVersion {
		p.fail()
		return p
	}
	p.b = data[1:]
	return p
}

func (p *payload) fail() { p.b, p.bad = nil, true }

func (p *payload) number(limit uint64) uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 || v > limit {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *payload) position() int { return int(p.number(batch.MaxCount - 1)) }

func (p *payload) signed() int64 {
	v, n := binary.Varint(p.b)
	if n <= 0 {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *payload) id() (id message.ID) {
	if len(p.b) < len(id) {
		p.fail()
		return id
	}
	p.b = p.b[copy(id[:], p.b):]
	return id
}

func (p *payload) end(kind string) error {
	if p.bad || len(p.b) != 0 {
		return fmt.Errorf("%w: %s is cut, too long or damaged", ErrRecord, kind)
	}
	return nil
}
