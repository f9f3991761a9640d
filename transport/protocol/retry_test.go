package protocol

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

func TestRetryPolicy_StepByStep(t *testing.T) {
	exponential := RetryPolicy{Kind: RetryExponential}
	for name, c := range map[string]struct {
		policy RetryPolicy
		want   string
	}{
		"none":        {RetryPolicy{}, "10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h 2h 2h"},
		"table":       {RetryPolicy{Kind: RetryTable}, "10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h 2h 2h"},
		"exponential": {exponential, "5s 10s 20s 40s 80s 160s 320s 640s 1280s 2560s 5120s 2h 2h 2h 2h 2h 2h"},
		"own":         {RetryPolicy{Kind: RetryExponential, FirstMillis: 1000, MaxMillis: 3500}, "1s 2s 3500ms 3500ms"},
		"short":       {RetryPolicy{Kind: RetryExponential, MaxMillis: 1000}, "1s 1s"},
	} {
		for i, text := range strings.Fields(c.want) {
			want, err := time.ParseDuration(text)
			if got := c.policy.Delay(i + 1); err != nil || got != want {
				t.Errorf("%s, %d: got %v, want %v", name, i+1, got, want)
			}
		}
	}
}

// Delays grow up to the longest, and no further.
func TestRetryPolicy_AgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.Int64Range(1, message.MaxDelay.Milliseconds()).Draw(t, "most")
		first := rapid.Int64Range(1, most).Draw(t, "first")
		p := RetryPolicy{Kind: RetryExponential, FirstMillis: first, MaxMillis: most}
		want := first
		for n := 1; n <= 100; n++ {
			if got := p.Delay(n).Milliseconds(); got != min(want, most) {
				t.Fatalf("%d: got %d, want %d", n, got, min(want, most))
			}
			if want < most {
				want *= 2
			}
		}
		if got := p.Delay(1 << 30); got.Milliseconds() != most {
			t.Fatalf("late: got %v", got)
		}
	})
}
