//go:build linux

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// result is what a suite saw. Its methods are safe for concurrent use.
type result struct {
	suite string
	took  time.Duration

	mu         sync.Mutex
	cycles     int
	faults     int   // truly injected
	acked      int64 // messages
	lost       int64 // of these
	found      int   // faults that were noticed, where a fault may do no harm
	points     map[string]int
	notes      []string
	violations []string
}

// maxViolations is how many are shown; a suite ends early when there are more.
const maxViolations = 10

func (r *result) violate(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
	say("%s: VIOLATION: %s", r.suite, r.violations[len(r.violations)-1])
}

func (r *result) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *result) hopeless() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.violations) >= maxViolations
}

// cycle counts one.
func (r *result) cycle(faults int, acked, lost int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cycles++
	r.faults += faults
	r.acked += acked
	r.lost += lost
}

func (r *result) point(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.points[name]++
}

func (r *result) find() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found++
}

// printTable writes a row for each suite, and below it what there is to say.
func printTable(w io.Writer, results []*result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "suite\tcycles\tfaults\tacknowledged\tlost\tfound\tseconds\tresult\t\n")
	for _, r := range results {
		verdict := "passed"
		if len(r.violations) > 0 {
			verdict = "FAILED"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%.0f\t%s\t\n", r.suite, r.cycles, r.faults, r.acked, r.lost, r.found, r.took.Seconds(), verdict)
	}
	t.Flush()
	for _, r := range results {
		if len(r.points)+len(r.notes)+len(r.violations) > 0 {
			fmt.Fprintf(w, "\n%s\n", r.suite)
		}
		r.printPoints(w)
		for _, n := range r.notes {
			fmt.Fprintln(w, "  "+n)
		}
		for _, v := range r.violations[:min(len(r.violations), maxViolations)] {
			fmt.Fprintln(w, "  VIOLATION: "+v)
		}
	}
}

func (r *result) printPoints(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, name := range slices.Sorted(maps.Keys(r.points)) {
		fmt.Fprintf(t, "  %s\t%d\n", name, r.points[name])
	}
	t.Flush()
}
