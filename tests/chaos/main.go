//go:build linux

// Command chaos breaks the broker's disk and its processes on purpose, many times
// over, and checks that nothing that was acknowledged is lost, that nothing wrong
// is served, and that damage is found. docs/testing.md says what each suite does.
//
// It works in a directory of its own, undoes its mounts and ends its processes
// also when it fails, and removes what an earlier run that was killed left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rmqio/rmq/tests/churn"
	"github.com/rmqio/rmq/tests/crash"
)

type config struct {
	rmq     string
	dir     string
	suites  string
	cycles  int
	seconds time.Duration
	seed    uint64
	keep    bool
}

// suite is one kind of fault. It returns an error when it could not be run; what
// it finds wrong is in its result.
type suite struct {
	name   string
	cycles int // by default; 0: as many as there are steps
	needs  []need
	run    func(context.Context, *site, *result) error
}

func suites() []suite {
	return []suite{
		{"power", 300, []need{root, mkfs}, power},
		{"steps", 0, nil, steps},
		{"errors", 0, nil, failures},
		{"pairs", 0, nil, pairs},
		{"diskfull", 6, []need{root, mkfs, server}, diskFull},
		{"damage", 300, []need{server}, damage},
		{"kill", 100, []need{server}, kill},
		{"blackout", 50, []need{root, mkfs, server}, blackout},
		{"churn", 3, []need{server}, membersChurn},
	}
}

func main() {
	crash.Main()
	churn.Main()
	var cfg config
	var names []string
	for _, s := range suites() {
		names = append(names, s.name)
	}
	flag.StringVar(&cfg.rmq, "rmq", filepath.Join("bin", "rmq"), "the `command` to break")
	flag.StringVar(&cfg.dir, "dir", os.TempDir(), "`folder` to work in")
	flag.StringVar(&cfg.suites, "suites", strings.Join(names, ","), "which `suites` to run, in this order")
	flag.IntVar(&cfg.cycles, "cycles", 0, "cycles of each suite; 0: as many as it takes by default")
	flag.DurationVar(&cfg.seconds, "time", 20*time.Minute, "end each suite after this `time`, with what it has")
	flag.Uint64Var(&cfg.seed, "seed", rand.Uint64(), "repeat the random choices of an earlier run")
	flag.BoolVar(&cfg.keep, "keep", false, "keep the directory")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, cfg)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// run runs the chosen suites and prints the table.
func run(ctx context.Context, cfg config) error {
	chosen, err := choose(cfg.suites)
	if err != nil {
		return err
	}
	if err := check(cfg, chosen); err != nil {
		return err
	}
	dir, err := takeDirectory(cfg.dir)
	if err != nil {
		return err
	}
	say("seed %d, in %s", cfg.seed, dir.path)
	var results []*result
	for _, s := range chosen {
		if ctx.Err() == nil {
			results = append(results, runSuite(ctx, cfg, s, dir.path))
		}
	}
	printTable(os.Stdout, results)
	if !cfg.keep {
		err = dir.remove()
	}
	for _, r := range results {
		if len(r.violations) > 0 {
			return errors.Join(err, errors.New("promises are broken"))
		}
	}
	return errors.Join(err, context.Cause(ctx))
}

func choose(list string) (chosen []suite, err error) {
	all := suites()
	for _, name := range strings.Split(list, ",") {
		i := slices.IndexFunc(all, func(s suite) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no suite %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// runSuite runs one suite in a folder of its own.
func runSuite(ctx context.Context, cfg config, s suite, dir string) *result {
	r := &result{suite: s.name, points: map[string]int{}}
	b := &site{
		cfg: cfg, dir: filepath.Join(dir, s.name), cycles: cfg.cycles, deadline: time.Now().Add(cfg.seconds),
		random: rand.New(rand.NewPCG(cfg.seed, hash(s.name))),
	}
	if b.cycles == 0 {
		b.cycles = s.cycles
	}
	started := time.Now()
	say("%s begins", s.name)
	err := os.MkdirAll(b.dir, 0o700)
	if err == nil {
		err = s.run(ctx, b, r)
	}
	undone := b.cleanUp()
	if ctx.Err() != nil {
		err = nil // it was interrupted
	}
	if err = errors.Join(err, undone); err != nil {
		r.violate("the suite failed: %v", err)
	}
	r.took = time.Since(started)
	say("%s: %d cycles in %.0f s, %d violations", s.name, r.cycles, r.took.Seconds(), len(r.violations))
	return r
}

func hash(s string) (h uint64) {
	for _, c := range []byte(s) {
		h = h*31 + uint64(c)
	}
	return h
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s chaos: %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
