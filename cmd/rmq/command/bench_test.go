package command

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
)

func TestBench_MistakesExitWithTwo(t *testing.T) {
	for _, c := range []struct{ line, message string }{
		{"bench", `"rmq bench" needs a verb`},
		{"bench pubb", `unknown command "pubb"`},
		{"bench pub extra", `argument "extra" is one too many`},
		{"bench pub --clients 0", "--clients 0: want 1 to 10000"},
		{"bench pub --clients -1", "--clients -1"},
		{"bench sub --clients 0", "--clients 0"},
		{"bench e2e --clients 10001", "--clients 10001"},
		{"bench pub --size 4194305", "--size 4194305: want 0 to 4194304 bytes"},
		{"bench pub --size 5MiB", "--size 5242880"},
		{"bench pub --size -1", "want a number of bytes"},
		{"bench pub --size 1e3", "want a number of bytes"},
		{"bench pub --size 99999999999GiB", "want a number of bytes"},
		{"bench e2e --size 16", "--size 16: want 17 to"},
		{"bench pub --rate -1", "--rate -1: want 0 (no limit) or more"},
		{"bench pub --rate NaN", "--rate NaN"},
		{"bench pub --rate +Inf", "--rate +Inf"},
		{"bench pub --batch 0", "--batch 0"},
		{"bench pub --window 0", "--window 0"},
		{"bench pub --topics 0", "--topics 0"},
		{"bench pub --queues 0", "--queues 0"},
		{"bench pub --queues 1025", "--queues 1025"},
		{"bench pub --count 0", "--count 0: want at least 1"},
		{"bench pub --duration 0s", "--duration 0s"},
		{"bench pub --warmup -1s", "--warmup -1s"},
		{"bench sub --idle-timeout 0s", "--idle-timeout 0s"},
		{"bench sub --mode fetch", "--mode fetch: want one of pull, push, orderly, pop"},
		{"bench sub --tag ||", "--tag"},
		{"bench pub --count 1 --duration 1s", "--count and --duration exclude one another"},
		{"bench pub --async --sync", "--async and --sync exclude one another"},
		{"bench pub --sync --window 2", "--sync and --window exclude one another"},
		{"bench pub --topic a.b", "character '.'"},
		{"bench pub --topic %RETRY%g", "reserved"},
	} {
		r := run(t, "", strings.Fields(c.line)...)
		if r.exit != exitUsage || r.stdout != "" || !strings.Contains(r.stderr, c.message) {
			t.Errorf("rmq %s: exit %d, stdout %q, stderr %q; want %q", c.line, r.exit, r.stdout, r.stderr, c.message)
		}
	}
}

func TestBench_NobodyAnswers(t *testing.T) {
	for _, verb := range []string{"pub", "sub", "e2e"} {
		r := run(t, "", "bench", verb, "-n", "127.0.0.1:1", "--timeout", "2s")
		if r.exit != exitUnavailable || r.stdout != "" || !strings.Contains(r.stderr, "rmq server") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", verb, r.exit, r.stdout, r.stderr)
		}
	}
}

// benchmarked runs a benchmark and reads its JSON.
func (c *cli) benchmarked(line string) (r benchResult) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.ok("bench "+line+" -o json")), &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func checkBench(t *testing.T, line string, r benchResult, messages int64) {
	t.Helper()
	l := r.LatencyMillis
	if r.Messages != messages || r.Errors != 0 || r.Seconds <= 0 || r.MessagesPerSecond <= 0 || r.BytesPerSecond <= 0 {
		t.Errorf("bench %s: got %+v", line, r)
	}
	if l.Max <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max*1.01 {
		t.Errorf("bench %s: got latencies %+v", line, l)
	}
}

