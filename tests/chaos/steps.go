//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/rmqio/rmq/tests/crash"
	"github.com/rmqio/rmq/tests/trap"
)

// tries counts up until a script ends before the fault comes, and hands the
// numbers to several goroutines.
type tries struct {
	next  atomic.Int64
	ended atomic.Bool
}

// eachCall runs a script with a fault at its first call, at its second, and so on
// until it ends by itself.
func eachCall(ctx context.Context, b *site, r *result, workers int, try func(ctx context.Context, at int) (struck bool, err error)) error {
	var t tries
	var all sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		all.Go(func() {
			for !t.ended.Load() && b.more(ctx) && !r.hopeless() {
				struck, err := try(ctx, int(t.next.Add(1)))
				if err != nil {
					errs[w] = err
					return
				}
				if !struck {
					t.ended.Store(true)
				}
			}
		})
	}
	all.Wait()
	if !t.ended.Load() {
		r.note("not all steps were tried: the last one was %d", t.next.Load())
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// attempt runs a script under a fault, in a copy of a directory, and checks it.
func attempt(ctx context.Context, r *result, dir string, from crash.Ledger, template string, f crash.Fault) (crash.Outcome, error) {
	defer os.RemoveAll(dir)
	if template != "" {
		if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
			return crash.Outcome{}, err
		}
	}
	o, err := crash.RunScript(ctx, dir, from, f)
	if err != nil || ctx.Err() != nil {
		return o, err
	}
	lost, err := crash.Check(ctx, dir, &o.Ledger)
	switch {
	case ctx.Err() != nil:
		return o, nil
	case err != nil:
		r.violate("%s: %v", where(f, o), err)
	case lost > 0:
		r.violate("%s: %d messages that were acknowledged are lost", where(f, o), lost)
	}
	r.cycle(len(o.Struck), o.Total()-from.Total(), lost)
	return o, nil
}

func where(f crash.Fault, o crash.Outcome) string {
	return fmt.Sprintf("verdict %d at call %d, %v", f.Verdict, f.At, o.Struck)
}

