//go:build linux

package crash

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/tests/trap"
)

// Fault is what becomes of some of a script's calls.
type Fault struct {
	Calls   []string // by name; nil: all that are trapped
	At      int      // the first one that it strikes, counted from 1 over all threads
	Times   int      // how many it strikes; 0: one
	Verdict trap.Verdict
	// Then, when not 0, kills the process so many calls of any kind after the first
	// that was struck.
	Then int
	// Before, when not nil, is called before the first verdict is carried out.
	Before func() error
}

// Point is a call in the life of a log.
type Point struct {
	Call  string // fdatasync
	File  string // what kind of file it is about
	Phase string // of the script
}

// Outcome is how a script under a fault ended.
type Outcome struct {
	Ledger
	Calls  int     // that matched the fault
	Struck []Point // none: the script ended before
}

// scriptTime bounds a script: what lasts longer hangs.
const scriptTime = 90 * time.Second

// RunScript runs a script on the log in dir under a fault until its end.
func RunScript(ctx context.Context, dir string, from Ledger, f Fault) (Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, scriptTime)
	defer cancel()
	s := &striker{fault: f, dir: dir}
	w, err := Start(ctx, Script, dir, store.SyncFlush, from, s.judge)
	if err != nil {
		return Outcome{}, err
	}
	o := Outcome{Ledger: w.Wait(), Calls: s.calls, Struck: s.struck}
	if err := ctx.Err(); err != nil {
		o.Complaints = append(o.Complaints, fmt.Sprintf("not at its end after %v: %v", scriptTime, err))
	}
	return o, s.err
}

// striker carries a fault out.
type striker struct {
	fault  Fault
	dir    string
	phase  string
	newest string // segment
	calls  int
	after  int // calls since the first that was struck
	struck []Point
	err    error
}

func (s *striker) judge(c trap.Call) trap.Verdict {
	if phase, ok := strings.CutPrefix(c.Path, phasePath(s.dir, "")); ok {
		s.phase = phase
		return trap.Pass
	}
	kind := s.kindOfFile(c.Path)
	if len(s.struck) > 0 {
		if s.after++; s.after == s.fault.Then {
			s.struck = append(s.struck, Point{c.Name, kind, s.phase})
			return trap.Kill
		}
	}
	if s.fault.Calls != nil && !slices.Contains(s.fault.Calls, c.Name) {
		return trap.Pass
	}
	s.calls++
	if s.calls < s.fault.At || s.calls >= s.fault.At+max(1, s.fault.Times) {
		return trap.Pass
	}
	if len(s.struck) == 0 && s.fault.Before != nil {
		s.err = s.fault.Before()
	}
	s.struck = append(s.struck, Point{c.Name, kind, s.phase})
	return s.fault.Verdict
}

// phasePath is a file that is never there: a script that looks for it tells what
// it does from then on, in order with its other calls.
func phasePath(dir, phase string) string { return dir + "/phase/" + phase }

// kindOfFile says what a file of a log is. A segment is first the one that is
// written to, and an older one when the next has come.
func (s *striker) kindOfFile(path string) string {
	name := filepath.Base(path)
	switch {
	case path == s.dir:
		return "directory"
	case strings.HasPrefix(name, "MANIFEST"):
		return "manifest"
	case strings.HasSuffix(name, ".tmp"):
		return "next segment"
	case !strings.HasSuffix(name, ".seg"):
		return "other"
	case name >= s.newest:
		s.newest = name
		return "active segment"
	}
	return "older segment"
}
