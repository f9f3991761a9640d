package consumer

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

var queueTestTime = time.Unix(1_700_000_000, 0)

// However often and whenever somebody asks, no more comes than the burst and what the
// time allows; and at the time that is told, or by a rounding later, one does come.
func TestPace_KeepsTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond, burst := rapid.Float64Range(minRate, 1e6).Draw(t, "rate"), rapid.IntRange(1, 100).Draw(t, "burst")
		start := queueTestTime
		var p pace
		p.set(perSecond, burst, start)
		now, spent := start, 0
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			n, due := p.allows(rapid.IntRange(1, 200).Draw(t, "most"), now)
			if n > 0 {
				p.spend(n, now)
				spent += n
			} else if n, _ = p.allows(1, due.Add(time.Nanosecond)); n != 1 && due.Sub(now) < time.Hour {
				t.Fatalf("after %v: nothing at the time that was told", due.Sub(start))
			}
			most := float64(burst) + perSecond*now.Sub(start).Seconds()
			if float64(spent) > most+1e-3*most {
				t.Fatalf("after %v: %d at %v a second, bursts of %d", now.Sub(start), spent, perSecond, burst)
			}
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause")))
		}
	})
}

func TestPace_Changes(t *testing.T) {
	var p pace
	now := queueTestTime
	if n, _ := p.allows(1000, now); n != 1000 {
		t.Fatalf("without a rate: got %d, want 1000", n)
	}
	p.set(1, 1, now)
	p.spend(1, now)
	if n, due := p.allows(5, now); n != 0 || due.Sub(now) != time.Second {
		t.Fatalf("one a second: got %d and %v, want 0 and 1s", n, due.Sub(now))
	}
	p.set(10, 0, now)
	if n, due := p.allows(5, now); n != 0 || due.Sub(now) != 100*time.Millisecond {
		t.Fatalf("ten a second: got %d and %v, want 0 and 100ms", n, due.Sub(now))
	}
	p.set(0, 0, now)
	p.spend(3, now)
	if n, _ := p.allows(5, now); n != 5 {
		t.Fatalf("none again: got %d, want 5", n)
	}
	if got := defaultBurst(100_000); got != 1000 {
		t.Errorf("burst at 100,000 a second: got %d, want what comes in 10 ms, 1000", got)
	}
}

func TestCheckRate(t *testing.T) {
	for _, c := range []struct {
		perSecond float64
		burst     int
		ok        bool
	}{
		{0, 0, true}, {0.5, 0, true}, {1e9, 5, true}, {minRate, 1, true},
		{-1, 0, false}, {math.NaN(), 0, false}, {math.Inf(1), 0, false}, {1, -1, false}, {1, math.MaxInt64, false}, {1e-9, 0, false},
	} {
		if err := checkRate(c.perSecond, c.burst); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrIllegalConfig) {
			t.Errorf("%v a second in bursts of %d: got %v, want ok %v", c.perSecond, c.burst, err, c.ok)
		}
	}
}

// Four takers wait for ten messages at two a second.
func TestBufferPaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBuffer(t, orderFree)
		b.setPace(2, 1)
		admitTo(b, holdIn(b, queueA, nil), 10)
		start := time.Now()
		times := make(chan time.Duration, 20)
		for range 4 {
			go func() { // ends with the buffer
				for {
					if _, _, err := b.take(t.Context()); err != nil {
						return
					}
					times <- time.Since(start)
				}
			}()
		}
		for i := range 4 {
			if got, want := <-times, time.Duration(i)*500*time.Millisecond; got != want {
				t.Fatalf("message %d: got after %v, want %v", i, got, want)
			}
		}
		synctest.Wait() // all wait for their time
		b.setPace(0, 0)
		for range 6 {
			if got := <-times; got != 1500*time.Millisecond {
				t.Fatalf("without a rate: got after %v, want at once", got)
			}
		}
		b.close()
		synctest.Wait()
	})
}
