// Command demo runs the main job of rmq on real input: it publishes the lines of
// Go's own sources through one process, receives them in two, kills the server
// half way, and rebuilds every file from what arrived. It speaks to rmq only
// through its command line, and ends with an error when one line is missing, out
// of order, or there twice without the kill as a reason.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type config struct {
	rmq     string
	root    string
	lines   int
	timeout time.Duration
	keep    bool
}

func main() {
	var cfg config
	flag.StringVar(&cfg.rmq, "rmq", filepath.Join("bin", "rmq"), "the `command` to show")
	flag.StringVar(&cfg.root, "source", "", "`folder` with Go files (default: Go's own sources)")
	flag.IntVar(&cfg.lines, "lines", 500_000, "send at least so many lines")
	flag.DurationVar(&cfg.timeout, "timeout", 3*time.Minute, "give up after this time")
	flag.BoolVar(&cfg.keep, "keep", false, "keep the data and the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, cfg)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run prepares a demonstration and cleans up after it, whatever happens.
func run(ctx context.Context, cfg config) error {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.timeout, fmt.Errorf("not finished after %v", cfg.timeout))
	defer cancel()
	if cfg.root == "" {
		out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
		if err != nil {
			return fmt.Errorf("go env GOROOT: %w", err)
		}
		cfg.root = filepath.Join(strings.TrimSpace(string(out)), "src")
	}
	files, err := readSource(cfg.root, cfg.lines)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rmq-demo-")
	if err != nil {
		return err
	}
	d := &demo{cfg: cfg, dir: dir, source: files, ledger: newLedger(files)}
	err = d.run(ctx)
	cancel()
	d.children.Wait()
	if cfg.keep {
		fmt.Fprintln(os.Stderr, "data and logs are in", dir)
		return err
	}
	return errors.Join(err, os.RemoveAll(dir))
}
