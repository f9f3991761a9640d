package protocol

import "time"

// The payloads in this file are JSON.

// NoRetry as GroupConfig.RetryMax makes a message a dead letter when it fails first.
const NoRetry = -1

// RetryPolicy says when a message that was sent back is delivered again. The zero
// value is RetryTable.
type RetryPolicy struct {
	Kind RetryKind `json:"kind,omitempty"`
	// FirstMillis and MaxMillis are the first and the longest delay of
	// RetryExponential; 0: 5 s and 2 h.
	FirstMillis int64 `json:"firstMillis,omitempty"`
	MaxMillis   int64 `json:"maxMillis,omitempty"`
}

// Defaults of a RetryExponential.
const (
	DefaultRetryFirst = 5 * time.Second
	DefaultRetryMost  = 2 * time.Hour
)

// retryTable is RocketMQ's: the delay levels from the third on.
func retryTable() [16]time.Duration {
	return [...]time.Duration{
		10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute, 4 * time.Minute, 5 * time.Minute, 6 * time.Minute,
		7 * time.Minute, 8 * time.Minute, 9 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour,
	}
}

// Delay is the time from a message's failing for the n-th time, from 1, to its next
// delivery.
func (p RetryPolicy) Delay(n int) time.Duration {
	n = max(n, 1)
	if p.Kind != RetryExponential {
		table := retryTable()
		return table[min(n, len(table))-1]
	}
	first, most := p.Bounds()
	for d := first; ; d *= 2 {
		if n--; n == 0 {
			return d
		}
		if d > most/2 {
			return most
		}
	}
}

// Bounds are the first and the longest delay of a RetryExponential.
func (p RetryPolicy) Bounds() (first, most time.Duration) {
	most = DefaultRetryMost
	if p.MaxMillis != 0 {
		most = time.Duration(p.MaxMillis) * time.Millisecond
	}
	first = min(DefaultRetryFirst, most)
	if p.FirstMillis != 0 {
		first = time.Duration(p.FirstMillis) * time.Millisecond
	}
	return first, most
}

// RetryKind is the kind of a RetryPolicy.
type RetryKind string

// The kinds of policies.
const (
	// RetryTable is RocketMQ's: 10 s, 30 s, 1 to 10 min, 20 min, 30 min, 1 h, and then
	// always 2 h.
	RetryTable RetryKind = "table"
	// RetryExponential doubles the delay each time.
	RetryExponential RetryKind = "exponential"
)

// ByPolicy as SendBackRequest.DelayMillis leaves the delay to the group's policy.
const ByPolicy = -1

// SendBackRequest gives a message back that a member of a group has failed to
// process: the broker delivers a copy of it again, later, or makes it a dead letter.
// The same request again is answered as the first was. OffsetOutOfRange and NotFound
// when the message is not there, Fenced when another member has the queue.
type SendBackRequest struct {
	Group    string `json:"group"`
	ClientID string `json:"clientId"`
	// Topic, Queue and Offset are where the message was read, which may be the
	// group's retry topic, and MessageID is its id.
	Topic     string `json:"topic"`
	Queue     int    `json:"queue"`
	Offset    int64  `json:"offset"`
	MessageID string `json:"messageId"`
	// Fence is the lease's; 0: the queue is read without one, which is refused while
	// another client holds one.
	Fence uint64 `json:"fence,omitempty"`
	// DelayMillis is after which time the message is delivered again; ByPolicy.
	DelayMillis int64 `json:"delayMillis"`
	// Dead makes it a dead letter, however often it was delivered.
	Dead bool `json:"dead,omitempty"`
	// Attempts is how often the member has tried; 0: once.
	Attempts int `json:"attempts,omitempty"`
	// Error is what it failed with; the broker keeps message.MaxErrorBytes of it.
	Error string `json:"error,omitempty"`
}

func (*SendBackRequest) RequestCode() Code { return SendBack }

// SendBackResponse is answered when the copy is on disk.
type SendBackResponse struct {
	// Dead says that the message is a dead letter now.
	Dead bool `json:"dead"`
	// DeliverAtMillis is when it is delivered again; 0 for a dead letter.
	DeliverAtMillis int64 `json:"deliverAtMillis,omitempty"`
}

// ResendDeadLetterRequest sends a dead letter of a group to its original topic again,
// with its id, and as if it had never failed. It stays among the dead letters; while
// the broker remembers the request, the same again does nothing. TopicNotFound when
// the topic, or a dead letter, is not there any more, OffsetOutOfRange or NotFound
// when the message is not.
type ResendDeadLetterRequest struct {
	Group     string `json:"group"`
	Offset    int64  `json:"offset"` // in the group's dead-letter topic
	MessageID string `json:"messageId"`
}

func (*ResendDeadLetterRequest) RequestCode() Code { return ResendDeadLetter }

// ResendDeadLetterResponse says where the message is now.
type ResendDeadLetterResponse struct {
	Topic  string `json:"topic"`
	Queue  int    `json:"queue"`
	Offset int64  `json:"offset"`
	// Duplicate says that it was sent again before.
	Duplicate bool `json:"duplicate,omitempty"`
}
