package timer

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/rmqio/rmq/broker/payload"
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
	millis = make([]int64, p.Number(uint64(min(len(p.Rest()), batch.MaxCount))))
	for i := range millis {
		millis[i] = p.Signed(math.MinInt64)
		if millis[i] == gone {
			p.Fail()
		}
	}
	sum := checksum(data[:len(data)-len(p.Rest())])
	if p.Bad() || len(millis) == 0 || len(p.Rest()) < checksumBytes || binary.LittleEndian.Uint32(p.Rest()) != sum {
		return nil, nil, fmt.Errorf("%w: timer record of %d bytes is cut or damaged", ErrRecord, len(data))
	}
	return millis, p.Rest()[checksumBytes:], nil
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
	at := Place{Origin: p.Number(math.MaxUint64), Position: p.position()}
	id := p.ID()
	return at, id, p.end("recall")
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// fields are those of a record or row of this package.
type fields struct{ payload.Reader }

// open takes the version.
func open(data []byte) *fields { return &fields{payload.Versioned(data, recordVersion)} }

func (p *fields) position() int { return int(p.Number(batch.MaxCount - 1)) }

func (p *fields) end(kind string) error {
	if !p.Done() {
		return fmt.Errorf("%w: %s is cut, too long or damaged", ErrRecord, kind)
	}
	return nil
}
