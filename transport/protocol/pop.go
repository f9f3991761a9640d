package protocol

import (
	"encoding/binary"
	"math"
	"slices"
)

// Limits of a pop.
const (
	MaxPopCount        = 1024 // RocketMQ's is 32
	MaxPopTopics       = 1 << 10
	MinInvisibleMillis = 10
	MaxInvisibleMillis = 12 * 60 * 60 * 1000 // RocketMQ's, over gRPC
	MaxAcks            = 1 << 14             // in one request
)

// PopRequest asks a broker for messages of any of its queues of some topics, for a
// member of a group. They are this member's for InvisibleMillis; what is not
// acknowledged by then is handed out again. When there are none it waits for up to
// WaitMillis.
type PopRequest struct {
	WaitMillis      int64 // 0 to MaxPullWaitMillis
	InvisibleMillis int64 // MinInvisibleMillis to MaxInvisibleMillis
	MaxCount        int64 // of messages, 1 to MaxPopCount
	MaxBytes        int64 // of batches, 1 to MaxPullBytes; one message is always given
	Group           string
	ClientID        string
	// Filters are those that topics refer to.
	Filters []Filter
	Topics  []PopTopic
}

// PopTopic is one topic of a pop.
type PopTopic struct {
	Topic string
	// Filter is the number of one of the request's filters, from 1; 0: none.
	Filter int
}

func (*PopRequest) RequestCode() Code { return PopMessage }

