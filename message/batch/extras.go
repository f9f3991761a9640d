package batch

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/rmqio/rmq/message"
)

// Extras are the fields of a head that few messages have: a number that says
// which, and a value with its length. They stand in the order of the numbers.
const (
	extraPriority    = 1
	extraDeliverAt   = 2
	extraDelay       = 3
	extraDelayLevel  = 4
	extraCompression = 5
	extraDedupKey    = 6
	extraImmunity    = 7
	extraCorrelation = 8
	extraReplyTo     = 9
	extraReplyBy     = 10
	extraTimes       = 11
	extraTopic       = 12
	extraQueue       = 13
	extraOffset      = 14
	extraError       = 15
	extraMark        = 16
)

// Uses says what the messages of a batch have.
type Uses struct{ Any, All Use }

// Use is a set of what a message has.
type Use uint8

// What the broker wants to know of messages without decoding them.
const (
	UsesGroup Use = 1 << iota
	UsesPriority
	UsesDelay
	UsesDedupKey
	// UsesOrigin is of what only a broker says of a message: where it is from, and
	// how often it failed.
	UsesOrigin
)

func (u *Uses) add(i int, one Use) {
	u.Any |= one
	if u.All &= one; i == 0 {
		u.All = one
	}
}

// appendExtras appends those that the message has; nothing when it has none.
func appendExtras(h []byte, m *message.Message) (_ []byte, some bool) {
	e := extras{b: h, countAt: len(h)}
	if m.Priority != 0 {
		e.number(extraPriority, int64(m.Priority))
	}
	if !m.DeliverAt.IsZero() {
		e.number(extraDeliverAt, unixMillis(m.DeliverAt))
	}
	if m.Delay != 0 {
		e.number(extraDelay, wholeMillis(m.Delay))
	}
	if m.DelayLevel != 0 {
		e.number(extraDelayLevel, int64(m.DelayLevel))
	}
	if m.Compression != message.None {
		e.value(extraCompression, string(binary.AppendUvarint([]byte{byte(m.Compression)}, uint64(m.OriginalBytes))))
	}
	if m.DedupKey != "" {
		e.value(extraDedupKey, m.DedupKey)
	}
	if m.CheckImmunity != 0 {
		e.number(extraImmunity, wholeMillis(m.CheckImmunity))
	}
	if m.CorrelationID != "" {
		e.value(extraCorrelation, m.CorrelationID)
	}
	if m.ReplyTo != "" {
		e.value(extraReplyTo, m.ReplyTo)
	}
	if !m.ReplyBy.IsZero() {
		e.number(extraReplyBy, unixMillis(m.ReplyBy))
	}
	if m.ReconsumeTimes != 0 {
		e.number(extraTimes, int64(m.ReconsumeTimes))
	}
	if m.Origin != nil {
		e.origin(m.Origin)
	}
	return e.b, e.n > 0
}

func (e *extras) origin(o *message.Origin) {
	if o.Topic != "" {
		e.value(extraTopic, o.Topic)
	}
	if o.Queue != 0 {
		e.number(extraQueue, int64(o.Queue))
	}
	if o.Offset != 0 {
		e.number(extraOffset, o.Offset)
	}
	if o.LastError != "" {
		e.value(extraError, o.LastError)
	}
	if o.Mark != 0 {
		e.number(extraMark, int64(o.Mark))
	}
}

// unixMillis rounds up, so that nothing is delivered before its time. Times
// before 1970 become 1970: they have passed, whatever they are.
func unixMillis(t time.Time) int64 {
	if t.Before(time.UnixMilli(0)) {
		return 0
	}
	return t.Add(time.Millisecond - 1).UnixMilli()
}

// wholeMillis rounds up, so that what is there does not become 0.
func wholeMillis(d time.Duration) int64 { return (d + time.Millisecond - 1).Milliseconds() }

// extras writes extras; there are fewer than 128, so that their count is a byte.
type extras struct {
	b       []byte
	countAt int
	n       byte
}

func (e *extras) value(kind byte, value string) {
	if e.n == 0 {
		e.b = append(e.b, 0)
	}
	e.n++
	e.b[e.countAt] = e.n
	e.b = appendString(append(e.b, kind), value)
}

func (e *extras) number(kind byte, v int64) {
	var b [binary.MaxVarintLen64]byte
	e.value(kind, string(b[:binary.PutVarint(b[:], v)]))
}

// extra is one that was read and holds to the rules of its kind.
type extra struct {
	kind        byte
	number      int64 // for extraCompression the size of the body before
	text        []byte
	compression message.Compression
}

// readExtra reads the next extra, behind one of the kind last, and holds it to the
// rules of message.Message.Validate that concern it alone. Its text shares the
// reader's memory.
func (r *reader) readExtra(last byte) (e extra, err error) {
	e.kind = r.byte()
	v := reader{b: r.bytes()}
	if r.failed || e.kind <= last {
		return e, fmt.Errorf("%w: extra %d behind extra %d is cut or out of order", ErrCorrupt, e.kind, last)
	}
	low, high, known := e.bounds()
	if !known {
		return e, fmt.Errorf("%w: extra %d", ErrVersion, e.kind)
	}
	n := e.read(&v)
	switch {
	case v.failed || len(v.b) > 0:
		return e, fmt.Errorf("%w: value of extra %d", ErrCorrupt, e.kind)
	case n < low || n > high || e.compression > message.Zstd:
		return e, fmt.Errorf("%w: extra %d is or has %d, with %v; %d to %d are allowed", message.ErrIllegalMessage, e.kind, n, e.compression, low, high)
	}
	return e, nil
}

