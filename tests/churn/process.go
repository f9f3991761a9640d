//go:build linux

package churn

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// member is a process in the group.
type member struct {
	id      string
	history *History
	cmd     *exec.Cmd
	said    map[string]chan struct{} // closed when the member first says so
	done    chan struct{}            // closed when it is gone and all that it said is entered
	exit    error                    // to be read after done
	stderr  tail
	wake    time.Time // of a frozen one
}

// startMember starts a process. It dies with this one.
func startMember(ctx context.Context, h *History, id, addr string, busy time.Duration) (*member, error) {
	text, err := json.Marshal(role{ID: id, Addr: addr, Busy: busy})
	if err != nil {
		return nil, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &member{id: id, history: h, said: map[string]chan struct{}{isStarted: make(chan struct{}), isReady: make(chan struct{})}, done: make(chan struct{})}
	m.cmd = exec.CommandContext(ctx, executable)
	m.cmd.Env = append(os.Environ(), memberEnv+"="+string(text))
	m.cmd.Stderr = &m.stderr
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.joins(id)
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go m.read(out) // end waits for it
	return m, nil
}

// read enters what the member says until it ends.
func (m *member) read(out io.Reader) {
	defer close(m.done)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var r report
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			m.history.fault("%s says %q: %v", m.id, lines.Bytes(), err)
			continue
		}
		if first, ok := m.said[r.What]; ok {
			close(first) // each comes once
		}
		m.history.reported(m.id, r)
	}
	m.exit = m.cmd.Wait()
}

// leave has the member drain and end, and wants it to do so in good order.
func (m *member) leave(ctx context.Context) error {
	if err := m.wait(ctx, m.said[isStarted], "the start of"); err != nil {
		return err
	}
	m.signal(syscall.SIGTERM)
	if err := m.wait(ctx, m.done, "the end of"); err != nil {
		return err
	}
	m.history.change(m.id, func(_ *life, c *Counts) { c.Left++ })
	if m.exit != nil {
		return fmt.Errorf("%s ends with %w\n%s", m.id, m.exit, m.stderr.text())
	}
	return nil
}

// kill ends it at once.
func (m *member) kill() {
	m.signal(syscall.SIGKILL)
	<-m.done
	m.history.change(m.id, func(l *life, c *Counts) { l.killed = time.Now().UnixMicro(); c.Killed++ })
}

// freeze stops it for a time.
func (m *member) freeze(length time.Duration) {
	m.wake = time.Now().Add(length)
	m.signal(syscall.SIGSTOP)
	m.history.change(m.id, func(l *life, c *Counts) {
		l.frozen = append(l.frozen, absence{from: time.Now().UnixMicro()})
		c.Frozen++
	})
}

// thaw lets it go on.
func (m *member) thaw() {
	m.history.change(m.id, func(l *life, _ *Counts) { l.frozen[len(l.frozen)-1].to = time.Now().UnixMicro() })
	m.signal(syscall.SIGCONT)
	m.wake = time.Time{}
}

func (m *member) isFrozen() bool { return !m.wake.IsZero() }

func (m *member) signal(s syscall.Signal) { _ = m.cmd.Process.Signal(s) } // it may have ended

// discard ends it if it still runs.
func (m *member) discard() {
	_ = m.cmd.Process.Kill()
	<-m.done
}

// wait waits for something of the member.
func (m *member) wait(ctx context.Context, what <-chan struct{}, name string) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-what:
		return nil
	case <-timer.C:
		return fmt.Errorf("not within %v: %s %s\n%s", patience, name, m.id, m.stderr.text())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// awaitReady waits until the member has its queues.
func (m *member) awaitReady(ctx context.Context) error {
	if err := m.wait(ctx, m.said[isReady], "the queues of"); err != nil {
		return err
	}
	select {
	case <-m.done:
		return errors.Join(fmt.Errorf("%s ended by itself\n%s", m.id, m.stderr.text()), m.exit)
	default:
		return nil
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = bytes.Clone(t.b[over:])
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
