// Package payload reads the fields of records and rows of views from the front of
// their bytes. It knows no record: which fields there are, and what they may hold,
// says the view. It does no I/O.
package payload

import (
	"encoding/binary"

	"github.com/rmqio/rmq/message"
)

// Reader takes one field after another. After one that is not there, or is out of
// its range, all further ones are zero and Bad is true, so that only the end need
// be looked at. Its zero value has nothing to read. It is not safe for concurrent
// use, and shares the memory of what it reads.
type Reader struct {
	b   []byte
	bad bool
}

// Of reads b.
func Of(b []byte) Reader { return Reader{b: b} }

// Versioned reads what follows the version that b must begin with.
func Versioned(b []byte, version byte) Reader {
	r := Of(b)
	if r.Byte(version) != version {
		r.Fail()
	}
	return r
}

// Fail makes it bad: a field breaks a rule that only the caller knows.
func (r *Reader) Fail() { r.b, r.bad = nil, true }

// Bad reports whether a field was missing or out of its range.
func (r *Reader) Bad() bool { return r.bad }

// Done reports whether all was read and nothing was bad.
func (r *Reader) Done() bool { return !r.bad && len(r.b) == 0 }

// Rest is what was not read yet.
func (r *Reader) Rest() []byte { return r.b }

// Byte takes a byte that is at most limit.
func (r *Reader) Byte(limit byte) byte {
	if len(r.b) == 0 || r.b[0] > limit {
		r.Fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// Number takes a uvarint that is at most limit.
func (r *Reader) Number(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Signed takes a varint that is at least least.
func (r *Reader) Signed(least int64) int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || v < least {
		r.Fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Count takes the number of elements of at least size bytes that follow, so that
// nothing is allocated for a false one.
func (r *Reader) Count(size int) int { return int(r.Number(uint64(len(r.b) / size))) }

// Text takes a string of least to most bytes, with its length before it.
func (r *Reader) Text(least, most int) string {
	n := int(r.Number(uint64(most)))
	if n < least || n > len(r.b) {
		r.Fail()
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

// ID takes a message id.
func (r *Reader) ID() (id message.ID) {
	if len(r.b) < len(id) {
		r.Fail()
		return id
	}
	r.b = r.b[copy(id[:], r.b):]
	return id
}

// AppendText appends what Text takes.
func AppendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
