// Package protocol is what may appear on the wire: the frame, the codes of
// requests and errors, one struct for each request and response, and the
// subjects. It does no I/O. docs/wire.md shows every byte.
package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// Sizes of frames. MaxFrameBytes is the max_payload of every server.
const (
	FrameVersion   = 1
	FrameHeader    = 32
	MaxFrameBytes  = 8 << 20
	MaxControlJSON = 4 << 20 // a payload that is JSON

	frameMagic = 0x7172 // "rq"
	frameCRCAt = 28

	maxTimeoutMillis = uint64(math.MaxInt64 / time.Millisecond) // a time.Duration holds no more
)

// Errors of DecodeFrame.
var (
	// ErrBadFrame is returned for a frame that is cut, too long or damaged.
	ErrBadFrame = errors.New("bad frame")
	// ErrFrameVersion is returned for a frame of a version or with a flag that
	// this build does not know.
	ErrFrameVersion = errors.New("unsupported frame version")
)

// Kind says what a frame is.
type Kind uint8

// The kinds of frames.
const (
	KindRequest  Kind = 1 // wants an answer with the same ID
	KindResponse Kind = 2 // the answer
	KindError    Kind = 3 // the answer is a protocol.Error
	KindEvent    Kind = 4 // wants no answer
)

// Frame is one NATS message, or one of several answers in one.
type Frame struct {
	Kind Kind
	Code Code
	// ID joins an answer to its request; unique within a connection.
	ID uint64
	// Timeout of a request is how long the caller will still wait when it sends;
	// the receiver counts from the arrival. It crosses the wire in whole
	// milliseconds, rounded down, but at least one. Zero: the caller waits for ever.
	Timeout time.Duration
	Payload []byte
}

// AppendFrame appends the encoding of f to dst.
func AppendFrame(dst []byte, f *Frame) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, FrameHeader)...)
	dst = append(dst, f.Payload...)
	FinishFrame(dst[at:], f)
	return dst
}

// FinishFrame fills in the header of a frame whose payload stands in b already,
// behind FrameHeader bytes; f.Payload is not looked at. It saves a copy of
// large payloads.
func FinishFrame(b []byte, f *Frame) {
	le := binary.LittleEndian
	le.PutUint16(b, frameMagic)
	b[2], b[3] = FrameVersion, uint8(f.Kind)
	le.PutUint16(b[4:], uint16(f.Code))
	le.PutUint16(b[6:], 0) // flags: none yet
	le.PutUint64(b[8:], f.ID)
	le.PutUint64(b[16:], f.timeoutMillis())
	le.PutUint32(b[24:], uint32(len(b)-FrameHeader))
	le.PutUint32(b[frameCRCAt:], frameCRC(b))
}

// CutFrame returns the first of the frames that stand one behind another in b, by
// its header, and what is behind it: all of b and nothing when the header does not
// say. Both share b's memory.
func CutFrame(b []byte) (frame, rest []byte) {
	if len(b) < FrameHeader {
		return b, nil
	}
	n := FrameHeader + uint64(binary.LittleEndian.Uint32(b[24:]))
	if n > uint64(len(b)) {
		return b, nil
	}
	return b[:n:n], b[n:]
}

// DecodeFrame reads one frame that fills b. The payload shares b's memory. When
// the header is whole but the rest is not, the frame is returned beside the
// error, with Kind, Code and ID set, so that the request can be refused.
func DecodeFrame(b []byte) (Frame, error) {
	if len(b) < FrameHeader {
		return Frame{}, fmt.Errorf("%w: %d bytes, a header has %d", ErrBadFrame, len(b), FrameHeader)
	}
	le := binary.LittleEndian
	if m := le.Uint16(b); m != frameMagic {
		return Frame{}, fmt.Errorf("%w: magic %#04x", ErrBadFrame, m)
	}
	f := Frame{Kind: Kind(b[3]), Code: Code(le.Uint16(b[4:])), ID: le.Uint64(b[8:])}
	if b[2] != FrameVersion {
		return f, fmt.Errorf("%w: %d; known is %d", ErrFrameVersion, b[2], FrameVersion)
	}
	if flags := le.Uint16(b[6:]); flags != 0 {
		return f, fmt.Errorf("%w: flags %#04x", ErrFrameVersion, flags)
	}
	timeout := le.Uint64(b[16:])
	if timeout > maxTimeoutMillis {
		return f, fmt.Errorf("%w: timeout of %d ms", ErrBadFrame, timeout)
	}
	f.Timeout = time.Duration(timeout) * time.Millisecond
	if n := le.Uint32(b[24:]); uint64(n) != uint64(len(b)-FrameHeader) {
		return f, fmt.Errorf("%w: payload of %d bytes in a frame of %d", ErrBadFrame, n, len(b))
	}
	if got, want := frameCRC(b), le.Uint32(b[frameCRCAt:]); got != want {
		return f, fmt.Errorf("%w: checksum %#08x, header says %#08x", ErrBadFrame, got, want)
	}
	if f.Kind < KindRequest || f.Kind > KindEvent {
		return f, fmt.Errorf("%w: kind %d", ErrBadFrame, f.Kind)
	}
	f.Payload = b[FrameHeader:]
	return f, nil
}

func (f *Frame) timeoutMillis() uint64 {
	if f.Timeout == 0 {
		return 0
	}
	return uint64(max(f.Timeout.Milliseconds(), 1)) // one that is over is not none
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func frameCRC(b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:frameCRCAt]), castagnoli, b[FrameHeader:])
}
