package producer

import (
	"errors"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// retryAfter is how long a refusal asks to wait; zero: it does not say.
func retryAfter(err error) time.Duration {
	var e *protocol.Error
	if errors.As(err, &e) {
		return e.RetryAfter()
	}
	return 0
}

// aboutQuota reports whether a refusal says that a quota is used up. It holds for
// what the queue gets, not for the broker, and is the same in every queue there:
// the messages wait where they are.
func aboutQuota(code protocol.ErrorCode) bool { return code == protocol.FlowControl }
