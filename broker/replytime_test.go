package broker

import (
	"context"
	"fmt"
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

func TestReplies_GoodbyesAreBounded(t *testing.T) {
	r := newReplies(&clients{}, nil, nil)
	r.ended("a")
	if !r.hasLeft("a") || r.hasLeft("b") {
		t.Error("a goodbye is not known, or another's is")
	}
	if r.seen("a"); r.hasLeft("a") {
		t.Error("one that is back has left")
	}
	r.ended("a")
	for i := range maxGoodbyes {
		r.ended(fmt.Sprint(i))
	}
	if r.hasLeft("a") || !r.hasLeft("0") || len(r.said) != maxGoodbyes || len(r.gone) != maxGoodbyes {
		t.Errorf("%d goodbyes of %d clients are kept, want %d, without the oldest", len(r.said), len(r.gone), maxGoodbyes)
	}
}
