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
	// ErrBusy: the broker had too much waiting until the end.
	ErrBusy = protocol.Busy
	// ErrUnknownOutcome: the message was sent, and no answer came in time. It may
	// or may not be stored; sending it again may store it twice.
	ErrUnknownOutcome = protocol.UnknownOutcome
	// ErrClosed: the producer was closed.
	ErrClosed = protocol.Closed
)

// Errors of this package that no broker answers.
var (
	// ErrNoNameServer is returned by New when none of the four ways gives an address.
	ErrNoNameServer = client.ErrNoNameServer
	// ErrBufferFull: MaxBufferedBytes were waiting; the message was not sent.
	ErrBufferFull = errors.New("send buffer full")
	// ErrNotSent: the time was over before the message could be sent.
	ErrNotSent = client.ErrNotSent
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
	if err := m.Validate(); err != nil {
		return client.Wrap(opSend, m.Topic, "", coded(protocol.IllegalMessage, err))
	}
	return nil
}
