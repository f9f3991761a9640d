package protocol

import (
	"encoding/binary"

	"github.com/rmqio/rmq/message"
)

// Held names a message that a broker holds back, because its time or its
// producer's decision has not come. The payloads in this file are JSON where
// they say nothing else.
type Held struct {
	// Origin is the log index of the record that the message was stored with, and
	// Position its place in that record's batch.
	Origin   uint64 `json:"origin"`
	Position int    `json:"position"`
	// ID is the message's: whoever names a message must know it.
	ID    string `json:"messageId"`
	Topic string `json:"topic"`
}

// RecallRequest takes a delayed message back before its time. NotFound when the
// broker has never held such a message, or has forgotten it.
type RecallRequest struct{ Held }

func (*RecallRequest) RequestCode() Code { return RecallMessage }

// RecallResponse says what became of the message.
type RecallResponse struct {
	// Recalled is false when the message was delivered before.
	Recalled bool `json:"recalled"`
}

// ListDelayedRequest asks for the messages that wait for their time, in the order
// of their times.
type ListDelayedRequest struct {
	Topic string `json:"topic,omitempty"` // empty: of all
	// After goes on behind the last message of an earlier answer.
	After *DelayedMessage `json:"after,omitempty"`
	Max   int             `json:"max"` // 1 to MaxQueryMessages
}

func (*ListDelayedRequest) RequestCode() Code { return ListDelayed }

// ListDelayedResponse has a page of the messages.
type ListDelayedResponse struct {
	Messages []DelayedMessage `json:"messages"`
	// Pending is how many there are in all.
	Pending int  `json:"pending"`
	More    bool `json:"more"`
}

// DelayedMessage waits for its time.
type DelayedMessage struct {
	Held
	Queue           int   `json:"queue"`
	DeliverAtMillis int64 `json:"deliverAtMillis"`
	StoreMillis     int64 `json:"storeMillis"`
}

// Decision is what a producer says of its transaction.
type Decision string

// The decisions. Unknown has the producer asked again.
const (
	Commit   Decision = "commit"
	Rollback Decision = "rollback"
	Unknown  Decision = "unknown"
)

// EndTransactionRequest decides on a half message. The first decision holds: the
// same again is answered as the first was, the contrary is a Conflict. NotFound
// when the broker does not know the transaction.
type EndTransactionRequest struct {
	Held
	Decision Decision `json:"decision"`
}

func (*EndTransactionRequest) RequestCode() Code { return EndTransaction }

// EndTransactionResponse says where a committed message is.
type EndTransactionResponse struct {
	Queue       int   `json:"queue"`
	Offset      int64 `json:"offset"` // -1: it was rolled back, or Unknown was said
	StoreMillis int64 `json:"storeMillis"`
}

// CheckTransactionsRequest has the producers asked now: for one transaction, or,
// with Origin 0, for all of a topic or, without one, of all.
type CheckTransactionsRequest struct{ Held }

func (*CheckTransactionsRequest) RequestCode() Code { return CheckTransactions }

// CheckTransactionsResponse counts the transactions that a producer was asked for,
// and those of groups of which none is there.
type CheckTransactionsResponse struct {
	Asked    int `json:"asked"`
	NobodyOf int `json:"nobodyOf"`
}

// ListTransactionsRequest asks for the transactions that are not decided, oldest
// first.
type ListTransactionsRequest struct {
	Topic string `json:"topic,omitempty"`
	Group string `json:"group,omitempty"`
	// AfterOrigin and AfterPosition go on behind a message of an earlier answer.
	AfterOrigin   uint64 `json:"afterOrigin,omitempty"`
	AfterPosition int    `json:"afterPosition,omitempty"`
	Max           int    `json:"max"` // 1 to MaxQueryMessages
}

func (*ListTransactionsRequest) RequestCode() Code { return ListTransactions }

// ListTransactionsResponse has a page of them.
type ListTransactionsResponse struct {
	Transactions []TransactionStatus `json:"transactions"`
	Pending      int                 `json:"pending"` // of all
	More         bool                `json:"more"`
}

// TransactionStatus is a transaction that is not decided.
type TransactionStatus struct {
	Held
	Queue       int    `json:"queue"`
	Group       string `json:"group"`
	StoreMillis int64  `json:"storeMillis"`
	Checks      int    `json:"checks"`
	// NextCheckMillis is when its producers are asked next; 0: they were asked as
	// often as is allowed, and a person must decide.
	NextCheckMillis int64 `json:"nextCheckMillis"`
}