func TestBench_CountsEachMessageOnce(t *testing.T) {
	c := newCLI(t)
	const each = " --count 500 --warmup 0s --size 200"
	for _, line := range []string{
		"pub", "pub --sync", "pub --clients 3", "pub --clients 3 --sync", "pub --batch 7", "pub --batch 7 --sync", "pub --window 1",
		"pub --batch 1000", "pub --rate 100000", "pub --rate 100000 --clients 2 --sync", "pub --topics 3 --queues 2 --topic Many",
	} {
		checkBench(t, line, c.benchmarked(line+each), 500)
	}
	const sent = 10 * 500
	if r := c.benchmarked("sub --count 5000 --clients 2"); r.Messages != sent || r.Errors != 0 {
		t.Errorf("got %+v", r)
	}
	for _, mode := range benchModes {
		r := c.benchmarked("sub --idle-timeout 3s --duration 1h --clients 2 --mode " + mode)
		if r.Messages != sent || r.Errors != 0 || r.Settings.Mode != mode {
			t.Errorf("--mode %s: got %+v", mode, r)
		}
	}
	for _, line := range []string{"e2e", "e2e --clients 2 --rate 50000", "e2e --batch 5", "delay --delay 20ms", "tx", "tx --sync --clients 2"} {
		checkBench(t, line, c.benchmarked(line+each), 500)
	}
	if out := c.ok("topic list -o name"); out != "BenchmarkTest\nMany-0\nMany-1\nMany-2\n" {
		t.Errorf("topics: %q", out)
	}
	if out := c.ok("group list -o name"); out != "" {
		t.Errorf("groups are left behind: %q", out)
	}
}

// figuresIn are what differs from run to run, and from machine to machine.
var figuresIn = regexp.MustCompile(`(": )([0-9][0-9.e+-]*)|("(?:version|revision|time|go|platform|cpu|kernel)": )"[^"]*"|("(?:modified|held)": )\w+`)

func TestBench_Output(t *testing.T) {
	c := newCLI(t)
	for _, verb := range []string{"pub --rate 1000", "e2e --rate 1000", "sub"} {
		out := c.ok("bench " + verb + " --count 10 -o json")
		name, _, _ := strings.Cut(verb, " ")
		golden(t, "bench-"+name+".json", []byte(figuresIn.ReplaceAllString(out, `$1$3${4}0`)))
	}
	r := c.run("bench pub --count 10 --warmup 0s")
	for _, field := range []string{"messages:", "rate:", "errors:", "latency:"} {
		if !strings.Contains(r.stdout, field) || r.stderr != "" {
			t.Errorf("got %+v", r)
		}
	}
}

func TestBench_ARateThatCannotBeHeldIsReported(t *testing.T) {
	c := newCLI(t)
	r := c.run("bench pub --rate 1e9 --duration 2s --warmup 0s -o json")
	var b benchResult
	if err := json.Unmarshal([]byte(r.stdout), &b); err != nil || r.exit != exitOK {
		t.Fatalf("%+v: %v", r, err)
	}
	if b.Rate == nil || b.Rate.Held || b.Rate.BehindMillis <= 0 || b.Messages == 0 || !strings.Contains(r.stderr, "was not held") {
		t.Errorf("rate %+v, %d messages, stderr %q", b.Rate, b.Messages, r.stderr)
	}
}

func TestBench_FailedMessagesAreAnError(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --perm r")
	r := c.run("bench pub --topic t --count 10 --warmup 0s -o json")
	var b benchResult
	if err := json.Unmarshal([]byte(r.stdout), &b); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	if r.exit != exitDenied || b.Errors == 0 || b.Messages != 0 || !strings.Contains(r.stderr, "NO_PERMISSION") {
		t.Errorf("exit %d, %+v, stderr %q", r.exit, b, r.stderr)
	}
}

func TestBench_SubEndsWhenNothingComes(t *testing.T) {
	c := newCLI(t)
	c.ok("bench pub --count 10 --warmup 0s")
	c.fails(exitPartial, "10 of 11 messages came", "bench sub --count 11 --idle-timeout 2s")
	if r := c.benchmarked("sub --from latest --idle-timeout 300ms"); r.Messages != 0 || r.MessagesPerSecond != 0 {
		t.Errorf("got %+v", r)
	}
	c.ok("bench sub --group mine --count 10")
	if out := c.ok("group list -o name"); out != "mine\n" {
		t.Errorf("the group that was named: %q", out)
	}
}