// AppendBinary implements encoding.BinaryAppender.
func (r *PopRequest) AppendBinary(dst []byte) ([]byte, error) {
	for _, n := range []int64{r.WaitMillis, r.InvisibleMillis, r.MaxCount, r.MaxBytes} {
		dst = binary.AppendVarint(dst, n)
	}
	dst = appendFilters(appendString(appendString(dst, r.Group), r.ClientID), r.Filters)
	dst = binary.AppendUvarint(dst, uint64(len(r.Topics)))
	for _, t := range r.Topics {
		dst = binary.AppendUvarint(appendString(dst, t.Topic), uint64(t.Filter))
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler and holds the request to the
// limits above.
func (r *PopRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.WaitMillis, r.InvisibleMillis, r.MaxCount, r.MaxBytes = f.varint(), f.varint(), f.varint(), f.varint()
	r.Group, r.ClientID = f.string(), f.string()
	var err error
	if r.Filters, err = f.filters(); err != nil {
		return err
	}
	n := f.count(2)
	if n > MaxPopTopics {
		return Errorf(InvalidArgument, "pop of %d topics, the limit is %d", n, MaxPopTopics)
	}
	r.Topics = make([]PopTopic, n)
	for i := range r.Topics {
		r.Topics[i] = PopTopic{Topic: f.string(), Filter: f.number(MaxPullFilters)}
	}
	if err := f.end(r); err != nil {
		return err
	}
	return r.check()
}

func (r *PopRequest) check() error {
	if err := checkInvisible(r.InvisibleMillis); err != nil {
		return err
	}
	switch {
	case r.WaitMillis < 0 || r.WaitMillis > MaxPullWaitMillis:
		return Errorf(InvalidArgument, "wait of %d ms; 0 to %d are allowed", r.WaitMillis, MaxPullWaitMillis)
	case r.MaxCount < 1 || r.MaxCount > MaxPopCount:
		return Errorf(InvalidArgument, "pop of %d messages; 1 to %d are allowed", r.MaxCount, MaxPopCount)
	case r.MaxBytes < 1 || r.MaxBytes > MaxPullBytes:
		return Errorf(InvalidArgument, "pop of %d bytes; 1 to %d are allowed", r.MaxBytes, MaxPullBytes)
	case len(r.Topics) == 0:
		return Errorf(InvalidArgument, "pop of no topic")
	}
	for _, t := range r.Topics {
		if t.Filter > len(r.Filters) {
			return Errorf(InvalidArgument, "topic %q has filter %d of %d", t.Topic, t.Filter, len(r.Filters))
		}
	}
	return nil
}

func checkInvisible(millis int64) error {
	if millis < MinInvisibleMillis || millis > MaxInvisibleMillis {
		return Errorf(InvalidArgument, "messages invisible for %d ms; %d to %d are allowed", millis, MinInvisibleMillis, MaxInvisibleMillis)
	}
	return nil
}

// PopResponse has an entry for each queue that gave messages, or that has an error;
// none when the wait was in vain.
type PopResponse struct{ Queues []PoppedQueue }

// PoppedQueue is what one queue gave.
type PoppedQueue struct {
	Topic int // its place in the request
	Queue int
	Err   *Error
	// Fence is part of the handle of each message; no other pop has the same.
	Fence uint64
	// Messages are those that were handed out, by offset.
	Messages []PoppedMessage
	// Batches have them, one after another; they may hold others, too, which are
	// not handed out, and a message more than once.
	Batches []byte
}

// PoppedMessage is one message that was handed out.
type PoppedMessage struct {
	Offset int64
	// Attempt counts how often the group was handed the message, from 1.
	Attempt int
}

// AppendBinary implements encoding.BinaryAppender.
func (r *PopResponse) AppendBinary(dst []byte) ([]byte, error) {
	size := 0
	for i := range r.Queues {
		size += poppedHeadBytes + poppedMessageBytes*len(r.Queues[i].Messages) + len(r.Queues[i].Batches)
	}
	dst = slices.Grow(binary.AppendUvarint(dst, uint64(len(r.Queues))), size)
	for i := range r.Queues {
		dst = r.Queues[i].append(dst)
	}
	return dst, nil
}

// What the head of a queue without an error, and a message, seldom exceed.
const (
	poppedHeadBytes    = 40
	poppedMessageBytes = 3
)

func (q *PoppedQueue) append(dst []byte) []byte {
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(q.Topic)), uint64(q.Queue))
	dst = binary.AppendUvarint(appendRefusal(dst, q.Err), q.Fence)
	dst = binary.AppendUvarint(dst, uint64(len(q.Messages)))
	last := int64(0)
	for _, m := range q.Messages {
		dst = binary.AppendUvarint(binary.AppendVarint(dst, m.Offset-last), uint64(m.Attempt))
		last = m.Offset
	}
	return append(binary.AppendUvarint(dst, uint64(len(q.Batches))), q.Batches...)
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batches share b's memory.
func (r *PopResponse) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.Queues = make([]PoppedQueue, f.count(7))
	for i := range r.Queues {
		q := &r.Queues[i]
		q.Topic, q.Queue = f.number(MaxPopTopics-1), f.number(math.MaxInt32)
		q.Err, q.Fence = f.refusal(), f.uvarint()
		q.Messages = make([]PoppedMessage, f.count(2))
		last := int64(0)
		for i := range q.Messages {
			last += f.varint()
			q.Messages[i] = PoppedMessage{Offset: last, Attempt: f.number(math.MaxInt32)}
		}
		q.Batches = f.bytes()
	}
	return f.end(r)
}

// appendRefusal appends an error without its RetryAfterMillis; nil has code 0.
func appendRefusal(dst []byte, e *Error) []byte {
	if e == nil {
		return append(dst, 0, 0)
	}
	return appendString(binary.AppendUvarint(dst, uint64(e.wireCode())), e.Remark)
}

func (f *fields) refusal() *Error {
	code, remark := f.code(), f.string()
	if code == 0 {
		return nil
	}
	return &Error{Code: code, Remark: remark}
}

// AckRequest says that messages are processed, whoever had been handed them.
type AckRequest struct {
	Group    string
	ClientID string
	Queues   []AckQueue
}

// AckQueue are messages of one queue that were handed out by one pop.
type AckQueue struct {
	Topic   string
	Queue   int
	Fence   uint64
	Offsets []int64
}

