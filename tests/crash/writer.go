//go:build linux

package crash

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/tests/trap"
)

// Writer is a process that writes to a log.
type Writer struct {
	// Acked is closed at the first acknowledgement, or when the writer ends.
	Acked <-chan struct{}

	cmd    *exec.Cmd
	wait   func() error
	acked  chan struct{}
	read   chan struct{} // closed when all it said is in the ledger
	stderr strings.Builder

	mu     sync.Mutex
	ledger Ledger
}

// Judge decides over a call of a writer on a file of its log.
type Judge func(trap.Call) trap.Verdict

// Start starts a writer on the log in dir. Its ledger goes on from an earlier
// one, and its calls are judged unless judge is nil. It ends with ctx.
func Start(ctx context.Context, role Role, dir string, flush store.FlushMode, from Ledger, judge Judge) (*Writer, error) {
	w := &Writer{acked: make(chan struct{}), read: make(chan struct{}), ledger: Ledger{Acked: from.Acked, Trim: from.Trim}}
	w.Acked = w.acked
	w.cmd = exec.CommandContext(ctx, "/proc/self/exe")
	w.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", roleEnv, role), dirEnv+"="+dir, fmt.Sprintf("%s=%s", flushEnv, flush))
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	w.cmd.Stderr = &w.stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if w.wait, err = w.start(dir, judge); err != nil {
		return nil, err
	}
	go w.listen(out)
	return w, nil
}

func (w *Writer) start(dir string, judge Judge) (wait func() error, err error) {
	if judge == nil {
		return w.cmd.Wait, w.cmd.Start()
	}
	p, err := trap.Start(w.cmd, func(c trap.Call) trap.Verdict {
		if c.Path != dir && !strings.HasPrefix(c.Path, dir+"/") {
			return trap.Pass
		}
		return judge(c)
	})
	if err != nil {
		return nil, err
	}
	return p.Wait, nil
}

// listen enters what the writer says until its end.
func (w *Writer) listen(out io.Reader) {
	defer close(w.read)
	started := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		w.mu.Lock()
		w.ledger.enter(lines.Text())
		w.mu.Unlock()
		if !started && strings.HasPrefix(lines.Text(), sayAck) {
			started = true
			close(w.acked)
		}
	}
	if !started {
		close(w.acked)
	}
}

// Ledger is what the writer has said so far.
func (w *Writer) Ledger() Ledger {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ledger.clone()
}

// Kill ends the writer at once; one that has ended is left alone.
func (w *Writer) Kill() { _ = w.cmd.Process.Kill() }

// Wait waits for the writer's end and returns all it said. A writer that ended
// otherwise than by its work's end or a kill has a complaint for it.
func (w *Writer) Wait() Ledger {
	<-w.read
	err := w.wait()
	l := w.Ledger()
	state := w.cmd.ProcessState
	if err != nil && (state == nil || state.ExitCode() != -1) && len(l.Complaints) == 0 {
		l.Complaints = append(l.Complaints, err.Error())
	}
	if text := w.stderr.String(); text != "" {
		l.Complaints = append(l.Complaints, text)
	}
	return l
}