// CheckTransactionEvent is the payload of CheckTransaction, in binary.
type CheckTransactionEvent struct {
	Broker string
	Group  string
	Held   Held
	Check  int // how often the producers were asked, this time included
	// Batch holds the half message alone, in the encoding of package message/batch.
	Batch []byte
}

// AppendBinary implements encoding.BinaryAppender.
func (e *CheckTransactionEvent) AppendBinary(dst []byte) ([]byte, error) {
	dst = appendString(appendString(dst, e.Broker), e.Group)
	dst = binary.AppendUvarint(dst, e.Held.Origin)
	dst = binary.AppendUvarint(dst, uint64(e.Held.Position))
	dst = appendString(appendString(dst, e.Held.ID), e.Held.Topic)
	dst = binary.AppendUvarint(dst, uint64(e.Check))
	return append(dst, e.Batch...), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batch shares b's memory.
func (e *CheckTransactionEvent) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	e.Broker, e.Group = f.string(), f.string()
	e.Held = Held{Origin: f.uvarint(), Position: f.number(1<<16 - 1), ID: f.string(), Topic: f.string()}
	e.Check = f.number(1 << 31)
	e.Batch, f.b = f.b, nil
	return f.end(e)
}

// SendReplyRequest brings a reply to a client that has, or had, a session at the
// broker. The broker waits for the client to come back until the request's
// deadline; UnknownMember when it did not, NotFound when it does not wait for the
// reply, Busy when too many replies wait for their clients. Empty is answered when
// the client has the reply. Binary.
type SendReplyRequest struct {
	ClientID string // who waits for the reply
	// Batch holds the reply alone, in the encoding of package message/batch.
	Batch []byte
}

func (*SendReplyRequest) RequestCode() Code { return SendReply }

// AppendBinary implements encoding.BinaryAppender.
func (r *SendReplyRequest) AppendBinary(dst []byte) ([]byte, error) {
	return append(appendString(dst, r.ClientID), r.Batch...), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batch shares b's memory.
func (r *SendReplyRequest) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	id := f.bytes()
	if f.bad || len(id) > message.MaxClientIDBytes {
		return Errorf(InvalidArgument, "payload of %T is cut, or its client id has %d bytes", r, len(id))
	}
	r.ClientID, r.Batch = string(id), f.b
	return nil
}

// PushReplyRequest brings a reply to the client that waits for it, at the
// ReplySubject of the inbox that its heartbeats name. NotFound when it does not
// wait, or no longer. The answer is Empty. Binary.
type PushReplyRequest struct{ Batch []byte } // as SendReplyRequest has it

func (*PushReplyRequest) RequestCode() Code { return PushReply }

// AppendBinary implements encoding.BinaryAppender.
func (r *PushReplyRequest) AppendBinary(dst []byte) ([]byte, error) {
	return append(dst, r.Batch...), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batch shares b's memory.
func (r *PushReplyRequest) UnmarshalBinary(b []byte) error { r.Batch = b; return nil }

// QuotaScope says whom a quota bounds.
type QuotaScope string

// The scopes of quotas; a topic's own are in its TopicConfig.
const (
	QuotaOfGroup  QuotaScope = "producerGroup"
	QuotaOfClient QuotaScope = "client"
)

// QuotaConfig bounds what a producer group or a client sends to this broker.
type QuotaConfig struct {
	Scope QuotaScope `json:"scope"`
	// Name is the group's or the client's; empty: each one that has no quota of its
	// own.
	Name string `json:"name"`
	Rates
}

// PutQuotaRequest sets a quota; without any rate it is removed.
type PutQuotaRequest struct {
	Quota QuotaConfig `json:"quota"`
}

func (*PutQuotaRequest) RequestCode() Code { return PutQuota }

// ListQuotasRequest asks for all quotas of groups and clients.
type ListQuotasRequest struct{}

func (*ListQuotasRequest) RequestCode() Code { return ListQuotas }

// ListQuotasResponse is sorted by scope and name.
type ListQuotasResponse struct {
	Quotas []QuotaConfig `json:"quotas"`
}
