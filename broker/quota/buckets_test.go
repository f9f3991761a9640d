package quota

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/transport/protocol"
)

func start() time.Time { return time.UnixMilli(1_700_000_000_000) }

func bound(client string, messages, bytes int64) Bound {
	return Bound{Key: Key{Scope: protocol.QuotaOfClient, Name: client}, Rates: protocol.Rates{MessagesPerSecond: messages, BytesPerSecond: bytes}}
}

// step is a batch of a scenario at a time after the start.
type step struct {
	at   time.Duration
	size Size
	wait time.Duration // 0: it passes
}

func TestBuckets_Scenarios(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		bound Bound
		steps []step
	}{
		"a second's worth at once, then as it comes": {bound("c", 10, 0), []step{
			{0, Size{10, 1 << 20}, 0}, {0, Size{1, 1}, 100 * ms}, {100 * ms, Size{1, 1}, 0}, {100 * ms, Size{3, 1}, 300 * ms}, {400 * ms, Size{3, 1}, 0},
		}},
		"no more than a second's worth gathers": {bound("c", 10, 0), []step{
			{0, Size{10, 1}, 0}, {time.Hour, Size{10, 1}, 0}, {time.Hour, Size{1, 1}, 100 * ms},
		}},
		"bytes bound too": {bound("c", 10, 1000), []step{
			{0, Size{1, 1000}, 0}, {0, Size{1, 500}, 500 * ms}, {500 * ms, Size{1, 500}, 0},
		}},
		"what is refused counts nothing": {bound("c", 10, 0), []step{
			{0, Size{8, 1}, 0}, {0, Size{3, 1}, 100 * ms}, {0, Size{3, 1}, 100 * ms}, {0, Size{2, 1}, 0},
		}},
		"more than a second's worth passes a full bucket and is paid back": {bound("c", 0, 1000), []step{
			{0, Size{1, 1}, 0}, {0, Size{1, 5000}, 1 * ms}, {1 * ms, Size{1, 5000}, 0}, {1 * ms, Size{1, 1000}, 5 * time.Second},
			{4000 * ms, Size{1, 1}, 2 * ms}, {5001 * ms, Size{1, 1000}, 0},
		}},
		"a clock that is set back neither fills nor closes": {bound("c", 10, 0), []step{
			{time.Hour, Size{10, 1}, 0}, {0, Size{1, 1}, 100 * ms}, {99 * ms, Size{1, 1}, 1 * ms}, {100 * ms, Size{1, 1}, 0}, {200 * ms, Size{1, 1}, 0},
		}},
	} {
		b := NewBuckets()
		for i, s := range c.steps {
			if wait, _ := b.Take(start().Add(s.at), []Bound{c.bound}, s.size); wait.Round(time.Microsecond) != s.wait {
				t.Errorf("%s: step %d: got %v, want %v", name, i, wait, s.wait)
			}
		}
	}
}

func TestBuckets_AllAgreeOrNoneIsCharged(t *testing.T) {
	b := NewBuckets()
	plenty, scarce, scarcer := bound("plenty", 10, 0), bound("scarce", 2, 0), bound("scarcer", 1, 0)
	for range 2 {
		if wait, _ := b.Take(start(), []Bound{plenty, scarce}, Size{1, 1}); wait != 0 {
			t.Fatal(wait)
		}
	}
	for range 20 {
		if wait, slowest := b.Take(start(), []Bound{plenty, scarce}, Size{1, 1}); wait != 500*time.Millisecond || slowest != 1 {
			t.Fatalf("got %v of bound %d", wait, slowest)
		}
	}
	if wait, _ := b.Take(start(), []Bound{plenty}, Size{8, 1}); wait != 0 {
		t.Errorf("a refusal by one quota was charged to another: %v", wait)
	}
	b.Take(start(), []Bound{scarcer}, Size{1, 1})
	if wait, slowest := b.Take(start(), []Bound{scarcer, scarce, plenty}, Size{1, 1}); wait != time.Second || slowest != 0 {
		t.Errorf("got %v of bound %d, want the longest wait", wait, slowest)
	}
}

func TestBuckets_GiveTakesBack(t *testing.T) {
	b, all := NewBuckets(), []Bound{bound("c", 5, 100)}
	for range 10 {
		if wait, _ := b.Take(start(), all, Size{5, 100}); wait != 0 {
			t.Fatal(wait)
		}
		b.Give(start(), all, Size{5, 100})
	}
	b.Give(start(), all, Size{500, 10000})
	b.Take(start(), all, Size{5, 100})
	if wait, _ := b.Take(start(), all, Size{1, 1}); wait != 200*time.Millisecond {
		t.Errorf("got %v: more was given back than a bucket holds", wait)
	}
}

func TestBuckets_NewRatesBeginAnew(t *testing.T) {
	b := NewBuckets()
	b.Take(start(), []Bound{bound("c", 1, 0)}, Size{1, 1})
	if wait, _ := b.Take(start(), []Bound{bound("c", 3, 0)}, Size{3, 1}); wait != 0 {
		t.Errorf("got %v", wait)
	}
	if wait, _ := b.Take(start(), []Bound{bound("c", 3, 0)}, Size{3, 1}); wait != time.Second {
		t.Errorf("got %v", wait)
	}
}