// Each way ends at the count, and gets the messages with the tag alone.
func TestBench_SubFiltered(t *testing.T) {
	c := newCLI(t)
	c.ok("bench pub --count 300 --warmup 0s")
	c.ok("bench pub --count 200 --warmup 0s --tag paid")
	for _, mode := range benchModes {
		if r := c.benchmarked("sub --idle-timeout 3s --duration 1h --tag paid --mode " + mode); r.Messages != 200 || r.Errors != 0 {
			t.Errorf("--mode %s --tag paid: got %+v", mode, r)
		}
		if r := c.benchmarked("sub --count 100 --mode " + mode); r.Messages < 100 || r.Errors != 0 {
			t.Errorf("--mode %s --count 100: got %+v", mode, r)
		}
	}
}

func TestBench_AutoCreationIsNotNeeded(t *testing.T) {
	c := newCLI(t, func(cfg *broker.Config) { cfg.NoAutoCreateTopics = true })
	c.ok("bench pub --count 10 --warmup 0s --queues 3")
	if out := c.ok("topic route BenchmarkTest -o json"); !strings.Contains(out, `"writeQueues": 3`) {
		t.Errorf("got %s", out)
	}
}

func TestBench_AnInterruptionPrintsWhatThereIs(t *testing.T) {
	c := newCLI(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	var out, stderr strings.Builder
	var watching sync.WaitGroup
	watching.Go(func() { // until some are stored
		for ctx.Err() == nil && c.run("sub BenchmarkTest --from earliest --count 1000 --idle-timeout 5s --raw").exit != exitOK {
		}
		cancel(errInterrupted)
	})
	code := Run(ctx, c.args("bench pub --duration 1h --warmup 0s -o json"), strings.NewReader(""), &out, &stderr)
	cancel(nil)
	watching.Wait()
	var b benchResult
	if err := json.Unmarshal([]byte(out.String()), &b); err != nil || code != exitInterrupted || b.Messages == 0 {
		t.Errorf("exit %d, %v, %q, %q", code, err, out.String(), stderr.String())
	}
}

// handClock is a clock that a test sets.
type handClock struct{ now time.Duration }

func TestBenchSchedule_AnOpenLoopKeepsItsTimes(t *testing.T) {
	clock := &handClock{}
	s := &benchSchedule{clock: func() time.Duration { return clock.now }, interval: float64(time.Millisecond), warmup: 3 * time.Millisecond, end: 10 * time.Millisecond, left: -1}
	clock.now = 5 * time.Millisecond // as if the first send had taken so long
	for i := range 5 {
		turn, ok := s.take(1)
		if !ok || turn.at != time.Duration(i)*time.Millisecond || !turn.counted {
			t.Errorf("message %d: %+v, %v", i, turn, ok)
		}
	}
	if late := s.lateness(); late != time.Millisecond {
		t.Errorf("late by %v", late)
	}
	clock.now = 10 * time.Millisecond
	if _, ok := s.take(1); ok {
		t.Error("goes on after the end")
	}
}

func TestBenchSchedule_CountsAfterTheWarmUp(t *testing.T) {
	clock := &handClock{}
	s := &benchSchedule{clock: func() time.Duration { return clock.now }, warmup: time.Second, left: 5}
	if turn, ok := s.take(3); !ok || turn.counted || turn.n != 3 {
		t.Errorf("in the warm-up: %+v, %v", turn, ok)
	}
	clock.now = time.Second
	var got []int
	for {
		turn, ok := s.take(3)
		if !ok {
			break
		}
		got = append(got, turn.n)
	}
	if len(got) != 2 || got[0] != 3 || got[1] != 2 {
		t.Errorf("got %v, want 3 and 2", got)
	}
}

func TestByteSize(t *testing.T) {
	for text, want := range map[string]byteSize{"0": 0, "128": 128, "128B": 128, "1KiB": 1024, "1kib": 1024, "2K": 2048, "1KB": 1000, "4 MiB": 4 << 20, "1MB": 1e6} {
		var got byteSize
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	var s byteSize
	if err := s.Set("x"); err == nil || errors.Is(err, context.Canceled) {
		t.Error("x is a size")
	}
}
