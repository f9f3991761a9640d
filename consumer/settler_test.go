package consumer

import (
	"context"
	"errors"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

// After its end a settler begins nothing that nobody would wait for.
func TestSettler_Closed(t *testing.T) {
	s := newSettler(t.Context(), "g", "c", func(context.Context, string, protocol.Request) (*protocol.AckResponse, error) {
		t.Error("a broker is told something")
		return nil, ErrClosed
	})
	s.close(t.Context())
	var got error
	s.start(acknowledged, &Popped{}, func(err error) { got = err })
	s.running.Wait()
	if !errors.Is(got, ErrClosed) {
		t.Errorf("got %v", got)
	}
}

// A broker whose answer does not fit the request is not believed.
func TestSettler_AnswerThatDoesNotFit(t *testing.T) {
	s := newSettler(t.Context(), "g", "c", func(context.Context, string, protocol.Request) (*protocol.AckResponse, error) {
		return &protocol.AckResponse{}, nil
	})
	defer s.close(t.Context())
	errs := s.settle(t.Context(), opAck, acknowledged, &Popped{})
	if len(errs) != 1 || !errors.Is(errs[0], protocol.SystemError) {
		t.Errorf("got %v", errs)
	}
}
