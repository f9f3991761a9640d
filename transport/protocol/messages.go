package protocol

import (
	"encoding/binary"
	"math"
)

// SendRequest carries batches for queues of one broker, in the encoding of
// package message/batch. Batches of one queue are stored in their order.
type SendRequest struct {
	// Batches are concatenated; each says its own length, topic and queue.
	Batches []byte
}

func (*SendRequest) RequestCode() Code { return SendMessage }

// AppendBinary is the batches as they are.
func (r *SendRequest) AppendBinary(dst []byte) ([]byte, error) { return append(dst, r.Batches...), nil }

// UnmarshalBinary keeps b.
func (r *SendRequest) UnmarshalBinary(b []byte) error { r.Batches = b; return nil }

// SendResponse answers each batch of the request, in its order.
type SendResponse struct{ Results []SendResult }

// SendResult is the outcome of one batch.
type SendResult struct {
	// Err is nil when the batch is on disk.
	Err *Error
	// BaseOffset is the queue offset of the batch's first message.
	BaseOffset int64
	// StoreMillis is when the broker stored it.
	StoreMillis int64
}

// AppendBinary implements encoding.BinaryAppender.
func (r *SendResponse) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(len(r.Results)))
	for _, s := range r.Results {
		if s.Err != nil {
			dst = binary.AppendUvarint(dst, uint64(s.Err.wireCode()))
			dst = appendString(dst, s.Err.Remark)
			dst = binary.AppendVarint(dst, s.Err.RetryAfterMillis)
			continue
		}
		dst = append(dst, 0)
		dst = binary.AppendVarint(dst, s.BaseOffset)
		dst = binary.AppendVarint(dst, s.StoreMillis)
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (r *SendResponse) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.Results = make([]SendResult, f.count(3))
	for i := range r.Results {
		s := &r.Results[i]
		if code := f.code(); code != 0 {
			s.Err = &Error{Code: code, Remark: f.string(), RetryAfterMillis: f.varint()}
			continue
		}
		s.BaseOffset, s.StoreMillis = f.varint(), f.varint()
	}
	return f.end(r)
}

// Limits of a pull.
const (
	MaxPullQueues     = 1 << 16
	MaxPullBytes      = 6 << 20 // so that an answer fits a frame
	MaxPullWaitMillis = 60_000
)

// PullRequest asks for messages of many queues of one broker. When there are
// none it waits for up to WaitMillis until one of the queues has some.
type PullRequest struct {
	WaitMillis int64 // 0 to MaxPullWaitMillis
	MaxBytes   int64 // of all batches; one batch is always given, whatever its size
	MaxCount   int64 // of messages in each queue, rounded up to whole batches; 0: no limit
	// Group and ClientID are empty for a reader without a group.
	Group    string
	ClientID string
	Queues   []PullQueue
}

// PullQueue is one queue of a pull.
type PullQueue struct {
	Topic  string
	Queue  int
	Offset int64 // the first message wanted
	Fence  uint64
}

func (*PullRequest) RequestCode() Code { return PullMessage }

// AppendBinary implements encoding.BinaryAppender.
func (r *PullRequest) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.AppendVarint(dst, r.WaitMillis)
	dst = binary.AppendVarint(dst, r.MaxBytes)
	dst = binary.AppendVarint(dst, r.MaxCount)
	dst = appendString(appendString(dst, r.Group), r.ClientID)
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		dst = appendString(dst, q.Topic)
		dst = binary.AppendUvarint(dst, uint64(q.Queue))
		dst = binary.AppendVarint(dst, q.Offset)
		dst = binary.AppendUvarint(dst, q.Fence)
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler and holds the request
// to the limits above.
func (r *PullRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.WaitMillis, r.MaxBytes, r.MaxCount = f.varint(), f.varint(), f.varint()
	r.Group, r.ClientID = f.string(), f.string()
	n := f.count(4)
	if n > MaxPullQueues {
		return Errorf(InvalidArgument, "pull of %d queues, the limit is %d", n, MaxPullQueues)
	}
	r.Queues = make([]PullQueue, n)
	for i := range r.Queues {
		r.Queues[i] = PullQueue{Topic: f.string(), Queue: f.number(math.MaxInt32), Offset: f.varint(), Fence: f.uvarint()}
	}
	if err := f.end(r); err != nil {
		return err
	}
	return r.check()
}

func (r *PullRequest) check() error {
	switch {
	case r.WaitMillis < 0 || r.WaitMillis > MaxPullWaitMillis:
		return Errorf(InvalidArgument, "wait of %d ms; 0 to %d are allowed", r.WaitMillis, MaxPullWaitMillis)
	case r.MaxBytes < 1 || r.MaxBytes > MaxPullBytes:
		return Errorf(InvalidArgument, "pull of %d bytes; 1 to %d are allowed", r.MaxBytes, MaxPullBytes)
	case r.MaxCount < 0:
		return Errorf(InvalidArgument, "pull of %d messages", r.MaxCount)
	}
	for _, q := range r.Queues {
		if q.Offset < 0 {
			return Errorf(InvalidArgument, "queue %d of topic %q at offset %d", q.Queue, q.Topic, q.Offset)
		}
	}
	return nil
}

// PullResponse has an entry for each queue that has messages or an error; none
// when the wait was in vain.
type PullResponse struct{ Queues []PulledQueue }

// PulledQueue is what one queue gave.
type PulledQueue struct {
	// Index is the queue's place in the request.
	Index int
	// Err is, among others, OffsetOutOfRange (Min and End say what there is),
	// Fenced, TopicNotFound, Damaged. Its RetryAfterMillis does not cross the wire.
	Err *Error
	// Next is the offset to ask for next.
	Next int64
	// Min is the queue's first offset and End the one after its last.
	Min, End int64
	// Batches are as the producers sent them, one after another. The first may
	// begin before the offset that was asked for.
	Batches []byte
}

// AppendBinary implements encoding.BinaryAppender.
func (r *PullResponse) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		dst = binary.AppendUvarint(dst, uint64(q.Index))
		dst = binary.AppendVarint(dst, q.Next)
		dst = binary.AppendVarint(dst, q.Min)
		dst = binary.AppendVarint(dst, q.End)
		var code ErrorCode
		var remark string
		if q.Err != nil {
			code, remark = q.Err.wireCode(), q.Err.Remark
		}
		dst = binary.AppendUvarint(dst, uint64(code))
		dst = appendString(dst, remark)
		dst = append(binary.AppendUvarint(dst, uint64(len(q.Batches))), q.Batches...)
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batches share b's memory.
func (r *PullResponse) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.Queues = make([]PulledQueue, f.count(7))
	for i := range r.Queues {
		q := &r.Queues[i]
		q.Index, q.Next, q.Min, q.End = f.number(MaxPullQueues-1), f.varint(), f.varint(), f.varint()
		code, remark := f.code(), f.string()
		if code != 0 {
			q.Err = &Error{Code: code, Remark: remark}
		}
		q.Batches = f.bytes()
	}
	return f.end(r)
}
