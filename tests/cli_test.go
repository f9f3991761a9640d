package tests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/rmqio/rmq/tests/harness"
)

// command is a run of the real binary with its streams.
type command struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	closer io.Closer // of stdout
	stderr *bufio.Reader
}

func start(t *testing.T, binary, line string) *command {
	t.Helper()
	c := &command{t: t, cmd: exec.CommandContext(t.Context(), binary, strings.Fields(line)...)}
	var err error
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdout, c.closer, c.stderr = bufio.NewReader(out), out, bufio.NewReader(errs)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// line reads the next line of a stream.
func (c *command) line(r *bufio.Reader) string {
	c.t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%v: after %q: %v", c.cmd.Args, s, err)
	}
	return strings.TrimSuffix(s, "\n")
}

// wait waits for the end; it returns the exit code and the rest of stderr.
func (c *command) wait() (int, string) {
	c.t.Helper()
	rest, _ := io.ReadAll(c.stderr)
	err := c.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode(), string(rest)
}

// run is a command line to its end.
func runCommand(t *testing.T, binary, stdin, line string) (exit int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, strings.Fields(line)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var code *exec.ExitError
	if err != nil && !errors.As(err, &code) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestCommand_AsAProcess(t *testing.T) {
	binary := harness.Binary(t)
	server := harness.StartProcess(t, binary, "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--http", "none")
	t.Setenv("RMQ_NAMESRV", server.Listen)
	if exit, _, stderr := runCommand(t, binary, "", "topic create t --queues 2"); exit != 0 {
		t.Fatal(stderr)
	}
	t.Run("SIGTERM and SIGINT end a subscription", func(t *testing.T) {
		for signal, want := range map[syscall.Signal]int{syscall.SIGTERM: 0, syscall.SIGINT: 130} {
			sub := start(t, binary, "sub t --group signals --raw")
			if got := sub.line(sub.stderr); got != "reading 2 queues of t" {
				t.Fatalf("got %q", got)
			}
			if exit, _, stderr := runCommand(t, binary, "", "pub t hello"); exit != 0 {
				t.Fatal(stderr)
			}
			if got := sub.line(sub.stdout); got != "hello" {
				t.Errorf("got %q", got)
			}
			if err := sub.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if exit, stderr := sub.wait(); exit != want {
				t.Errorf("%v: exit %d, want %d: %s", signal, exit, want, stderr)
			}
		}
	})
	t.Run("a reader of stdout that leaves ends it quietly", func(t *testing.T) {
		sub := start(t, binary, "sub t --from earliest -q")
		sub.line(sub.stdout)
		sub.closer.Close()
		if exit, _, stderr := runCommand(t, binary, "", "pub t again"); exit != 0 {
			t.Fatal(stderr)
		}
		if exit, stderr := sub.wait(); exit != 0 || stderr != "" {
			t.Errorf("exit %d, stderr %q", exit, stderr)
		}
	})
	t.Run("SIGINT ends a publication that waits for stdin", func(t *testing.T) {
		pub := start(t, binary, "pub t --in lines")
		fmt.Fprintln(pub.stdin, "line")
		pub.line(pub.stdout)
		if err := pub.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if exit, stderr := pub.wait(); exit != 130 || !strings.Contains(stderr, "1 messages were sent") {
			t.Errorf("exit %d, stderr %q", exit, stderr)
		}
	})
	t.Run("deleting needs a yes", func(t *testing.T) {
		if exit, _, stderr := runCommand(t, binary, "t\n", "topic delete t"); exit != 2 || !strings.Contains(stderr, "--yes") {
			t.Errorf("exit %d, stderr %q", exit, stderr)
		}
	})
}

// A publication and a subscription that run while the server is killed and
// started again carry on by themselves.
func TestCommand_CarriesOnWhenTheServerIsKilled(t *testing.T) {
	binary, dir := harness.Binary(t), t.TempDir()
	server := harness.StartProcess(t, binary, "--data", dir, "--listen", "127.0.0.1:0", "--http", "none")
	t.Setenv("RMQ_NAMESRV", server.Listen)
	if exit, _, stderr := runCommand(t, binary, "", "topic create t --queues 1"); exit != 0 {
		t.Fatal(stderr)
	}
	sub := start(t, binary, "sub t --group g --from earliest --raw -q")
	pub := start(t, binary, "pub t --in lines -o name -q")
	fmt.Fprintln(pub.stdin, "before")
	pub.line(pub.stdout)
	if got := sub.line(sub.stdout); got != "before" {
		t.Fatalf("got %q", got)
	}
	server.Kill()
	fmt.Fprintln(pub.stdin, "meanwhile")
	server = harness.StartProcess(t, binary, "--data", dir, "--listen", server.Listen, "--http", "none")
	fmt.Fprintln(pub.stdin, "after")
	pub.stdin.Close()
	for _, want := range []string{"meanwhile", "after"} {
		pub.line(pub.stdout)
		got := sub.line(sub.stdout)
		for got == "before" { // what was not committed when it was killed may come again
			got = sub.line(sub.stdout)
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if exit, stderr := pub.wait(); exit != 0 {
		t.Errorf("pub: exit %d, %s", exit, stderr)
	}
	if err := sub.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit, stderr := sub.wait(); exit != 0 {
		t.Errorf("sub: exit %d, %s", exit, stderr)
	}
	server.Signal(syscall.SIGTERM)
	if exit := server.Wait(); exit != 0 {
		t.Errorf("server: exit %d", exit)
	}
}
