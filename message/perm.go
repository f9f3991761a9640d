package message

import (
	"fmt"
	"strings"
)

// Perm says what may be done with a topic's queues, in RocketMQ's bits.
type Perm int

// RocketMQ's permission bits (PermName). Inherit and priority have no meaning here.
const (
	PermWrite     Perm = 2
	PermRead      Perm = 4
	PermReadWrite      = PermRead | PermWrite
)

// CanRead reports whether messages may be pulled.
func (p Perm) CanRead() bool { return p&PermRead != 0 }

// CanWrite reports whether messages may be sent.
func (p Perm) CanWrite() bool { return p&PermWrite != 0 }

// Valid reports whether only known bits are set.
func (p Perm) Valid() bool { return p&^PermReadWrite == 0 }

// String is "R-", "-W", "RW" or "--".
func (p Perm) String() string {
	b := []byte("--")
	if p.CanRead() {
		b[0] = 'R'
	}
	if p.CanWrite() {
		b[1] = 'W'
	}
	return string(b)
}

// ParsePerm reads r, w, rw, none (any case), what String gives, or RocketMQ's number.
func ParsePerm(s string) (Perm, error) {
	switch strings.ToLower(s) {
	case "r", "4", "r-":
		return PermRead, nil
	case "w", "2", "-w":
		return PermWrite, nil
	case "rw", "6":
		return PermReadWrite, nil
	case "none", "0", "--":
		return 0, nil
	}
	return 0, fmt.Errorf("permission %q: want r, w, rw or none", s)
}
