package message

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sync/atomic"
)

// ID identifies a message for ever: the first eight bytes name the producer
// instance, the last eight count its messages (big endian). Its text form is 32
// lower-case hexadecimal digits. The zero ID means "none".
type ID [16]byte

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the id is not set.
func (id ID) IsZero() bool { return id == ID{} }

// Instance is the half that names the producer instance.
func (id ID) Instance() uint64 { return binary.BigEndian.Uint64(id[:8]) }

// Counter is the half that counts the instance's messages.
func (id ID) Counter() uint64 { return binary.BigEndian.Uint64(id[8:]) }

// MakeID joins the two halves.
func MakeID(instance, counter uint64) ID {
	var id ID
	binary.BigEndian.PutUint64(id[:8], instance)
	binary.BigEndian.PutUint64(id[8:], counter)
	return id
}

// ParseID reads the text form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("message id %q: want 32 hexadecimal digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("message id %q: %w", s, err)
	}
	return id, nil
}

// IDSource gives out consecutive ids of one instance. It is safe for concurrent
// use; make one with NewIDSource.
type IDSource struct {
	instance uint64
	counter  atomic.Uint64
}

// NewIDSource draws a random instance; two instances collide with a
// probability of about n*n/2^65 for n instances.
func NewIDSource() *IDSource {
	var b [8]byte
	rand.Read(b[:]) // crypto/rand.Read never fails
	return &IDSource{instance: binary.BigEndian.Uint64(b[:])}
}

// Next returns an id that this source has not given before.
func (s *IDSource) Next() ID { return MakeID(s.instance, s.counter.Add(1)) }
