//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// rmqServer is a running `rmq server`. It ends with the context that it was
// started under.
type rmqServer struct {
	listen string
	took   time.Duration // to be ready
	cmd    *exec.Cmd
	done   chan struct{} // closed when it is gone and its log is read
	exit   error         // to be read after done

	mu  sync.Mutex
	log strings.Builder
}

// startTime bounds how long a server may take to be ready.
const startTime = 30 * time.Second

var errNotReady = errors.New("the server ended before it was ready")

// startServer starts a server on a data directory and waits until it is ready.
// With errNotReady comes a server that has ended.
func startServer(ctx context.Context, cfg config, data, listen string, env ...string) (*rmqServer, error) {
	s := &rmqServer{done: make(chan struct{})}
	s.cmd = exec.CommandContext(ctx, cfg.rmq, "server", "--data", data, "--listen", listen, "--http", "none")
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stdout, s.cmd.Stderr = in, in
	started := time.Now()
	if err := errors.Join(s.cmd.Start(), in.Close()); err != nil {
		out.Close()
		return nil, err
	}
	ready := make(chan string, 1)
	go s.read(out, ready)
	limit := time.NewTimer(startTime)
	defer limit.Stop()
	select {
	case s.listen = <-ready:
		s.took = time.Since(started)
		return s, nil
	case <-s.done:
		return s, errNotReady
	case <-limit.C:
		s.stop(syscall.SIGQUIT) // for the goroutines in its log
		return s, fmt.Errorf("the server is not ready after %v\n%s", startTime, s.text())
	}
}

// read keeps the server's log until it ends, and finds the line that says it is
// ready.
func (s *rmqServer) read(out io.ReadCloser, ready chan<- string) {
	defer close(s.done)
	defer out.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var line struct{ Msg, Listen string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" && line.Listen != "" {
			select {
			case ready <- line.Listen:
			default:
			}
		}
		s.mu.Lock()
		s.log.Write(lines.Bytes())
		s.log.WriteByte('\n')
		s.mu.Unlock()
	}
	s.exit = s.cmd.Wait()
}

// stop sends a signal and waits for the server's end, which it enforces.
func (s *rmqServer) stop(signal syscall.Signal) {
	_ = s.cmd.Process.Signal(signal) // it may have ended
	limit := time.NewTimer(startTime)
	defer limit.Stop()
	select {
	case <-s.done:
	case <-limit.C:
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

func (s *rmqServer) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// panicked finds in the log what no server may ever write there.
func (s *rmqServer) panicked() error {
	text := s.text()
	for _, word := range []string{"panic:", "fatal error:", "[signal SIG", "goroutine 1 ["} {
		if at := strings.Index(text, word); at >= 0 {
			return fmt.Errorf("the server's log says %q:\n%.2000s", word, text[at:])
		}
	}
	return nil
}