// steps kills a script at each of its calls, and then those that find what such a
// kill has left.
func steps(ctx context.Context, b *site, r *result) error {
	left := &leftovers{dirs: map[string]leftover{}, root: filepath.Join(b.dir, "left")}
	err := eachCall(ctx, b, r, 2, func(ctx context.Context, at int) (bool, error) {
		f := crash.Fault{At: at, Verdict: trap.Kill}
		dir := filepath.Join(b.dir, fmt.Sprint("kill-", at))
		o, err := left.attempt(ctx, r, dir, f)
		return tally(r, "kill", o), err
	})
	if err != nil {
		return err
	}
	r.note("%d ways of being killed were taken up for kills during recovery", len(left.dirs))
	for _, name := range left.names() {
		l := left.dirs[name]
		err := eachCall(ctx, b, r, 2, func(ctx context.Context, at int) (bool, error) {
			dir := filepath.Join(b.dir, fmt.Sprint("recovery-", at))
			o, err := attempt(ctx, r, dir, l.ledger, l.dir, crash.Fault{At: at, Verdict: trap.Kill})
			// What comes after the recovery was tried above.
			return tally(r, "kill again", o) && o.Struck[0].Phase == "open", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tally counts where faults struck.
func tally(r *result, what string, o crash.Outcome) bool {
	for _, p := range o.Struck {
		r.point(fmt.Sprintf("%s: %s, %s\t%s", what, p.File, p.Call, p.Phase))
	}
	return len(o.Struck) > 0
}

// leftovers are directories as kills left them, one for each kind of point.
type leftovers struct {
	root string

	mu   sync.Mutex
	dirs map[string]leftover
}

type leftover struct {
	dir    string
	ledger crash.Ledger
}

// attempt is attempt, but keeps a copy of what the kill has left before it is
// checked, if it is the first one of its kind.
func (l *leftovers) attempt(ctx context.Context, r *result, dir string, f crash.Fault) (crash.Outcome, error) {
	defer os.RemoveAll(dir)
	o, err := crash.RunScript(ctx, dir, crash.Ledger{}, f)
	if err != nil || ctx.Err() != nil {
		return o, err
	}
	if len(o.Struck) > 0 {
		if err := l.keep(dir, o); err != nil {
			return o, err
		}
	}
	lost, err := crash.Check(ctx, dir, &o.Ledger)
	if ctx.Err() != nil {
		return o, nil
	}
	if err != nil || lost > 0 {
		r.violate("%s: %d messages that were acknowledged are lost: %v", where(f, o), lost, err)
	}
	r.cycle(len(o.Struck), o.Total(), lost)
	return o, nil
}

func (l *leftovers) keep(dir string, o crash.Outcome) error {
	p := o.Struck[0]
	name := fmt.Sprintf("%s %s %s", p.File, p.Call, p.Phase)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.dirs[name]; ok || len(o.Complaints) > 0 {
		return nil
	}
	kept := filepath.Join(l.root, fmt.Sprint(len(l.dirs)))
	if err := os.MkdirAll(kept, 0o700); err != nil {
		return err
	}
	l.dirs[name] = leftover{kept, o.Ledger}
	if _, err := os.Stat(dir); err != nil {
		return nil // killed before the directory was made
	}
	return os.CopyFS(kept, os.DirFS(dir))
}

func (l *leftovers) names() []string {
	var names []string
	for name := range l.dirs {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// sleepers is how many scripts run at once that mostly wait for a log to try
// again, which it does after a second.
const sleepers = 24

// failures makes calls of a script fail, one after another.
func failures(ctx context.Context, b *site, r *result) error {
	kinds := []struct {
		calls []string
		errno syscall.Errno
		times int
	}{
		{[]string{"fdatasync", "fsync"}, syscall.EIO, 1},
		{[]string{"pwrite64", "write"}, syscall.EIO, 1},
		{[]string{"pwrite64", "write", "ftruncate"}, syscall.ENOSPC, 3},
		{[]string{"openat", "renameat", "rename", "renameat2", "mkdirat", "mkdir"}, syscall.ENOSPC, 1},
		{[]string{"unlink", "unlinkat", "ftruncate"}, syscall.EIO, 1},
	}
	for _, k := range kinds {
		say("errors: %v of %v", k.errno, k.calls)
		err := eachCall(ctx, b, r, sleepers, func(ctx context.Context, at int) (bool, error) {
			f := crash.Fault{Calls: k.calls, At: at, Times: k.times, Verdict: trap.Fail(k.errno)}
			dir := filepath.Join(b.dir, fmt.Sprint("error-", at))
			o, err := attempt(ctx, r, dir, crash.Ledger{}, "", f)
			if err == nil && ctx.Err() == nil && !o.Done && len(o.Complaints) == 0 {
				r.violate("%s: the script did not come to its end", where(f, o))
			}
			for kind, n := range o.Refused {
				for range n {
					r.point("answered: " + kind)
				}
			}
			return tally(r, k.errno.Error(), o), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pairs makes what is synced beside the segments fail, and kills the script at
// each of the calls that follow.
func pairs(ctx context.Context, b *site, r *result) error {
	const following = 40
	for then := 1; then <= following && b.more(ctx); then++ {
		err := eachCall(ctx, b, r, sleepers, func(ctx context.Context, at int) (bool, error) {
			// The manifest, the directory, a new segment.
			f := crash.Fault{Calls: []string{"fsync"}, At: at, Verdict: trap.Fail(syscall.EIO), Then: then}
			o, err := attempt(ctx, r, filepath.Join(b.dir, fmt.Sprint("pair-", at)), crash.Ledger{}, "", f)
			if len(o.Struck) > 1 {
				r.point(fmt.Sprintf("fsync of %s failed, killed at %s\t%s", o.Struck[0].File, o.Struck[1].Call, o.Struck[1].File))
			}
			return len(o.Struck) > 0, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
