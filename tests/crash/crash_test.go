//go:build linux

package crash

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/tests/trap"
)

// stride is how many steps the tests go at once; `make chaos` takes them all.
var stride = flag.Int("stride", 40, "of TestSteps: try every n-th call")

func TestMain(m *testing.M) {
	Main()
	goleak.VerifyTestMain(m)
}

// runAndCheck runs a script under a fault and checks what it leaves.
func runAndCheck(t *testing.T, dir string, f Fault) Outcome {
	t.Helper()
	o, err := RunScript(t.Context(), dir, Ledger{}, f)
	if err != nil {
		t.Error(err)
		return o
	}
	lost, err := Check(t.Context(), dir, &o.Ledger)
	if err != nil || lost != 0 {
		t.Errorf("%+v: struck %v: %d messages lost: %v", f, o.Struck, lost, err)
	}
	return o
}

// whole is a script without a fault; calls are those that matched.
func whole(t *testing.T, names []string) (calls int) {
	t.Helper()
	o := runAndCheck(t, filepath.Join(t.TempDir(), "log"), Fault{Calls: names})
	if !o.Done || o.Total() == 0 || o.Calls == 0 {
		t.Fatalf("a script without a fault: %+v", o)
	}
	return o.Calls
}

// points are the first calls, which make a log, and some of the others.
func points(calls int) (all []int) {
	for n := 1; n <= min(calls, 14); n++ {
		all = append(all, n)
	}
	for n := 15 + rand.IntN(*stride); n <= calls; n += *stride {
		all = append(all, n)
	}
	return all
}

// TestSteps_Kill kills a script at calls all over its life.
func TestSteps_Kill(t *testing.T) {
	calls := whole(t, nil)
	for _, n := range points(calls) {
		o := runAndCheck(t, filepath.Join(t.TempDir(), "log"), Fault{At: n, Verdict: trap.Kill})
		if o.Done != (len(o.Struck) == 0) {
			t.Errorf("at %d: done %v, struck %v", n, o.Done, o.Struck)
		}
	}
}

// TestSteps_Error makes calls fail all over a script's life.
func TestSteps_Error(t *testing.T) {
	var all []Fault
	for _, f := range []Fault{
		{Calls: []string{"fdatasync", "fsync"}, Verdict: trap.Fail(syscall.EIO)},
		{Calls: []string{"pwrite64", "write"}, Verdict: trap.Fail(syscall.ENOSPC), Times: 2},
	} {
		for _, f.At = range points(whole(t, f.Calls)) {
			all = append(all, f)
		}
	}
	faults := make(chan Fault)
	var scripts sync.WaitGroup
	for range 16 { // they mostly wait for the log to try again
		scripts.Go(func() {
			for f := range faults {
				if o := runAndCheck(t, filepath.Join(t.TempDir(), "log"), f); !o.Done {
					t.Errorf("%+v: the script did not come to its end", f)
				}
			}
		})
	}
	for _, f := range all {
		faults <- f
	}
	close(faults)
	scripts.Wait()
}

// TestCheck_SeesLoss shows that the check can fail.
func TestCheck_SeesLoss(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	o := runAndCheck(t, dir, Fault{})
	more := o.Ledger
	more.Acked[2] += 10 // what appendMore has added is not enough
	if lost, err := Check(t.Context(), dir, &more); lost == 0 && err == nil {
		t.Error("messages that were never there are not missing")
	}
	less := o.Ledger
	less.Trim = [Queues]int64{}
	if _, err := Check(t.Context(), dir, &less); err == nil {
		t.Error("messages that retention was not let at are not missing")
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatal(err)
	}
	b, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := 2*page + page/2; at < len(b); at += page { // which pages are in use differs from run to run
		b[at] ^= 1
	}
	if err := os.WriteFile(segments[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(t.Context(), dir, &o.Ledger); err == nil {
		t.Error("a flipped bit in each page is not found")
	}
}
