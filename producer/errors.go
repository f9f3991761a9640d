package producer

import (
	"context"
	"errors"
	"fmt"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Error is what every send fails with: what was attempted, where, the code, and
// whether the same call may succeed later.
type Error = client.Error

// Sentinels for errors.Is, by code.
const (
	// ErrTopicNotFound: nobody has the topic, and it was not created.
	ErrTopicNotFound = protocol.TopicNotFound
	// ErrQueueNotFound: the topic has no such queue to send to.
	ErrQueueNotFound = protocol.QueueNotFound
	// ErrNoPermission: the topic does not take messages.
	ErrNoPermission = protocol.NoPermission
	// ErrIllegalMessage: the message breaks a rule; message.ErrBodyTooLarge and
	// its neighbours say which.
	ErrIllegalMessage = protocol.IllegalMessage
	// ErrInvalidArgument: an argument breaks a rule, such as a topic's name.
	ErrInvalidArgument = protocol.InvalidArgument
	// ErrUnreachable: no server could be reached.
	ErrUnreachable = protocol.Unreachable
	// ErrFlowControl: a quota of the topic, the group or the client was used up
	// until the end. The messages were not sent.
	ErrFlowControl = protocol.FlowControl
	// ErrBusy: the broker had too much waiting until the end.
	ErrBusy = protocol.Busy
	// ErrUnknownOutcome: the message was sent, and no answer came in time. It may
	// or may not be stored. Sending it again through the same producer, with its
	// Message.ID set to the Receipt's MessageID, stores it once in all; without that,
	// with Config.NoIdempotence, or after more than 10,000 other sends have ended like
	// this, it may be stored twice.
	ErrUnknownOutcome = protocol.UnknownOutcome
	// ErrSequenceLost: the broker has forgotten what it had of this producer, so
	// that it cannot tell whether it has the message; it has not stored it now. The
	// outcome of the tries before is unknown: ErrUnknownOutcome as well. Whoever
	// would rather have the message twice than not at all sends it as a new one.
	ErrSequenceLost = protocol.SequenceLost
	// ErrFenced: another producer with the same Config.ProducerID has begun to send
	// to the queue; this one is out. With ErrUnknownOutcome as well, an earlier try
	// may have been stored; without, the message is not stored.
	ErrFenced = protocol.Fenced
	// ErrClosed: the producer was closed.
	ErrClosed = protocol.Closed
	// ErrNotFound: the broker does not know the delayed message or the transaction:
	// it was over long ago, or what names it is forged or of another cluster.
	ErrNotFound = protocol.NotFound
	// ErrConflict: the transaction was decided before, the other way.
	ErrConflict = protocol.Conflict
)

// Errors of this package that no broker answers.
var (
	// ErrNoNameServer is returned by New when none of the four ways gives an address.
	ErrNoNameServer = client.ErrNoNameServer
	// ErrBufferFull: MaxBufferedBytes were waiting; the message was not sent.
	ErrBufferFull = errors.New("send buffer full")
	// ErrNotSent: the time was over before the message could be sent.
	ErrNotSent = client.ErrNotSent
	// ErrBadHandle: what Recall was given was never a handle, or is not whole.
	ErrBadHandle = client.ErrBadHandle
	// ErrNoChecker: a transaction without Config.Checker; nobody could say what
	// became of it when the answer of the local transaction is lost.
	ErrNoChecker = errors.New("a transaction needs Config.Checker")
	// ErrNoReply: the request was stored, and no reply came in time.
	ErrNoReply = errors.New("no reply")
)

const opSend = "send to"

// coded gives an error of this side its code.
func coded(code protocol.ErrorCode, err error) error { return fmt.Errorf("%w: %w", code, err) }

func errNoTime(waitedFor error) error {
	if waitedFor == nil {
		waitedFor = coded(protocol.Unreachable, errors.New("earlier messages of the queue are not answered"))
	}
	return fmt.Errorf("%w: %w: %w", ErrNotSent, context.DeadlineExceeded, waitedFor)
}

func errNoAnswer(last error) error {
	if last == nil || errors.Is(last, protocol.UnknownOutcome) {
		return coded(protocol.UnknownOutcome, context.DeadlineExceeded)
	}
	return coded(protocol.UnknownOutcome, fmt.Errorf("%w; the last try: %v", context.DeadlineExceeded, last))
}

// errUnknown is that of a message which a broker may have, for the reason that
// there is no further try.
func errUnknown(err error) error {
	if errors.Is(err, protocol.UnknownOutcome) {
		return err
	}
	return fmt.Errorf("%w; it may be stored all the same: %w", err, protocol.UnknownOutcome)
}

// errAbandoned is that of a message whose sender waits no more.
func errAbandoned(sent bool, why error) error {
	if sent {
		return coded(protocol.UnknownOutcome, why)
	}
	return coded(protocol.Unreachable, fmt.Errorf("%w: %w", ErrNotSent, why))
}

func errClosed(sent bool) error {
	if sent {
		return coded(protocol.Closed, protocol.UnknownOutcome)
	}
	return coded(protocol.Closed, ErrNotSent)
}

// check refuses what no broker accepts. A topic that is in use has a good name.
func check(m *message.Message, knownTopic bool) error {
	if m == nil {
		return client.Wrap(opSend, "", "", coded(protocol.IllegalMessage, errors.New("the message is nil")))
	}
	if !knownTopic {
		if err := message.CheckTopic(m.Topic); err != nil {
			return client.Wrap(opSend, m.Topic, "", coded(protocol.InvalidArgument, err))
		}
	}
	if err := errors.Join(m.Validate(), checkCompression(m)); err != nil {
		return client.Wrap(opSend, m.Topic, "", coded(protocol.IllegalMessage, err))
	}
	if m.DedupKey != "" && m.IsDelayed() {
		return client.Wrap(opSend, m.Topic, "", coded(protocol.IllegalMessage, fmt.Errorf(
			"%w: a message with a deduplication key cannot be delayed: its key is taken when it is stored in its queue", message.ErrIllegalMessage)))
	}
	return nil
}
