// Package quota is the view of the quotas of producer groups and clients, and the
// token buckets that hold senders to them. The view is built from the records
// that set quotas, in the order of the log. The buckets are in memory only: after
// a start of the broker all of them are full. The package does no I/O and reads no
// clock.
//
// # Records
//
// The payload of a record that sets a quota, or, with both rates 0, removes it
// (Encode). "uvarint" is that of encoding/binary:
//
//	1 byte   version, 1
//	1 byte   scope; 1: producer group, 2: client
//	uvarint  length of the name in bytes, 0 to 255
//	n bytes  name; none: each group or client that has no quota of its own
//	uvarint  messages a second, at most 2^63-1; 0: no bound
//	uvarint  bytes a second, at most 2^63-1; 0: no bound
//
// Nothing follows. A record is not held to the rules of Validate: they may change,
// while the log stays as it is.
//
// # Rows
//
// The rows that view.DB keeps: the key is the scope's byte and the name, the value
// the two uvarints of the rates.
package quota

import (
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// MaxPerSecond is the highest rate, as that of topics is.
const MaxPerSecond = 1 << 40

// Validate tells whether somebody may set this quota: a known scope, a name that
// is empty or one of its scope's, and rates that CheckRates accepts. The error is
// a *protocol.Error with InvalidArgument.
func Validate(q protocol.QuotaConfig) error {
	if _, ok := byteOf(q.Scope); !ok {
		return protocol.Errorf(protocol.InvalidArgument, "quota scope %q; it is %s or %s", q.Scope, protocol.QuotaOfGroup, protocol.QuotaOfClient)
	}
	if err := checkName(q.Scope, q.Name); err != nil {
		return protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	return CheckRates(q.Rates)
}

func checkName(scope protocol.QuotaScope, name string) error {
	switch {
	case name == "":
		return nil
	case scope == protocol.QuotaOfGroup:
		return message.CheckGroup(name)
	}
	return message.CheckClientID(name)
}

// CheckRates tells whether rates can be kept to: 0 to MaxPerSecond. The error is a
// *protocol.Error with InvalidArgument.
func CheckRates(r protocol.Rates) error {
	for _, one := range []struct {
		perSecond int64
		unit      string
	}{{r.MessagesPerSecond, "messages"}, {r.BytesPerSecond, "bytes"}} {
		if one.perSecond < 0 || one.perSecond > MaxPerSecond {
			return protocol.Errorf(protocol.InvalidArgument, "quota of %d %s a second; 1 to %d are allowed, 0 is no bound",
				one.perSecond, one.unit, int64(MaxPerSecond))
		}
	}
	return nil
}