// Many clients come and go: those that have filled up are dropped, and those in
// debt are bounded.
func TestBuckets_OfIdleClientsAreDropped(t *testing.T) {
	b, now := NewBuckets(), start()
	for i := range 50 * sweepFrom {
		now = now.Add(10 * time.Millisecond)
		b.Take(now, []Bound{bound(fmt.Sprint("c", i), 1, 0)}, Size{1, 1})
		if b.Len() > sweepFrom+1 {
			t.Fatalf("%d buckets, of which 100 are not full", b.Len())
		}
	}
	for i := range 2*maxBuckets + 10 {
		b.Take(now, []Bound{bound(fmt.Sprint("debt", i), 0, 1)}, Size{1, 1 << 20})
		if b.Len() > maxBuckets+1 {
			t.Fatalf("%d buckets", b.Len())
		}
	}
}

// Who has something to pay back, in messages or in bytes, is not let off by others
// that come and go.
func TestBuckets_OfDebtorsStay(t *testing.T) {
	b, now := NewBuckets(), start()
	debtors := []Bound{bound("messages", 1, 1<<30), bound("bytes", 1<<30, 1)}
	for i := range debtors {
		b.Take(now, debtors[i:i+1], Size{3600, 3600})
	}
	now = now.Add(time.Minute)
	for i := range 3 * sweepFrom {
		b.Take(now, []Bound{bound(fmt.Sprint("c", i), 1, 0)}, Size{1, 1})
		now = now.Add(time.Millisecond)
	}
	for i := range debtors {
		if wait, _ := b.Take(now, debtors[i:i+1], Size{1, 1}); wait < 50*time.Minute {
			t.Errorf("%s: got %v", debtors[i].Key.Name, wait)
		}
	}
}

func TestBuckets_ManyClientsAtOnce(t *testing.T) {
	const clients, each = 50, 40
	b := NewBuckets()
	topic := Bound{Key: Key{Topic: 7}, Rates: protocol.Rates{MessagesPerSecond: 1000}}
	var passed [clients]int
	var all sync.WaitGroup
	for c := range clients {
		all.Go(func() {
			for range each {
				if wait, _ := b.Take(start(), []Bound{topic, bound(fmt.Sprint(c), 30, 0)}, Size{1, 1}); wait == 0 {
					passed[c]++
				}
			}
		})
	}
	all.Wait()
	sum := 0
	for c, n := range passed {
		if n > 30 {
			t.Errorf("client %d sent %d", c, n)
		}
		sum += n
	}
	if sum != 1000 {
		t.Errorf("%d messages passed, want the 1000 of the topic", sum)
	}
}

// history is the simple model of a bucket: all that it has taken and when, added
// up anew for each question.
type history struct {
	perSecond float64
	taken     []taken
}

type taken struct {
	at float64 // seconds
	n  float64
}

func (h *history) tokens(at float64) float64 {
	tokens, last := h.perSecond, 0.0
	for _, x := range append(h.taken, taken{at, 0}) {
		tokens = math.Min(h.perSecond, tokens+(x.at-last)*h.perSecond) - x.n
		last = x.at
	}
	return tokens
}

func (h *history) wait(at, n float64) float64 {
	if h.perSecond == 0 {
		return 0
	}
	return math.Max(0, (math.Min(n, h.perSecond)-h.tokens(at))/h.perSecond)
}

func TestBuckets_AgainstAModel(t *testing.T) {
	const names = 3
	rapid.Check(t, func(t *rapid.T) {
		b, now := NewBuckets(), start()
		var bounds [names]Bound
		var messages, bytes [names]history
		for i := range bounds {
			rate := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 20), rapid.Int64Range(1, 1<<30))
			bounds[i] = bound(fmt.Sprint(i), rate.Draw(t, "messages"), rate.Draw(t, "bytes"))
			messages[i].perSecond, bytes[i].perSecond = float64(bounds[i].Rates.MessagesPerSecond), float64(bounds[i].Rates.BytesPerSecond)
		}
		t.Repeat(map[string]func(*rapid.T){
			"pass": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, 2e9).Draw(t, "pause")))
			},
			"take": func(t *rapid.T) {
				size := Size{rapid.IntRange(1, 30).Draw(t, "count"), rapid.IntRange(100, 4<<20).Draw(t, "size")}
				from := rapid.IntRange(0, names-1).Draw(t, "from")
				at, want := now.Sub(start()).Seconds(), 0.0
				for i := from; i < names; i++ {
					want = math.Max(want, math.Max(messages[i].wait(at, float64(size.Messages)), bytes[i].wait(at, float64(size.Bytes))))
				}
				wait, slowest := b.Take(now, bounds[from:], size)
				if math.Abs(wait.Seconds()-want) > 1e-6*(1+want) || slowest >= names-from {
					t.Fatalf("got %v of %d, want %v s", wait, slowest, want)
				}
				for i := from; wait == 0 && i < names; i++ {
					messages[i].taken = append(messages[i].taken, taken{at, float64(size.Messages)})
					bytes[i].taken = append(bytes[i].taken, taken{at, float64(size.Bytes)})
				}
			},
			"take when it is said to pass": func(t *rapid.T) {
				size := Size{1, 1}
				if wait, _ := b.Take(now, bounds[:1], size); wait > 0 {
					now = now.Add(wait.Truncate(time.Millisecond) + time.Millisecond)
					if wait, _ = b.Take(now, bounds[:1], size); wait > 0 {
						t.Fatalf("it is still %v", wait)
					}
				}
				at := now.Sub(start()).Seconds()
				messages[0].taken = append(messages[0].taken, taken{at, 1})
				bytes[0].taken = append(bytes[0].taken, taken{at, 1})
			},
		})
	})
}
