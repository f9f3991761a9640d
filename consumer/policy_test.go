package consumer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

func TestPolicies_AskNowAndThen(t *testing.T) {
	p, asked := newPolicies(), 0
	want := protocol.RetryPolicy{Kind: protocol.RetryExponential}
	var fault error
	get := func() protocol.RetryPolicy {
		return p.get(t.Context(), func() (protocol.RetryPolicy, error) {
			asked++
			return want, fault
		})
	}
	for range 3 {
		if got := get(); got != want || asked != 1 {
			t.Errorf("got %v, asked %d times", got, asked)
		}
	}
	p.asked = p.asked.Add(-policyAge)
	before := want
	want, fault = protocol.RetryPolicy{}, errors.New("no answer")
	if got := get(); got != before || asked != 2 {
		t.Errorf("without an answer: got %v, asked %d times", got, asked)
	}
	get()
	if asked != 2 {
		t.Error("who does not answer is asked at once")
	}
}

func TestPolicies_WaitNoLongerThanAllowed(t *testing.T) {
	p := newPolicies()
	p.turn <- struct{}{} // another asks
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got := p.get(ctx, nil); got != (protocol.RetryPolicy{}) {
		t.Errorf("got %v", got)
	}
}
