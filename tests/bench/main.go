// Command bench measures rmq against what it must beat and what limits it: NATS
// JetStream of the same module, the disk, bbolt, and NATS alone. Servers and
// clients are processes of their own over loopback, for every side. Everything
// is measured in turn, A B B A, and what counts is the ratio. It prints tables in
// Markdown to stdout and how it goes to stderr.
//
// It changes nothing of the machine; its stores are in a directory that it
// removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if text, ok := os.LookupEnv(childEnv); ok {
		code := runChild(ctx, text)
		stop()
		os.Exit(code)
	}
	cfg, err := parse(os.Args[1:])
	if err == nil {
		err = run(ctx, cfg)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the flags; -short is other values for some that were not given.
func parse(args []string) (config, error) {
	var c config
	var short bool
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&c.rmq, "rmq", filepath.Join("bin", "rmq"), "the `command` to measure")
	f.StringVar(&c.dir, "dir", "", "`folder` for the stores, on the disk to be measured (default: that of -rmq)")
	f.StringVar(&c.rows, "rows", "all", "`rows` to measure, such as 1,2,7 or 3a; aa: A against A; absolute: the absolute figures and the limits")
	f.IntVar(&c.pairs, "pairs", 5, "how often each side is measured")
	f.DurationVar(&c.time, "time", 4*time.Second, "how long each measurement lasts at most")
	f.DurationVar(&c.warmup, "warmup", time.Second, "what goes before each measurement")
	f.Int64Var(&c.bytes, "bytes", 2<<30, "how many `bytes` of bodies each measurement sends at most")
	f.Int64Var(&c.cold, "cold", 4<<30, "`bytes` to consume from disk in row 8")
	f.Int64Var(&c.recover, "recover", 10<<30, "`bytes` in the store when the server is killed")
	f.IntVar(&c.topics, "topics", 10_000, "topics of row 11 and of the idle queues")
	f.BoolVar(&c.peers, "peers", true, "measure what stands beside the goals too")
	f.Float64Var(&c.quiet, "quiet", 0.1, "`share` of the machine that others may take during a measurement")
	f.DurationVar(&c.patience, "patience", 30*time.Second, "how long to wait and try again until a measurement is undisturbed")
	f.StringVar(&c.profile, "profile", "", "write CPU profiles of all processes to a `folder`; the rmq server then runs in this program")
	f.StringVar(&c.markdown, "markdown", "", "write the tables to a `file`")
	f.StringVar(&c.json, "json", "", "write all figures to a `file`")
	f.BoolVar(&short, "short", false, "a try of everything with a few messages; the figures mean nothing")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() > 0 {
		return c, fmt.Errorf("argument %q is not understood", f.Arg(0))
	}
	if short {
		given := map[string]bool{}
		f.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range shortValues {
			if !given[name] {
				f.Set(name, value) // they are valid
			}
		}
	}
	return c, c.check()
}

// shortValues are the flags of -short.
var shortValues = map[string]string{
	"pairs": "1", "time": "50ms", "warmup": "0s", "bytes": "65536", "cold": "1048576", "recover": "1048576", "topics": "20", "patience": "0s",
}

func (c config) check() error {
	if c.pairs < 1 || c.time <= 0 || c.warmup < 0 || c.bytes < 1 || c.cold < 1 || c.recover < 1 || c.topics < 1 || c.quiet < 0 || c.patience < 0 {
		return errors.New("a number is too small")
	}
	if _, err := os.Stat(c.rmq); err != nil {
		return fmt.Errorf("%w (make build makes it)", err)
	}
	return nil
}

func (c config) settings() map[string]string {
	return map[string]string{
		"rows": c.rows, "pairs": strconv.Itoa(c.pairs), "time": c.time.String(), "warmup": c.warmup.String(),
		"bytes": figure(float64(c.bytes)), "cold": figure(float64(c.cold)), "recover": figure(float64(c.recover)), "topics": strconv.Itoa(c.topics),
	}
}

// run measures and writes; what was measured before a failure is written too.
func run(ctx context.Context, cfg config) error {
	var err error
	if cfg.children == "" {
		if cfg.children, err = os.Executable(); err != nil {
			return err
		}
	}
	if cfg.rmq, err = filepath.Abs(cfg.rmq); err != nil {
		return err
	}
	if cfg.dir == "" {
		cfg.dir = filepath.Dir(cfg.rmq)
	}
	if cfg.dir, err = os.MkdirTemp(cfg.dir, "bench-"); err != nil {
		return err
	}
	b := &bench{cfg: cfg, alive: map[*process]bool{}}
	err = b.run(ctx)
	return errors.Join(err, b.write(), os.RemoveAll(cfg.dir), printed(b.report))
}

func printed(r report) error {
	_, err := fmt.Print(r.markdown())
	return err
}
