package main

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
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long a server may take to be ready, or to end.
const patience = time.Minute

// process is a running server, or a load that says when it is ready. It ends
// with the context that it was started under at the latest.
type process struct {
	name   string
	listen string
	dir    string // of its data
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *lastBytes
	peak   *int64 // takes the highest resident memory
	bench  *bench
	ended  bool
}

// start starts a process and waits until it says that it is ready.
func (b *bench) start(ctx context.Context, name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, stderr: &lastBytes{}, bench: b}
	cmd.Stderr = p.stderr
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.alive[p] = true
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer late.Stop()
	if p.listen, err = p.untilReady(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is not ready: %w\n%s", name, err, p.stderr.text()), p.kill(), context.Cause(ctx))
	}
	return p, nil
}

func (p *process) untilReady() (listen string, err error) {
	for {
		line, err := p.stdout.ReadBytes('\n')
		if err != nil {
			return "", err
		}
		var l struct{ Msg, Listen string }
		if json.Unmarshal(line, &l) == nil && l.Msg == "ready" {
			return l.Listen, nil
		}
	}
}

// child is a command that is this program in a role.
func (b *bench) child(ctx context.Context, s spec) (*exec.Cmd, error) {
	if b.cfg.profile != "" {
		b.profiles++
		s.Profile = filepath.Join(b.cfg.profile, fmt.Sprintf("%03d-%s-%d.prof", b.profiles, s.Role, s.Size))
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, b.cfg.children)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	return cmd, nil
}

// startRMQ starts rmq server on a directory, with more arguments.
func (b *bench) startRMQ(ctx context.Context, dir string, args ...string) (*process, error) {
	cmd := exec.CommandContext(ctx, b.cfg.rmq, rmqArgs(dir, args)...)
	if b.cfg.profile != "" {
		return b.hostRMQ(ctx, dir, args...)
	}
	p, err := b.start(ctx, "rmq server", cmd)
	if err != nil {
		return nil, err
	}
	p.dir, p.peak = dir, &b.peakRSS
	go io.Copy(io.Discard, p.stdout) // ends with the process
	return p, nil
}

func rmqArgs(dir string, args []string) []string {
	return append([]string{"server", "--data", dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn"}, args...)
}

// hostRMQ starts rmq server within this program, which can look inside.
func (b *bench) hostRMQ(ctx context.Context, dir string, args ...string) (*process, error) {
	cmd, err := b.child(ctx, spec{Role: "rmq-server", Args: rmqArgs(dir, args)})
	if err != nil {
		return nil, err
	}
	p, err := b.start(ctx, "rmq server in the bench", cmd)
	if err != nil {
		return nil, err
	}
	p.dir = dir
	return p, nil
}

// startJetStream starts a JetStream server on a directory.
func (b *bench) startJetStream(ctx context.Context, dir string, always bool) (*process, error) {
	cmd, err := b.child(ctx, spec{Role: "jetstream-server", Dir: dir, SyncAlways: always})
	if err != nil {
		return nil, err
	}
	p, err := b.start(ctx, "JetStream", cmd)
	if err != nil {
		return nil, err
	}
	p.dir = dir
	return p, nil
}

// load runs a load to its end.
func (b *bench) load(ctx context.Context, s spec) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Warmup+s.Time+2*patience)
	defer cancel()
	cmd, err := b.child(ctx, s)
	if err != nil {
		return outcome{}, err
	}
	stderr := &lastBytes{}
	cmd.Stderr = stderr
	out, err := cmd.Output()
	return s.outcome(out, err, stderr)
}

func (s spec) outcome(out []byte, err error, stderr *lastBytes) (o outcome, _ error) {
	if err != nil {
		return o, fmt.Errorf("%s: %w\n%s", s.Role, err, stderr.text())
	}
	if err := json.Unmarshal(out, &o); err != nil {
		return o, fmt.Errorf("%s: %w", s.Role, err)
	}
	if o.Error != "" {
		return o, fmt.Errorf("%s: %s", s.Role, o.Error)
	}
	return o, nil
}

// result waits for a load that was started, and takes its outcome.
func (p *process) result(s spec) (outcome, error) {
	out, err := io.ReadAll(p.stdout)
	err = errors.Join(err, p.cmd.Wait())
	p.end()
	return s.outcome(out, err, p.stderr)
}

// stop ends a server in good order.
func (p *process) stop() error {
	if p.ended {
		return nil
	}
	if p.peak != nil {
		*p.peak = max(*p.peak, p.status("VmHWM"))
	}
	late := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	p.stdin.Close()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait()
}

// kill ends a process with SIGKILL.
func (p *process) kill() error {
	if p.ended {
		return nil
	}
	p.cmd.Process.Kill()
	p.wait() // its error is that it was killed
	return nil
}

func (p *process) end() {
	p.ended = true
	delete(p.bench.alive, p)
}

func (p *process) wait() error {
	err := p.cmd.Wait()
	p.end()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name, err, p.stderr.text())
	}
	return nil
}

// discard ends a server and removes its data.
func (p *process) discard() error { return errors.Join(p.stop(), os.RemoveAll(p.dir)) }

// status is a field of /proc/PID/status in bytes; 0 when it is not known.
func (p *process) status(field string) int64 {
	return procField(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid), field) << 10
}

// procField is the number behind "name:" in a file; 0 when it is not there.
func procField(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(l, name+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n
		}
	}
	return 0
}

// memory asks a hosted server for its figures.
func (p *process) memory() (m memory, err error) {
	if _, err := p.stdin.Write([]byte("\n")); err != nil {
		return m, err
	}
	for {
		line, err := p.stdout.ReadBytes('\n')
		if err != nil {
			return m, err
		}
		if bytes.HasPrefix(line, []byte(`{"heap"`)) {
			return m, json.Unmarshal(line, &m)
		}
	}
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu sync.Mutex
	b  []byte
}

func (l *lastBytes) Write(b []byte) (int, error) {
	const most = 4 << 10
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b...)
	l.b = l.b[max(0, len(l.b)-most):]
	return len(b), nil
}

func (l *lastBytes) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
