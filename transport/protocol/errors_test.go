package protocol

import (
	"errors"
	"fmt"
	"go/ast"
	"testing"
	"time"
)

// errorCodes are the numbers and names that programs and scripts depend on.
var errorCodes = []struct {
	code      ErrorCode
	number    int
	name      string
	retryable bool
}{
	{SystemError, 1, "SYSTEM_ERROR", true},
	{Busy, 2, "SYSTEM_BUSY", true},
	{UnknownRequest, 3, "REQUEST_CODE_NOT_SUPPORTED", false},
	{IllegalMessage, 13, "MESSAGE_ILLEGAL", false},
	{Unavailable, 14, "SERVICE_NOT_AVAILABLE", true},
	{NoPermission, 16, "NO_PERMISSION", false},
	{TopicNotFound, 17, "TOPIC_NOT_FOUND", false},
	{Conflict, 18, "CONFLICT", false},
	{QueueNotFound, 19, "QUEUE_NOT_FOUND", false},
	{NotFound, 22, "NOT_FOUND", false},
	{GroupNotFound, 26, "GROUP_NOT_FOUND", false},
	{InvalidArgument, 29, "INVALID_ARGUMENT", false},
	{Fenced, 30, "FENCED", false},
	{UnknownMember, 31, "UNKNOWN_MEMBER", false},
	{OffsetOutOfRange, 32, "OFFSET_OUT_OF_RANGE", false},
	{Damaged, 33, "DATA_DAMAGED", false},
	{SequenceLost, 34, "SEQUENCE_LOST", false},
	{FlowControl, 215, "FLOW_CONTROL", true},
	{Unreachable, 40, "UNREACHABLE", true},
	{UnknownOutcome, 41, "UNKNOWN_OUTCOME", true},
	{Closed, 42, "CLOSED", false},
}

func TestErrorCodes(t *testing.T) {
	for _, tt := range errorCodes {
		c := tt.code
		if int(c) != tt.number || c.String() != tt.name || c.Error() != tt.name || c.Retryable() != tt.retryable {
			t.Errorf("%s: got %d, retryable %t, want %d %s, %t", c, c, c.Retryable(), tt.number, tt.name, tt.retryable)
		}
	}
	constants := 0
	declared(t, func(s ast.Spec) {
		if v, ok := s.(*ast.ValueSpec); ok {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "ErrorCode" {
				constants += len(v.Names)
			}
		}
	})
	if constants != len(errorCodes) || len(errorNames) != len(errorCodes) {
		t.Errorf("got %d constants and %d names, want %d of both", constants, len(errorNames), len(errorCodes))
	}
	if got := ErrorCode(999).String(); got != "ERROR_999" || ErrorCode(999).Retryable() {
		t.Errorf("unknown code: got %s", got)
	}
}

func TestError_IsItsCode(t *testing.T) {
	refusal := Errorf(TopicNotFound, "topic %q is not known", "ordres")
	wrapped := fmt.Errorf("send to broker-a: %w", refusal)
	for _, err := range []error{refusal, wrapped, fmt.Errorf("wait: %w", TopicNotFound)} {
		if !errors.Is(err, TopicNotFound) || errors.Is(err, GroupNotFound) || CodeOf(err) != TopicNotFound {
			t.Errorf("%v: is not TopicNotFound alone", err)
		}
	}
	if got, want := refusal.Error(), `TOPIC_NOT_FOUND: topic "ordres" is not known`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if AsError(wrapped) != refusal {
		t.Error("AsError makes a new error of one that is there")
	}
}

func TestCodeOf_AndAsErrorOfAnyError(t *testing.T) {
	plain := errors.New("disk on fire")
	if CodeOf(nil) != 0 || CodeOf(plain) != SystemError {
		t.Errorf("got %s and %s", CodeOf(nil), CodeOf(plain))
	}
	if got := AsError(plain); got.Code != SystemError || got.Remark != "disk on fire" {
		t.Errorf("got %+v", got)
	}
	if got := AsError(fmt.Errorf("pull: %w", Unavailable)); got.Code != Unavailable {
		t.Errorf("got %+v", got)
	}
}

func TestError_RetryAfter(t *testing.T) {
	if got := (&Error{Code: Busy, RetryAfterMillis: 20}).RetryAfter(); got != 20*time.Millisecond {
		t.Errorf("got %v, want 20ms", got)
	}
}
