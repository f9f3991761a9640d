package protocol

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrorCode says why a request was refused. Numbers are RocketMQ's ResponseCode
// where it has the case. An ErrorCode is itself an error, so that
// errors.Is(err, protocol.TopicNotFound) works on every answer.
type ErrorCode uint16

// The error codes, each with when it is returned.
const (
	// SystemError: the server failed in a way that the request did not cause.
	SystemError ErrorCode = 1
	// Busy: too much is waiting; nothing was done; try again after RetryAfter.
	Busy ErrorCode = 2
	// UnknownRequest: the server does not know the request's code.
	UnknownRequest ErrorCode = 3
	// IllegalMessage: the message breaks a limit or a rule, or the frame or batch is damaged.
	IllegalMessage ErrorCode = 13
	// Unavailable: the server shuts down or its store refuses writes; nothing was done.
	Unavailable ErrorCode = 14
	// NoPermission: the topic or group does not allow it.
	NoPermission ErrorCode = 16
	// TopicNotFound: no such topic, and it was not created.
	TopicNotFound ErrorCode = 17
	// Conflict: it exists already, or is in use, or the change contradicts the state.
	Conflict ErrorCode = 18
	// QueueNotFound: the topic has no queue of this number here.
	QueueNotFound ErrorCode = 19
	// NotFound: no such message, transaction or quota, or what names it is forged.
	NotFound ErrorCode = 22
	// GroupNotFound: no such consumer group.
	GroupNotFound ErrorCode = 26
	// InvalidArgument: a field of the request breaks a rule; the text says which.
	InvalidArgument ErrorCode = 29
	// Fenced: the lease that the request carries is not, or no longer, held.
	Fenced ErrorCode = 30
	// UnknownMember: the client has no session here; it must send a heartbeat first.
	UnknownMember ErrorCode = 31
	// OffsetOutOfRange: the offset is below the queue's first or above its end.
	OffsetOutOfRange ErrorCode = 32
	// Damaged: the stored data that was asked for does not pass its checksum.
	Damaged ErrorCode = 33
	// SequenceLost: the broker does not know any more which messages of this
	// producer it has, so that it cannot tell whether this one is a duplicate.
	SequenceLost ErrorCode = 34
	// FlowControl: a quota is used up; nothing was done; try again after RetryAfter.
	FlowControl ErrorCode = 215
	// Unreachable: no server answers at the address; whether the request
	// arrived is not known if the connection was cut while it was under way.
	Unreachable ErrorCode = 40
	// UnknownOutcome: no answer came in time; the request may or may not have
	// been carried out.
	UnknownOutcome ErrorCode = 41
	// Closed: the client was closed.
	Closed ErrorCode = 42
)

var errorNames = map[ErrorCode]string{
	SystemError: "SYSTEM_ERROR", Busy: "SYSTEM_BUSY", UnknownRequest: "REQUEST_CODE_NOT_SUPPORTED",
	IllegalMessage: "MESSAGE_ILLEGAL", Unavailable: "SERVICE_NOT_AVAILABLE", NoPermission: "NO_PERMISSION",
	TopicNotFound: "TOPIC_NOT_FOUND", Conflict: "CONFLICT", QueueNotFound: "QUEUE_NOT_FOUND",
	GroupNotFound: "GROUP_NOT_FOUND", InvalidArgument: "INVALID_ARGUMENT", Fenced: "FENCED",
	UnknownMember: "UNKNOWN_MEMBER", OffsetOutOfRange: "OFFSET_OUT_OF_RANGE", Damaged: "DATA_DAMAGED",
	NotFound: "NOT_FOUND", SequenceLost: "SEQUENCE_LOST", FlowControl: "FLOW_CONTROL",
	Unreachable: "UNREACHABLE", UnknownOutcome: "UNKNOWN_OUTCOME", Closed: "CLOSED",
}

// String is the code's name as the command prints it: TOPIC_NOT_FOUND.
func (c ErrorCode) String() string {
	if s, ok := errorNames[c]; ok {
		return s
	}
	return "ERROR_" + strconv.Itoa(int(c))
}

// Error makes the code a sentinel.
func (c ErrorCode) Error() string { return c.String() }

// Retryable reports whether sending the same request again, to this broker or
// another, can succeed without anything else being changed.
func (c ErrorCode) Retryable() bool {
	switch c {
	case SystemError, Busy, Unavailable, FlowControl, Unreachable, UnknownOutcome:
		return true
	}
	return false
}

// Error is a refusal: the only error that crosses the wire.
type Error struct {
	Code ErrorCode `json:"code"`
	// Remark is for people; programs look at Code.
	Remark string `json:"remark"`
	// RetryAfterMillis is set with Busy and FlowControl, and with Conflict where it
	// may pass by itself: how long to wait.
	RetryAfterMillis int64 `json:"retryAfterMillis,omitempty"`
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Remark }

// Is matches the error's code: errors.Is(err, TopicNotFound).
func (e *Error) Is(target error) bool {
	c, ok := target.(ErrorCode)
	return ok && c == e.Code
}

// RetryAfter is how long to wait before trying again; zero: no advice.
func (e *Error) RetryAfter() time.Duration {
	return time.Duration(e.RetryAfterMillis) * time.Millisecond
}

// wireCode is the code as it crosses the wire, where 0 means success.
func (e *Error) wireCode() ErrorCode {
	if e.Code == 0 {
		return SystemError
	}
	return e.Code
}

// Errorf makes an Error.
func Errorf(c ErrorCode, format string, args ...any) *Error {
	return &Error{Code: c, Remark: fmt.Sprintf(format, args...)}
}

// CodeOf finds the code in err's chain; SystemError when there is none, and 0
// when err is nil.
func CodeOf(err error) ErrorCode {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	var c ErrorCode
	if errors.As(err, &c) {
		return c
	}
	return SystemError
}

// AsError turns any error into one that can cross the wire.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: CodeOf(err), Remark: err.Error()}
}
