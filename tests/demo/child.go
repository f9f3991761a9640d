package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxLine bounds a line of a child's output: a message of 4 MiB as JSON.
const maxLine = 32 << 20

// child is a running `rmq`. Its goroutines end with the process, which ends with
// the context it was started under. What it writes to stderr, and a server also
// to stdout, is in its log.
type child struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone and its output is read
	err  error         // why it is gone; to be read after done
}

// spec says how to start a child.
type spec struct {
	name   string
	args   []string
	feed   func(io.Writer) error // writes its stdin; nil: none
	onLine func([]byte) error    // gets each line of its stdout; the slice is lent
	keep   bool                  // its stdout goes to its log too
}

// start runs rmq with these arguments.
func (d *demo) start(ctx context.Context, s spec) (*child, error) {
	c := &child{name: s.name, log: filepath.Join(d.dir, s.name+".log"), done: make(chan struct{})}
	c.cmd = exec.CommandContext(ctx, d.cfg.rmq, s.args...)
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	c.cmd.Stderr = log
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stdin io.WriteCloser
	if s.feed != nil {
		if stdin, err = c.cmd.StdinPipe(); err != nil {
			return nil, err
		}
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	d.children.Go(func() {
		defer close(c.done)
		defer log.Close()
		c.err = c.tend(s, stdin, tee(s, stdout, log))
	})
	return c, nil
}

// tee keeps what a child prints in its log, if the spec says so.
func tee(s spec, stdout io.Reader, log io.Writer) io.Reader {
	if s.keep {
		return io.TeeReader(stdout, log)
	}
	return stdout
}

// tend moves a child's input and output until it is gone.
func (c *child) tend(s spec, stdin io.WriteCloser, stdout io.Reader) error {
	var wg sync.WaitGroup
	var feedErr, lineErr error
	if stdin != nil {
		wg.Go(func() { feedErr = errors.Join(s.feed(stdin), stdin.Close()) })
	}
	wg.Go(func() {
		lines := bufio.NewScanner(stdout)
		lines.Buffer(make([]byte, 256<<10), maxLine)
		for lineErr == nil && lines.Scan() {
			lineErr = s.onLine(lines.Bytes())
		}
		if lineErr = errors.Join(lineErr, lines.Err()); lineErr != nil {
			c.cmd.Process.Kill() // nobody reads it any more
		}
	})
	wg.Wait()
	return errors.Join(lineErr, c.cmd.Wait(), feedErr)
}

// signal asks the child to end and waits until it has, or ctx ends.
func (c *child) signal(ctx context.Context, s os.Signal) error {
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", c.name, context.Cause(ctx))
	}
}

// gone is an error when the child is not running.
func (c *child) gone() error {
	select {
	case <-c.done:
		return fmt.Errorf("%s ended by itself: %w", c.name, cmpError(c.err, errors.New("without an error")))
	default:
		return nil
	}
}

func cmpError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// rss is the child's resident memory in bytes; 0 where /proc is not there.
func (c *child) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}

// lastLines are the last lines of the child's log.
func (c *child) lastLines(n int) []byte {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return nil
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n-1):], nil)
}

// after waits for a while.
func after(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
