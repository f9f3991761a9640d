package consumer

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"
)

// pace bounds how many messages are handed out in a second. It is a pure machine:
// its owner locks it and tells it the time.
type pace struct{ limiter *rate.Limiter } // nil: as fast as they come

// set changes the bound; tokens that were saved up stay, as far as the burst allows.
func (p *pace) set(perSecond float64, burst int, now time.Time) {
	if perSecond == 0 {
		p.limiter = nil
		return
	}
	if burst == 0 {
		burst = defaultBurst(perSecond)
	}
	if p.limiter == nil {
		p.limiter = rate.NewLimiter(rate.Limit(perSecond), burst)
		return
	}
	p.limiter.SetLimitAt(now, rate.Limit(perSecond))
	p.limiter.SetBurstAt(now, burst)
}

// defaultBurst is what comes in 10 ms: less than timers can tell apart would cost
// throughput.
func defaultBurst(perSecond float64) int {
	return int(min(max(math.Ceil(perSecond/100), 1), math.MaxInt32))
}

// allows is how many messages may be handed out now, at most so many; when that is
// none, due is when one may.
func (p *pace) allows(most int, now time.Time) (n int, due time.Time) {
	if p.limiter == nil {
		return most, due
	}
	tokens := p.limiter.TokensAt(now)
	if tokens >= 1 {
		return min(most, int(min(tokens, math.MaxInt32))), due
	}
	wait := math.Ceil((1 - tokens) / float64(p.limiter.Limit()) * float64(time.Second))
	return 0, now.Add(time.Duration(min(wait, float64(time.Hour))))
}

// spend counts messages that were handed out.
func (p *pace) spend(n int, now time.Time) {
	if p.limiter != nil {
		p.limiter.AllowN(now, n)
	}
}

func checkRate(perSecond float64, burst int) error {
	if !(perSecond >= 0) || math.IsInf(perSecond, 0) || burst < 0 || burst > math.MaxInt32 {
		return fmt.Errorf("%w: rate of %v messages a second in bursts of %d; want 0 (no limit) or more", ErrIllegalConfig, perSecond, burst)
	}
	if perSecond > 0 && perSecond < minRate {
		return fmt.Errorf("%w: rate of %v messages a second is below one an hour; use Suspend", ErrIllegalConfig, perSecond)
	}
	return nil
}

// minRate is one message an hour.
const minRate = 1.0 / 3600
