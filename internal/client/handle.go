package client

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrBadHandle is returned for a text that no broker's handle has: it is cut,
// changed, or of a version that this build does not know.
var ErrBadHandle = errors.New("not a handle of a message")

const (
	handleVersion = 1
	// maxHandleBytes is above what the longest names need.
	maxHandleBytes = 1024
)

// Handle names a message that a broker holds back. Its text form is for users to
// keep and says nothing to them: base64url of a version, the broker, the topic,
// the message's id, origin and position, and a checksum, which is there against
// mistakes. A broker does not trust it: it compares all with what it has.
type Handle struct {
	Broker string
	protocol.Held
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h Handle) String() string {
	id, _ := message.ParseID(h.ID) // an id that is none becomes the zero id, which no broker has
	b := []byte{handleVersion}
	b = appendName(appendName(b, h.Broker), h.Topic)
	b = append(b, id[:]...)
	b = binary.AppendUvarint(b, h.Origin)
	b = binary.AppendUvarint(b, uint64(h.Position))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

func appendName(b []byte, name string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(name))), name...)
}

// ParseHandle reads the text form. Errors are ErrBadHandle and
// protocol.InvalidArgument.
func ParseHandle(s string) (Handle, error) {
	bad := func(why string) (Handle, error) {
		return Handle{}, fmt.Errorf("%w: %w: %s", protocol.InvalidArgument, ErrBadHandle, why)
	}
	if len(s) > maxHandleBytes {
		return bad(fmt.Sprintf("%d characters, the limit is %d", len(s), maxHandleBytes))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	switch {
	case err != nil || len(b) < 5:
		return bad("it is cut, or holds other characters than base64url has")
	case b[0] != handleVersion:
		return bad(fmt.Sprintf("version %d; known is %d", b[0], handleVersion))
	case crc32.Checksum(b[:len(b)-4], castagnoli) != binary.LittleEndian.Uint32(b[len(b)-4:]):
		return bad("it was changed")
	}
	h, ok := readHandle(b[1 : len(b)-4])
	if !ok {
		return bad("its fields break the rules")
	}
	return h, nil
}

// readHandle reads what stands between the version and the checksum, which
// anyone can make fit.
func readHandle(b []byte) (h Handle, ok bool) {
	r := handleReader{b: b}
	h.Broker, h.Topic = r.name(), r.name()
	id, _ := message.ParseID(hex.EncodeToString(r.bytes(16)))
	h.ID, h.Origin = id.String(), r.number()
	position := r.number()
	h.Position = int(min(position, batch.MaxCount))
	ok = !r.failed && len(r.b) == 0 && h.Origin != 0 && position < batch.MaxCount &&
		message.CheckBroker(h.Broker) == nil && message.CheckAnyTopic(h.Topic) == nil
	return h, ok
}

// handleReader takes fields from the front; after one that is not there, all
// further ones are empty and failed is set.
type handleReader struct {
	b      []byte
	failed bool
}

func (r *handleReader) number() uint64 {
	v, used := binary.Uvarint(r.b)
	if used <= 0 {
		r.b, r.failed = nil, true
		return 0
	}
	r.b = r.b[used:]
	return v
}

func (r *handleReader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.b, r.failed = nil, true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *handleReader) name() string { return string(r.bytes(r.number())) }
