package admin

import (
	"errors"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

func TestOutcome_OfAChange(t *testing.T) {
	good := answer[int]{broker: "a"}
	bad := answer[int]{broker: "b", err: protocol.Errorf(protocol.Unreachable, "gone")}
	if err := outcome("op", []answer[int]{good}); err != nil {
		t.Errorf("got %v", err)
	}
	var partial *PartialError
	err := outcome("op", []answer[int]{bad})
	if errors.As(err, &partial) || !errors.Is(err, protocol.Unreachable) {
		t.Errorf("all failed: %v", err)
	}
	err = outcome("op", []answer[int]{good, bad})
	if !errors.As(err, &partial) || !errors.Is(err, protocol.Unreachable) || partial.Done[0] != "a" || partial.Failed[0].Broker != "b" {
		t.Errorf("got %v", err)
	}
	if want := "op: done on a; 1 failed, first broker b: UNREACHABLE: gone"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}
