package command

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rmqio/rmq/internal/machine"
)

// benchResult is what a benchmark measured. The fields are API.
type benchResult struct {
	Benchmark         string        `json:"benchmark"`
	Messages          int64         `json:"messages"`
	Seconds           float64       `json:"seconds"`
	MessagesPerSecond float64       `json:"messagesPerSecond"`
	BytesPerSecond    float64       `json:"bytesPerSecond"`
	Errors            int64         `json:"errors"`
	LatencyOf         string        `json:"latencyOf"`
	LatencyMillis     benchLatency  `json:"latencyMillis"`
	Rate              *benchRate    `json:"rate,omitempty"`
	Settings          benchSettings `json:"settings"`
	Build             build         `json:"build"`
	Machine           machine.Facts `json:"machine"`
}

type benchLatency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// benchRate is what became of --rate. The rate was not held when the last
// message went off later than by 1 % of the time measured, and by 10 ms at least.
type benchRate struct {
	Asked        float64 `json:"asked"`
	Held         bool    `json:"held"`
	BehindMillis float64 `json:"behindMillis"`
}

type benchSettings struct {
	Topic           string  `json:"topic"`
	Topics          int     `json:"topics"`
	Queues          int     `json:"queues"`
	Size            int     `json:"size"`
	Clients         int     `json:"clients"`
	Mode            string  `json:"mode"` // async or sync; pull, push, orderly or pop
	Batch           int     `json:"batch"`
	Window          int     `json:"window"`
	Rate            float64 `json:"rate"`
	WarmupSeconds   float64 `json:"warmupSeconds"`
	DurationSeconds float64 `json:"durationSeconds"` // 0: until count
	Count           int     `json:"count"`
}

const (
	// Latencies are kept in microseconds, from 1 us to 10 minutes.
	maxBenchLatency = int64(10 * time.Minute / time.Microsecond)
	latencyDigits   = 3

	rateSlack    = 10 * time.Millisecond
	rateSlackPer = 100
)

// tally is what one client did. It is safe for concurrent use.
type tally struct {
	mu       sync.Mutex
	latency  *hdrhistogram.Histogram
	messages int64
	bytes    int64
	errors   int64
	seen     int64         // messages, those of the warm-up too
	last     time.Duration // when the last message was done
	err      error         // the first
}

func newTally() *tally { return &tally{latency: hdrhistogram.New(1, maxBenchLatency, latencyDigits)} }

// done enters messages that are due, taken, or stored at a time and done now.
func (t *tally) done(n int, bytes int64, counted bool, latency, now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen += int64(n)
	if !counted {
		return
	}
	t.messages += int64(n)
	t.bytes += bytes
	t.last = max(t.last, now)
	us := min(max(int64(latency/time.Microsecond), 1), maxBenchLatency)
	t.latency.RecordValues(us, int64(n)) // it is within the range
}

func (t *tally) failed(n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.errors += int64(n)
	if t.err == nil {
		t.err = err
	}
}

func (t *tally) progress() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}

// add puts another tally, which nobody uses any more, to this one.
func (t *tally) add(o *tally) {
	t.latency.Merge(o.latency)
	t.messages, t.bytes, t.errors, t.seen = t.messages+o.messages, t.bytes+o.bytes, t.errors+o.errors, t.seen+o.seen
	t.last = max(t.last, o.last)
	if t.err == nil {
		t.err = o.err
	}
}

func latencyOf(h *hdrhistogram.Histogram) benchLatency {
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1000 }
	return benchLatency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000}
}

func perSecond(n int64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(n) / seconds
}

// printBench prints a result in the form that was asked for.
func (a *app) printBench(r benchResult) error {
	return printObject(a, r, r.Benchmark, func(w io.Writer) error {
		l := r.LatencyMillis
		return writeFields(w,
			"messages", fmt.Sprintf("%d in %.2f s", r.Messages, r.Seconds),
			"rate", fmt.Sprintf("%.0f msg/s, %.1f MB/s", r.MessagesPerSecond, r.BytesPerSecond/1e6),
			"errors", number(r.Errors),
			"latency", fmt.Sprintf("%s, in ms: p50 %.3f, p90 %.3f, p99 %.3f, p99.9 %.3f, max %.3f", r.LatencyOf, l.P50, l.P90, l.P99, l.P999, l.Max),
		)
	})
}

// warnRate says that a rate was too high.
func (a *app) warnRate(r benchResult) {
	if r.Rate != nil && !r.Rate.Held {
		a.note("warning: the rate of %.0f msg/s was not held: %.0f msg/s, %.0f ms behind at the end", r.Rate.Asked, r.MessagesPerSecond, r.Rate.BehindMillis)
	}
}

// verdict is the failure of a benchmark that has printed its result: why it
// was cut short, or that messages failed.
func (b *benchmark) verdict(ctx context.Context, r benchResult, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err == nil && r.Errors > 0 {
		err = b.firstErr
	}
	if err == nil {
		return nil
	}
	f := *explain(ctx, err)
	if r.Errors > 0 {
		f.Message = fmt.Sprintf("%d messages failed: %s", r.Errors, f.Message)
	}
	if r.Messages > 0 {
		f.exit = exitPartial
	}
	return &f
}
