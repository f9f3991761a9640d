package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Binary builds the rmq command for a test and returns its path.
func Binary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rmq")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/rmqio/rmq/cmd/rmq").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// Process is a running `rmq server`.
type Process struct {
	// Listen is the address that it serves.
	Listen string

	t      testing.TB
	cmd    *exec.Cmd
	stderr *logLines
	done   chan struct{} // closed when its output has ended
	exit   error
}

// StartProcess runs `rmq server` with the arguments and waits until it is ready.
func StartProcess(t testing.TB, binary string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, stderr: &logLines{}, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), binary, append([]string{"server"}, args...)...)
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill() })
	ready := make(chan string, 1)
	go p.read(out, ready)
	select {
	case p.Listen = <-ready:
	case <-p.done:
		t.Fatalf("the server ended before it was ready: %v\n%s", p.exit, p.stderr)
	case <-time.After(Timeout):
		t.Fatalf("the server is not ready\n%s", p.stderr)
	}
	return p
}

// read passes the server's log on until it ends, and finds the line that says
// it is ready.
func (p *Process) read(out io.Reader, ready chan<- string) {
	defer close(p.done)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, Listen string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
			ready <- line.Listen
		}
		p.stderr.Write(append(lines.Bytes(), '\n'))
	}
	p.exit = p.cmd.Wait()
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Kill ends the server with SIGKILL, if it runs, and waits for its end.
func (p *Process) Kill() {
	p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// Wait waits for the server's end and returns its exit code.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Timeout):
		p.t.Fatalf("the server does not end\n%s", p.stderr)
	}
	var exit *exec.ExitError
	if errors.As(p.exit, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// Log is what the server has written.
func (p *Process) Log() string { return p.stderr.String() }

// logLines is a buffer that may be written and read at once.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
