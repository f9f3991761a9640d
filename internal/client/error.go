package client

import (
	"context"
	"errors"
	"strings"

	"github.com/rmqio/rmq/transport/protocol"
)

// ErrNotSent is wrapped by errors of Start when the request never left the
// client, so that nothing can have come of it.
var ErrNotSent = errors.New("not sent")

// Error is what every operation of the SDKs fails with. errors.Is finds its
// code: errors.Is(err, protocol.TopicNotFound).
type Error struct {
	// Op is what was attempted.
	Op string
	// Topic and Broker are empty where they have no part in it.
	Topic, Broker string
	Code          protocol.ErrorCode
	// Retryable reports whether the same call may succeed later without
	// anything else being changed.
	Retryable bool
	Err       error
}

// Wrap makes err an *Error; nil stays nil, and an *Error stays what it is.
func Wrap(op, topic, broker string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	e := &Error{Op: op, Topic: topic, Broker: broker, Code: protocol.CodeOf(err), Err: err}
	ended := errors.Is(err, context.DeadlineExceeded)
	if errors.Is(err, context.Canceled) && !errors.Is(err, ErrNotSent) || ended && e.Code == protocol.SystemError {
		e.Code = protocol.UnknownOutcome
	}
	e.Retryable = e.Code.Retryable() && !errors.Is(err, context.Canceled)
	return e
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Topic != "" {
		b.WriteString(" topic " + e.Topic)
	}
	if e.Broker != "" {
		b.WriteString(" at broker " + e.Broker)
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(protocol.ErrorCode)
	return ok && code == e.Code
}
