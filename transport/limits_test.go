package transport

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/transport/protocol"
)

func TestAdmission_GreedyCallerLeavesRoom(t *testing.T) {
	for _, l := range []Limits{{Requests: 100}, {Bytes: 100}, {Requests: 100, Bytes: 100}} {
		a := newAdmission(l)
		fill := func(caller string) (n int) {
			for a.enter(caller, 1) == nil {
				n++
			}
			return n
		}
		if n := fill("greedy"); n != 50 {
			t.Errorf("%+v: one caller alone got %d, want half", l, n)
		}
		if err := a.enter("modest", 1); err != nil {
			t.Errorf("%+v: a second caller is shut out: %v", l, err)
		}
		a.leave("modest", 1)
		if n := fill("second"); n != 25 {
			t.Errorf("%+v: a second greedy caller got %d, want half of the rest", l, n)
		}
		err := a.enter("greedy", 1)
		var refusal *protocol.Error
		if !errors.As(err, &refusal) || refusal.Code != protocol.Busy || refusal.RetryAfterMillis == 0 {
			t.Errorf("%+v: got %v, want Busy with a retry time", l, err)
		}
	}
}

// TestAdmission_StaysWithinItsLimits admits and releases at random.
func TestAdmission_StaysWithinItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{Requests: rapid.IntRange(1, 20).Draw(t, "requests"), Bytes: int64(rapid.IntRange(1, 50).Draw(t, "bytes"))}
		a := newAdmission(l)
		type entry struct {
			caller string
			bytes  int64
		}
		var in []entry
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			if len(in) > 0 && rapid.Bool().Draw(t, "leave") {
				i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
				a.leave(in[i].caller, in[i].bytes)
				in = append(in[:i], in[i+1:]...)
				continue
			}
			e := entry{fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "caller")), int64(rapid.IntRange(0, 60).Draw(t, "size"))}
			if err := a.enter(e.caller, e.bytes); err == nil {
				in = append(in, e)
			} else if len(in) == 0 {
				t.Fatalf("refused with nothing in flight: %v", err)
			}
			var bytes int64
			for _, e := range in {
				bytes += e.bytes
			}
			if len(in) > l.Requests || len(in) > 1 && bytes > l.Bytes {
				t.Fatalf("%d requests of %d bytes are in, the limits are %+v", len(in), bytes, l)
			}
		}
		for _, e := range in {
			a.leave(e.caller, e.bytes)
		}
		if len(a.callers) != 0 || a.all != (use{}) {
			t.Fatalf("left behind: %+v %+v", a.callers, a.all)
		}
	})
}