func (*AckRequest) RequestCode() Code { return AckMessage }

// AppendBinary implements encoding.BinaryAppender.
func (r *AckRequest) AppendBinary(dst []byte) ([]byte, error) {
	dst = appendString(appendString(dst, r.Group), r.ClientID)
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		dst = binary.AppendUvarint(appendString(dst, q.Topic), uint64(q.Queue))
		dst = appendOffsets(binary.AppendUvarint(dst, q.Fence), q.Offsets)
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler and holds the request to
// MaxAcks.
func (r *AckRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.Group, r.ClientID = f.string(), f.string()
	n, messages := f.count(4), 0
	if n > MaxAcks {
		return Errorf(InvalidArgument, "acknowledgement in %d entries, the limit is %d", n, MaxAcks)
	}
	r.Queues = make([]AckQueue, n)
	for i := range r.Queues {
		q := &r.Queues[i]
		q.Topic, q.Queue, q.Fence = f.string(), f.number(math.MaxInt32), f.uvarint()
		of := f.count(1)
		if messages += of; messages > MaxAcks {
			return Errorf(InvalidArgument, "acknowledgement of more than %d messages", MaxAcks)
		}
		q.Offsets = f.offsets(of)
		if slices.ContainsFunc(q.Offsets, func(o int64) bool { return o < 0 }) {
			return Errorf(InvalidArgument, "acknowledgement of a negative offset in queue %d of topic %q", q.Queue, q.Topic)
		}
	}
	return f.end(r)
}

// appendOffsets appends each offset less the one before.
func appendOffsets(dst []byte, offsets []int64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(offsets)))
	last := int64(0)
	for _, o := range offsets {
		dst = binary.AppendVarint(dst, o-last)
		last = o
	}
	return dst
}

// offsets reads so many that appendOffsets wrote; none are nil.
func (f *fields) offsets(n int) []int64 {
	if n == 0 {
		return nil
	}
	offsets, last := make([]int64, n), int64(0)
	for i := range offsets {
		last += f.varint()
		offsets[i] = last
	}
	return offsets
}

// AckResponse answers each queue of the request, in its order. It comes when the
// outcome is on disk.
type AckResponse struct{ Queues []AckedQueue }

// AckedQueue is the outcome of one AckQueue.
type AckedQueue struct {
	// Err refuses all messages of the entry: TopicNotFound, or NotFound for a handle
	// that was never given. Its RetryAfterMillis does not cross the wire.
	Err *Error
	// Expired are the offsets of those that were handed out again meanwhile. A
	// message that is acknowledged already is not among them.
	Expired []int64
}

// AppendBinary implements encoding.BinaryAppender.
func (r *AckResponse) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		dst = appendOffsets(appendRefusal(dst, q.Err), q.Expired)
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (r *AckResponse) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.Queues = make([]AckedQueue, f.count(3))
	for i := range r.Queues {
		r.Queues[i] = AckedQueue{Err: f.refusal(), Expired: f.offsets(f.count(1))}
	}
	return f.end(r)
}

// ChangeInvisibleRequest gives messages another time, from now, until they are handed
// out again.
type ChangeInvisibleRequest struct {
	AckRequest
	InvisibleMillis int64 // MinInvisibleMillis to MaxInvisibleMillis
}

func (*ChangeInvisibleRequest) RequestCode() Code { return ChangeInvisible }

// AppendBinary implements encoding.BinaryAppender.
func (r *ChangeInvisibleRequest) AppendBinary(dst []byte) ([]byte, error) {
	return r.AckRequest.AppendBinary(binary.AppendVarint(dst, r.InvisibleMillis))
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler and holds the request to the
// limits above.
func (r *ChangeInvisibleRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	if r.InvisibleMillis = f.varint(); f.bad {
		return f.end(r)
	}
	if err := r.AckRequest.UnmarshalBinary(f.b); err != nil {
		return err
	}
	return checkInvisible(r.InvisibleMillis)
}
