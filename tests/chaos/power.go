//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/tests/crash"
	"github.com/rmqio/rmq/tests/trap"
)

// outages cuts the power of one disk again and again.
type outages struct {
	*site
	disk   *disk
	result *result
	log    int          // number of the log's directory
	ledger crash.Ledger // of that log
	points int          // calls of a whole script
}

// power takes turns between a writer under load whose disk loses power at a
// random moment, and a script whose disk loses power at a random one of its
// calls. Two controls show that loss would be seen.
func power(ctx context.Context, b *site, r *result) error {
	d, err := newDisk(ctx, b, "disk", 512<<20)
	if err != nil {
		return err
	}
	o := &outages{site: b, disk: d, result: r}
	whole, err := crash.RunScript(ctx, o.path("script"), crash.Ledger{}, crash.Fault{})
	if err != nil {
		return err
	}
	o.points = whole.Calls
	for n := 0; n < b.cycles && b.more(ctx) && !r.hopeless(); n++ {
		if n%2 == 0 {
			err = o.underLoad(ctx)
		} else {
			err = o.atCall(ctx, n)
		}
		if err != nil {
			return err
		}
	}
	return o.controls(ctx)
}

func (o *outages) path(name string) string { return filepath.Join(o.disk.path, name) }

// outage runs a writer on a log, cuts the power at a random moment, and starts
// the disk again.
func (o *outages) outage(ctx context.Context, dir string, flush store.FlushMode, from crash.Ledger, judge crash.Judge) (crash.Ledger, error) {
	w, err := crash.Start(ctx, crash.Load, dir, flush, from, judge)
	if err != nil {
		return from, err
	}
	select {
	case <-w.Acked:
	case <-ctx.Done():
	}
	err = pause(ctx, o.between(0, 250*time.Millisecond))
	err = errors.Join(err, o.disk.cut())
	err = errors.Join(err, pause(ctx, o.between(0, 5*time.Millisecond))) // it does not know yet
	w.Kill()
	return w.Wait(), errors.Join(err, o.disk.restart(ctx))
}

func (o *outages) underLoad(ctx context.Context) error {
	const enough = 30_000 // messages, so that reading them all does not take ever longer
	if o.ledger.Total() > enough {
		if err := os.RemoveAll(o.path(fmt.Sprint("log-", o.log))); err != nil {
			return err
		}
		o.log, o.ledger = o.log+1, crash.Ledger{}
	}
	dir, before := o.path(fmt.Sprint("log-", o.log)), o.ledger.Total()
	after, err := o.outage(ctx, dir, store.SyncFlush, o.ledger, nil)
	if err != nil {
		return err
	}
	o.ledger = after
	lost, err := crash.Check(ctx, dir, &after)
	if err != nil || lost > 0 {
		o.result.violate("power cut under load: %d messages that were acknowledged are lost: %v", lost, err)
		o.ledger.Acked[0] = 1 << 40 // go on with another log
	}
	o.result.cycle(1, after.Total()-before, lost)
	o.result.point("power cut under load\t")
	return nil
}

func (o *outages) atCall(ctx context.Context, n int) error {
	dir := o.path(fmt.Sprint("script-", n))
	f := crash.Fault{At: 1 + o.random.IntN(o.points), Verdict: trap.Kill, Before: o.disk.cut}
	outcome, err := crash.RunScript(ctx, dir, crash.Ledger{}, f)
	if err := errors.Join(err, o.disk.restart(ctx)); err != nil {
		return err
	}
	lost, err := crash.Check(ctx, dir, &outcome.Ledger)
	if err != nil || lost > 0 {
		o.result.violate("power cut, %s: %d messages that were acknowledged are lost: %v", where(f, outcome), lost, err)
	}
	o.result.cycle(len(outcome.Struck), outcome.Total(), lost)
	for _, p := range outcome.Struck {
		o.result.point(fmt.Sprintf("power cut at a call: %s, %s\t", p.File, p.Call))
	}
	return os.RemoveAll(dir)
}

// controls break promises on purpose: if that is not seen, nothing above says
// anything.
func (o *outages) controls(ctx context.Context) error {
	const cycles = 10
	skipSync := func(c trap.Call) trap.Verdict {
		if c.Name == "fsync" || c.Name == "fdatasync" {
			return trap.Skip
		}
		return trap.Pass
	}
	for _, c := range []struct {
		what  string
		flush store.FlushMode
		judge crash.Judge
		sound bool // the log must open all the same
	}{
		{"acknowledged before the commit", store.AsyncFlush, nil, true},
		{"syncs that do nothing", store.SyncFlush, skipSync, false},
	} {
		seen, lost := 0, int64(0)
		for n := range cycles {
			dir := o.path(fmt.Sprintf("control-%.4s-%d", c.what, n))
			l, err := o.outage(ctx, dir, c.flush, crash.Ledger{}, c.judge)
			if err != nil {
				return err
			}
			missing, err := crash.Check(ctx, dir, &l)
			if err != nil && c.sound {
				o.result.violate("control, %s: %v", c.what, err)
			}
			if missing > 0 || err != nil {
				seen++
			}
			lost += missing
		}
		o.result.note("control: %s: seen in %d of %d power cuts, %d messages lost", c.what, seen, cycles, lost)
		if seen == 0 {
			o.result.violate("the test cannot fail: %s, and nothing was lost", c.what)
		}
	}
	return nil
}
