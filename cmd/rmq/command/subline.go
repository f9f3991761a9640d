package command

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// deliveryLine prints one delivery after another.
type deliveryLine struct {
	*consumer.Delivery
	encoder lineEncoder
	raw     bool // bodies only
}

func (l *deliveryLine) appendJSON(dst []byte) []byte {
	return l.encoder.message(dst, &l.Stored, l.Attempt-1)
}

func (l *deliveryLine) appendName(dst []byte) []byte { return hex.AppendEncode(dst, l.ID[:]) }

// appendText is the line for people: when, where, what for, what.
func (l *deliveryLine) appendText(dst []byte) []byte {
	if l.raw {
		return append(dst, l.Body...)
	}
	dst = l.encoder.store.appendTo(dst, l.StoreTime)
	dst = append(append(dst, ' '), l.Queue.String()...)
	dst = strconv.AppendInt(append(dst, '@'), l.QueueOffset, 10)
	dst = appendAttribute(dst, " tag=", l.Tag)
	dst = appendAttribute(dst, " keys=", strings.Join(l.Keys, ","))
	dst = appendAttribute(dst, " group=", l.Group)
	return appendReadable(append(dst, ' '), l.Body)
}

func appendAttribute(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	return appendReadable(append(dst, name...), []byte(value))
}

// appendReadable keeps a terminal from harm: text in which something is not
// printable is quoted, and what is not text is base64.
func appendReadable(dst, b []byte) []byte {
	if !utf8.Valid(b) {
		return base64.StdEncoding.AppendEncode(append(dst, "base64:"...), b)
	}
	for _, r := range string(b) {
		if !strconv.IsPrint(r) {
			return strconv.AppendQuote(dst, string(b))
		}
	}
	return append(dst, b...)
}

// remaining is how many messages of each queue are still to come before the end
// that it had at the start.
type remaining map[message.Queue]int64

func newRemaining(lag map[message.Queue]int64) remaining {
	r := remaining{}
	for q, n := range lag {
		if n > 0 {
			r[q] = n
		}
	}
	return r
}

func (r remaining) empty() bool { return len(r) == 0 }

// came counts a message; on a nil map it does nothing.
func (r remaining) came(d *consumer.Delivery) {
	n, ok := r[d.Queue]
	if !ok {
		return
	}
	if n--; n <= 0 {
		delete(r, d.Queue)
		return
	}
	r[d.Queue] = n
}

// refresh drops the queues that have no more, or belong to another consumer now.
func (r remaining) refresh(ctx context.Context, c *consumer.Pull) error {
	lag, err := c.Lag(ctx)
	if protocol.CodeOf(err).Retryable() {
		return nil // the servers are away; it is asked again
	}
	if err != nil {
		return err
	}
	for q := range r {
		if lag[q] == 0 {
			delete(r, q)
		}
	}
	return nil
}
