package protocol

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/rmqio/rmq/message"
)

// SendRequest carries batches for queues of one broker, in the encoding of
// package message/batch. Batches of one queue are stored in their order.
type SendRequest struct {
	// ClientID and Group, the producer group, say whose quotas count.
	ClientID, Group string
	// Batches are concatenated; each says its own length, topic and queue.
	Batches []byte
}

func (*SendRequest) RequestCode() Code { return SendMessage }

// AppendBinary implements encoding.BinaryAppender.
func (r *SendRequest) AppendBinary(dst []byte) ([]byte, error) {
	return append(AppendSender(dst, r.ClientID, r.Group), r.Batches...), nil
}

// AppendSender appends what a SendRequest has before its batches.
func AppendSender(dst []byte, clientID, group string) []byte {
	return appendString(appendString(dst, clientID), group)
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batches share b's memory.
func (r *SendRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	client, group := f.bytes(), f.bytes()
	switch {
	case f.bad:
		return Errorf(InvalidArgument, "the sender of a request is cut")
	case len(client) > message.MaxClientIDBytes || len(group) > message.MaxGroupBytes:
		return Errorf(InvalidArgument, "client id of %d and group of %d bytes; the limits are %d and %d",
			len(client), len(group), message.MaxClientIDBytes, message.MaxGroupBytes)
	}
	r.ClientID, r.Group, r.Batches = string(client), string(group), f.b
	return nil
}

// SendResponse answers each batch of the request, in its order.
type SendResponse struct{ Results []SendResult }

// SendResult is the outcome of one batch.
type SendResult struct {
	// Err is nil when the batch is on disk. It is not when there is another error
	// than UnknownOutcome.
	Err *Error
	// BaseOffset is the queue offset of the batch's first message; when the
	// messages are held back, -1 less the place of the first among those that are
	// held in the record: -1, but for a duplicate of a part of them.
	BaseOffset int64
	// StoreMillis is when the broker stored it.
	StoreMillis int64
	// Index is the log index of the record that holds messages back; 0 for others.
	Index uint64
	// Duplicate says that the broker had the batch already: the other fields are
	// those of the first time.
	Duplicate bool
	// Queue is where the messages are. It is set for a duplicate only: one that has
	// its deduplication key in common with the first may have been sent to another
	// queue.
	Queue int
}

const resultDuplicate = 1

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
		var bits byte
		if s.Duplicate {
			bits = resultDuplicate
		}
		dst = append(dst, 0, bits)
		dst = binary.AppendVarint(dst, s.BaseOffset)
		dst = binary.AppendVarint(dst, s.StoreMillis)
		dst = binary.AppendUvarint(dst, s.Index)
		if s.Duplicate {
			dst = binary.AppendUvarint(dst, uint64(s.Queue))
		}
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
		bits := f.number(resultDuplicate)
		s.Duplicate = bits&resultDuplicate != 0
		s.BaseOffset, s.StoreMillis, s.Index = f.varint(), f.varint(), f.uvarint()
		if s.Duplicate {
			s.Queue = f.number(math.MaxInt32)
		}
	}
	return f.end(r)
}

// Limits of a pull.
const (
	MaxPullQueues     = 1 << 16
	MaxPullFilters    = 1 << 10
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
	// Filters are those that queues refer to.
	Filters []Filter
	Queues  []PullQueue
}

// PullQueue is one queue of a pull.
type PullQueue struct {
	Topic  string
	Queue  int
	Offset int64 // the first message wanted
	Fence  uint64
	// Filter is the number of one of the request's filters, from 1; 0: none.
	Filter int
}

func (*PullRequest) RequestCode() Code { return PullMessage }

// AppendBinary implements encoding.BinaryAppender.
func (r *PullRequest) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.AppendVarint(dst, r.WaitMillis)
	dst = binary.AppendVarint(dst, r.MaxBytes)
	dst = binary.AppendVarint(dst, r.MaxCount)
	dst = appendString(appendString(dst, r.Group), r.ClientID)
	dst = appendFilters(dst, r.Filters)
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		dst = appendString(dst, q.Topic)
		dst = binary.AppendUvarint(dst, uint64(q.Queue))
		dst = binary.AppendVarint(dst, q.Offset)
		dst = binary.AppendUvarint(dst, q.Fence)
		dst = binary.AppendUvarint(dst, uint64(q.Filter))
	}
	return dst, nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler and holds the request
// to the limits above.
func (r *PullRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.WaitMillis, r.MaxBytes, r.MaxCount = f.varint(), f.varint(), f.varint()
	r.Group, r.ClientID = f.string(), f.string()
	var err error
	if r.Filters, err = f.filters(); err != nil {
		return err
	}
	n := f.count(5)
	if n > MaxPullQueues {
		return Errorf(InvalidArgument, "pull of %d queues, the limit is %d", n, MaxPullQueues)
	}
	r.Queues = make([]PullQueue, n)
	for i := range r.Queues {
		r.Queues[i] = PullQueue{Topic: f.string(), Queue: f.number(math.MaxInt32), Offset: f.varint(), Fence: f.uvarint(), Filter: f.number(MaxPullFilters)}
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
		if q.Filter > len(r.Filters) {
			return Errorf(InvalidArgument, "queue %d of topic %q has filter %d of %d", q.Queue, q.Topic, q.Filter, len(r.Filters))
		}
	}
	return nil
}

// PullResponse has an entry for each queue that has messages or an error, or of
// which a filter let nothing through; none when the wait was in vain.
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
	// begin before the offset that was asked for. With a filter they may be sparse;
	// they may hold messages that it does not let through, and there may be none.
	Batches []byte
	// Load, when it is set, stands for Batches of Size bytes: it appends them to
	// dst when the answer is encoded, so that they are copied into the frame and
	// nowhere before. When it fails the entry has Err instead, and what else Load
	// changes of it.
	Load func(q *PulledQueue, dst []byte) ([]byte, error)
	Size int
}

// AppendBinary implements encoding.BinaryAppender.
func (r *PullResponse) AppendBinary(dst []byte) ([]byte, error) {
	dst = slices.Grow(binary.AppendUvarint(dst, uint64(len(r.Queues))), r.size())
	for i := range r.Queues {
		dst = r.Queues[i].append(dst)
	}
	return dst, nil
}

// size is about how many bytes the encoding has.
func (r *PullResponse) size() (n int) {
	for i := range r.Queues {
		n += pulledHeadBytes + len(r.Queues[i].Batches) + r.Queues[i].Size
	}
	return n
}

func (q *PulledQueue) append(dst []byte) []byte {
	if q.Load == nil {
		return append(q.appendHead(dst, len(q.Batches)), q.Batches...)
	}
	head := q.appendHead(dst, q.Size)
	loaded, err := q.Load(q, head)
	if err == nil && len(loaded) != len(head)+q.Size {
		err = Errorf(SystemError, "%d bytes were read where %d are", len(loaded)-len(head), q.Size)
	}
	if err != nil {
		q.Err = AsError(err)
		return q.appendHead(dst, 0)
	}
	return loaded
}

// pulledHeadBytes is more than the head of an entry without an error takes.
const pulledHeadBytes = 64

// appendHead appends all but the batches, of which there are so many bytes.
func (q *PulledQueue) appendHead(dst []byte, size int) []byte {
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
	return binary.AppendUvarint(dst, uint64(size))
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