// bounds are those of the extra's number, or of its text's length.
func (e *extra) bounds() (low, high int64, known bool) {
	switch e.kind {
	case extraPriority:
		return 1, message.MaxPriority, true
	case extraDeliverAt, extraReplyBy:
		return 0, message.MaxTimeMillis, true
	case extraDelay, extraImmunity:
		return 1, message.MaxDelay.Milliseconds(), true
	case extraDelayLevel, extraCorrelation, extraReplyTo:
		return 1, math.MaxInt64, true
	case extraCompression:
		return 0, message.MaxBodyBytes, true
	case extraDedupKey:
		return 1, message.MaxDedupKeyBytes, true
	case extraTimes:
		return 1, message.MaxReconsumeTimes, true
	case extraTopic:
		return 1, message.MaxReservedTopicBytes, true
	case extraQueue:
		return 1, math.MaxInt32, true
	case extraOffset, extraMark:
		return 1, math.MaxInt64, true
	case extraError:
		return 1, message.MaxErrorBytes, true
	}
	return 0, 0, false
}

// read takes the value from v and returns what has bounds.
func (e *extra) read(v *reader) int64 {
	switch e.kind {
	case extraDedupKey, extraCorrelation, extraReplyTo, extraTopic, extraError:
		e.text, v.b = v.b, nil
		return int64(len(e.text))
	case extraCompression:
		e.compression = message.Compression(v.byte())
		v.failed = v.failed || e.compression == message.None
		e.number = int64(min(v.uvarint(), math.MaxInt64))
		return e.number
	}
	e.number = v.varint()
	return e.number
}

// set sets the message's field.
func (e *extra) set(m *message.Message) {
	switch e.kind {
	case extraPriority:
		m.Priority = int(e.number)
	case extraDeliverAt:
		m.DeliverAt = time.UnixMilli(e.number)
	case extraDelay:
		m.Delay = time.Duration(e.number) * time.Millisecond
	case extraDelayLevel:
		m.DelayLevel = int(e.number)
	case extraCompression:
		m.Compression, m.OriginalBytes = e.compression, int(e.number)
	case extraDedupKey:
		m.DedupKey = string(e.text)
	case extraImmunity:
		m.CheckImmunity = time.Duration(e.number) * time.Millisecond
	case extraCorrelation:
		m.CorrelationID = string(e.text)
	case extraReplyTo:
		m.ReplyTo = string(e.text)
	case extraReplyBy:
		m.ReplyBy = time.UnixMilli(e.number)
	case extraTimes:
		m.ReconsumeTimes = int(e.number)
	case extraTopic, extraQueue, extraOffset, extraError, extraMark:
		e.setOrigin(m)
	}
}

func (e *extra) setOrigin(m *message.Message) {
	if m.Origin == nil {
		m.Origin = &message.Origin{}
	}
	switch e.kind {
	case extraTopic:
		m.Origin.Topic = string(e.text)
	case extraQueue:
		m.Origin.Queue = int(e.number)
	case extraOffset:
		m.Origin.Offset = e.number
	case extraError:
		m.Origin.LastError = string(e.text)
	case extraMark:
		m.Origin.Mark = uint64(e.number)
	}
}

func (e *extra) use() Use {
	switch e.kind {
	case extraPriority:
		return UsesPriority
	case extraDeliverAt, extraDelay, extraDelayLevel:
		return UsesDelay
	case extraDedupKey:
		return UsesDedupKey
	case extraTimes, extraTopic, extraQueue, extraOffset, extraError, extraMark:
		return UsesOrigin
	}
	return 0
}

// counted is what the extra counts against the limit of properties: what brokers add
// does not.
func (e *extra) counted() int {
	if e.use() == UsesOrigin {
		return 0
	}
	return len(e.text)
}

// readExtras sets the fields of the message that its head has extras for.
func (r *reader) readExtras(m *message.Message) {
	var last byte
	for n := r.count(); n > 0; n-- {
		e, err := r.readExtra(last)
		if err != nil {
			r.failed, r.err = true, err
			return
		}
		e.set(m)
		last = e.kind
	}
}

// checkExtras holds extras to the rules of message.Message.Validate. It returns
// what they count against the limit of properties.
func (r *reader) checkExtras(grouped bool) (size int, use Use, err error) {
	var last byte
	for n := r.count(); n > 0; n-- {
		e, err := r.readExtra(last)
		if err != nil {
			return 0, 0, err
		}
		if use&e.use()&UsesDelay != 0 {
			return 0, 0, fmt.Errorf("%w: it has extra %d beside another that delays it", message.ErrIllegalMessage, e.kind)
		}
		size, use, last = size+e.counted(), use|e.use(), e.kind
	}
	if grouped && use&(UsesDelay|UsesPriority) != 0 {
		return 0, 0, fmt.Errorf("%w: a message with a group can have neither a delay nor a priority", message.ErrIllegalMessage)
	}
	return size, use, nil
}

// EachExtra decodes the extras of each message of a batch into m, which is used
// again, and hands it to visit with the message's place; of the other fields of m
// only ID is set. It checks lengths but no checksum.
func EachExtra(b []byte, visit func(i int, m *message.Message)) error {
	h, err := ParseHeader(b)
	if err != nil {
		return err
	}
	rest, last := b[h.bodyAt:h.Length], h.FirstID
	var m message.Message
	for i := range h.Count {
		head, _, next, err := cutMessage(rest)
		if err != nil {
			return fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		r := reader{b: head}
		m = message.Message{}
		flags := r.ids(&last)
		r.properties(flags)
		if flags&hasExtras != 0 {
			r.readExtras(&m)
		}
		if err := r.end(); err != nil {
			return fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		m.ID = last
		visit(i, &m)
		rest = next
	}
	return nil
}
