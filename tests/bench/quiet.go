package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A measurement on a machine that others use too says little. Before each one
// the bench waits until others are quiet, and a measurement during which they
// were not is repeated.

// repeats is how often a disturbed measurement is made again.
const repeats = 3

// clockTick is the unit of the times in /proc: 10 ms, on every Linux.
const clockTick = 10 * time.Millisecond

// usage is the processor time of the machine, that of the bench with its
// children, and what was written to disks.
type usage struct {
	total  time.Duration
	busy   time.Duration
	own    time.Duration
	writes int64
}

// others is the share of the machine that others took between two looks; 0 where
// it cannot be known.
func (u usage) others(later usage) float64 {
	total := later.total - u.total
	if total <= 0 {
		return 0
	}
	return max(0, float64(later.busy-u.busy-later.own+u.own)/float64(total))
}

func (b *bench) usage() usage {
	u := machineTimes()
	u.writes = diskWrites()
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if syscall.Getrusage(who, &r) == nil {
			u.own += time.Duration(r.Utime.Nano() + r.Stime.Nano())
		}
	}
	for p := range b.alive {
		u.own += processTime(p.cmd.Process.Pid)
	}
	return u
}

// machineTimes are those of /proc/stat. What the hypervisor took is busy too.
func machineTimes() (u usage) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u
	}
	first, _, _ := strings.Cut(string(text), "\n")
	const idle, iowait, guest = 4, 5, 9
	for i, f := range strings.Fields(first) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil || i >= guest { // which user has in it
			continue
		}
		t := time.Duration(n) * clockTick
		u.total += t
		if i != idle && i != iowait {
			u.busy += t
		}
	}
	return u
}

// diskWrites is how many writes all disks and their parts have done.
func diskWrites() (n int64) {
	text, err := os.ReadFile("/proc/diskstats")
	if err != nil {
		return 0
	}
	const written = 7
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > written {
			w, _ := strconv.ParseInt(f[written], 10, 64)
			n += w
		}
	}
	return n
}

// processTime is what a running process has used.
func processTime(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	const user, system = 11, 12 // behind the name, which may hold anything
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) <= system {
		return 0
	}
	var t time.Duration
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err == nil {
			t += time.Duration(n) * clockTick
		}
	}
	return t
}

// undisturbed measures when others are quiet, and again when they were not, as
// long as patience lasts; without any, at once.
func (b *bench) undisturbed(ctx context.Context, s side) (m sample, err error) {
	until := time.Now().Add(b.cfg.patience)
	for try := 0; ; try++ {
		if b.cfg.patience > 0 {
			settle()
			b.awaitQuiet(ctx, until)
		}
		before := b.usage()
		if m, err = s.measure(ctx); err != nil {
			return m, err
		}
		share := before.others(b.usage())
		if share <= b.cfg.quiet {
			return m, nil
		}
		if try >= repeats || time.Now().After(until) {
			b.report.Disturbed++
			return m, nil
		}
		say("%s: others took %.0f %% of the machine; once more", s.name, share*100)
	}
}

// Before a measurement others must be quiet for a while, and the disk too.
const (
	quietFor    = 500 * time.Millisecond
	quietWrites = 50
)

// awaitQuiet waits until others take little of the machine.
func (b *bench) awaitQuiet(ctx context.Context, until time.Time) {
	for time.Now().Before(until) {
		before := b.usage()
		timer := time.NewTimer(min(quietFor, b.cfg.patience))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if now := b.usage(); before.others(now) <= b.cfg.quiet && now.writes-before.writes <= quietWrites {
			return
		}
	}
}
