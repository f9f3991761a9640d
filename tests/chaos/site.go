//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// site is where one suite works. What it starts and mounts is undone by
// cleanUp, last things first. Its random numbers are for the suite's own
// goroutine.
type site struct {
	cfg      config
	dir      string
	cycles   int
	deadline time.Time
	random   *rand.Rand

	mu   sync.Mutex
	undo []func() error
}

// atEnd has something undone when the suite has ended.
func (b *site) atEnd(undo func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.undo = append(b.undo, undo)
}

func (b *site) cleanUp() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for _, undo := range slices.Backward(b.undo) {
		errs = append(errs, undo())
	}
	b.undo = nil
	if !b.cfg.keep {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

// more reports whether there is time for another cycle.
func (b *site) more(ctx context.Context) bool {
	return ctx.Err() == nil && time.Now().Before(b.deadline)
}

// between is a random duration.
func (b *site) between(least, most time.Duration) time.Duration {
	return least + time.Duration(b.random.Int64N(int64(most-least)))
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// until waits until the condition holds.
func until(ctx context.Context, limit time.Duration, what string, condition func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %v: %s", limit, what))
	defer cancel()
	for !condition() {
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// need is something that a suite cannot do without.
type need int

const (
	root need = iota
	mkfs
	server
)

// check fails for the first thing that is missing.
func check(cfg config, chosen []suite) error {
	for _, s := range chosen {
		for _, n := range s.needs {
			if err := n.check(cfg); err != nil {
				return fmt.Errorf("suite %s: %w", s.name, err)
			}
		}
	}
	return nil
}

func (n need) check(cfg config) error {
	switch n {
	case root:
		if os.Geteuid() != 0 {
			return errors.New("mounting needs root; without root, try -suites steps,errors,damage,kill")
		}
	case mkfs:
		for tool, debian := range map[string]string{"mkfs.ext4": "e2fsprogs", "mount": "mount", "umount": "mount"} {
			if _, err := exec.LookPath(tool); err != nil {
				return fmt.Errorf("%s is missing: install the Debian package %s", tool, debian)
			}
		}
	case server:
		if _, err := os.Stat(cfg.rmq); err != nil {
			return fmt.Errorf("no server to break, run make build: %w", err)
		}
	}
	return nil
}

// directoryPrefix begins the name of a run's directory; what follows is its
// process id.
const directoryPrefix = "rmq-chaos-"

// directory is where one run works.
type directory struct{ path string }

// takeDirectory makes one, and removes those of runs that are no more.
func takeDirectory(parent string) (*directory, error) {
	left, err := filepath.Glob(filepath.Join(parent, directoryPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, path := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(path), directoryPrefix))
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) && pid != os.Getpid() {
			continue // not one of ours, or in use
		}
		say("removing %s, which an earlier run left", path)
		if err := (&directory{path}).remove(); err != nil {
			return nil, err
		}
	}
	d := &directory{filepath.Join(parent, directoryPrefix+strconv.Itoa(os.Getpid()))}
	return d, os.Mkdir(d.path, 0o700)
}

// remove undoes the mounts in it, if any are left, and removes it.
func (d *directory) remove() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], d.path+"/") {
			if err := unmount(f[1]); err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(d.path)
}
