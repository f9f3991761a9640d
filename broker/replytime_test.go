package broker

import (
	"context"
	"testing"
	"time"
)

// Who sends a reply hears what became of it before it gives up by itself.
func TestReplyTime(t *testing.T) {
	for left, most := range map[time.Duration]time.Duration{
		time.Second: 900 * time.Millisecond, 20 * time.Second: 20*time.Second - maxReplyMargin, time.Hour: maxReplyWait,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), left)
		if got := replyTime(ctx); got > most {
			t.Errorf("of %v a reply waits for %v, want %v at most", left, got, most)
		}
		cancel()
	}
	if got := replyTime(t.Context()); got != maxReplyWait {
		t.Errorf("without a deadline it waits for %v, want %v", got, maxReplyWait)
	}
}
