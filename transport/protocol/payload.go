package protocol

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
)

// Request is a payload that knows its code.
type Request interface{ RequestCode() Code }

// Marshal appends the encoding of a payload: its own binary form where it has
// one (those that carry batches), else JSON.
func Marshal(dst []byte, v any) ([]byte, error) {
	if b, ok := v.(encoding.BinaryAppender); ok {
		return b.AppendBinary(dst)
	}
	j, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return append(dst, j...), nil
}

// Unmarshal reads what Marshal wrote into v, a pointer. Slices in v may share
// b's memory. Unknown JSON fields are skipped, so that newer peers may add some.
func Unmarshal(b []byte, v any) error {
	if u, ok := v.(encoding.BinaryUnmarshaler); ok {
		return u.UnmarshalBinary(b)
	}
	if len(b) > MaxControlJSON {
		return Errorf(InvalidArgument, "%d bytes of JSON, the limit is %d", len(b), MaxControlJSON)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return Errorf(InvalidArgument, "decode %T: %v", v, err)
	}
	return nil
}

// Empty is the answer of requests that have nothing to say.
type Empty struct{}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// fields takes fields from the front of b. After one that is not there, all
// further ones are zero and bad is set.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.b, f.bad = nil, true
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.b, f.bad = nil, true
		return 0
	}
	f.b = f.b[n:]
	return v
}

// number reads an int that may not be above limit.
func (f *fields) number(limit uint64) int {
	v := f.uvarint()
	if v > limit {
		f.b, f.bad = nil, true
		return 0
	}
	return int(v)
}

func (f *fields) code() ErrorCode { return ErrorCode(f.number(math.MaxUint16)) }

// count reads how many elements of at least size bytes follow, so that a false
// count is refused before anything is allocated for it.
func (f *fields) count(size int) int {
	v := f.uvarint()
	if v > uint64(len(f.b)/size) {
		f.b, f.bad = nil, true
		return 0
	}
	return int(v)
}

func (f *fields) bytes() []byte {
	n := f.count(1)
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) string() string { return string(f.bytes()) }

func (f *fields) end(v any) error {
	if f.bad || len(f.b) != 0 {
		return Errorf(InvalidArgument, "payload of %T is cut, too long or damaged", v)
	}
	return nil
}
