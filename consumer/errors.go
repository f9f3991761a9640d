package consumer

import (
	"errors"

	"github.com/rmqio/rmq/internal/client"
)

// Error is what operations at a server fail with; see its fields.
// errors.Is(err, protocol.TopicNotFound) finds its code.
type Error = client.Error

// Errors of this package. They are wrapped; use errors.Is.
var (
	// ErrNoNameServer is returned when none of the four ways gives an address.
	ErrNoNameServer = client.ErrNoNameServer
	// ErrIllegalConfig is returned for a configuration that cannot work; the
	// text names every fault.
	ErrIllegalConfig = errors.New("illegal consumer configuration")
	// ErrClosed is returned by operations on a consumer that has ended, and by a
	// second Run.
	ErrClosed = errors.New("consumer is closed")
	// ErrNotAssigned is returned when the consumer does not read the queue now.
	ErrNotAssigned = errors.New("queue is not assigned to this consumer")
	// ErrHasGroup is returned by Assign on a member of a group: there the group
	// decides who reads which queue.
	ErrHasGroup = errors.New("the group assigns the queues")
	// ErrRefused is returned by a consumer that its group does not take: a member
	// has other subscriptions, or another client has its ClientID. The text names
	// both; protocol.Conflict is in the chain.
	ErrRefused = errors.New("the group refuses this consumer")
	// ErrLeaseLost is the cause (context.Cause) of the end of a handler's context
	// when its queue belongs to another consumer now, or was reset. What the
	// handler returns is of no concern then: the message is delivered again.
	ErrLeaseLost = errors.New("lease of the queue is lost")
	// ErrDropped is what OnError of a broadcasting consumer is told, with the handler's
	// error, of a message that it has given up.
	ErrDropped = errors.New("message is dropped")
	// ErrOffsetsInUse is returned by a broadcasting consumer when another one, in this
	// process or another, keeps its offsets in the same file: each needs a ClientID of
	// its own.
	ErrOffsetsInUse = errors.New("the file of offsets is in use")
	// ErrOffsetsDamaged is returned by a broadcasting consumer whose file of offsets
	// cannot be read. It begins nowhere rather than anywhere.
	ErrOffsetsDamaged = errors.New("the file of offsets is damaged")
	// ErrHandleExpired is returned by Ack, ChangeInvisible and Reject when the
	// message's invisible time was over and it was handed out again: it is another's
	// now. In Run it is the cause of the end of a handler's context.
	ErrHandleExpired = errors.New("message was handed out again")
	// ErrShutdown is the cause of the end of a handler's context when it runs
	// longer than the drain of its consumer may take.
	ErrShutdown = errors.New("consumer is shutting down")
)
