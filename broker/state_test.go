package broker

import (
	"fmt"
	"testing"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

// What refuses already stays as it is, with its code said once.
func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{fmt.Errorf("%w: 5 bytes", store.ErrTooLarge), "MESSAGE_ILLEGAL: " + store.ErrTooLarge.Error() + ": 5 bytes"},
		{protocol.Errorf(protocol.NotFound, "no such message"), "NOT_FOUND: no such message"},
		{fmt.Errorf("look: %w", protocol.Errorf(protocol.Fenced, "not yours")), "FENCED: not yours"},
	} {
		text := ""
		if err := refusal(c.err); err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%v: got %q, want %q", c.err, text, c.want)
		}
	}
}
