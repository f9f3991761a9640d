//go:build linux

// Package trap holds a process at its system calls: the process that started it
// sees each call of a chosen set before the kernel makes it, with one order over
// all threads, and lets it pass, fails it, or kills the process there. What is
// tested needs no hooks for it, and nobody needs privileges: it is the kernel's
// seccomp user notification (Linux 5.19 or later).
//
// The package owns the listener of one process; it never touches the calls of
// another.
package trap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Call is a system call that a process is about to make.
type Call struct {
	// Name is one of Names.
	Name string
	// Path is the file that the call is about; of a rename the new name. It is
	// empty for what is no file, and for a file that was removed.
	Path string
}

// Verdict says what becomes of a call.
type Verdict int

// The verdicts beside Fail.
const (
	Pass Verdict = 0
	Kill Verdict = -1 // the call is not made, and the process is gone
	Skip Verdict = -2 // the call is not made, and the process is told that it was
)

// Fail makes a call fail with an error, without being made.
func Fail(e syscall.Errno) Verdict { return Verdict(e) }

// Process is a process that is held at its calls.
type Process struct {
	cmd      *exec.Cmd
	judge    func(Call) Verdict
	socket   int // where the listener arrives
	served   chan error
	listener int
}

// Start starts a command that calls Enter. judge is asked about each call from
// one goroutine, while the thread that makes the call waits.
func Start(cmd *exec.Cmd, judge func(Call) Verdict) (*Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("trap: socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "trap")
	defer theirs.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", socketEnv, 2+len(cmd.ExtraFiles)))
	if err := cmd.Start(); err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	p := &Process{cmd: cmd, judge: judge, socket: pair[0], served: make(chan error, 1)}
	go func() { p.served <- p.serve() }()
	return p, nil
}

// Wait waits for the end of the process, as exec.Cmd.Wait does, and for that of
// the trap. It is called once.
func (p *Process) Wait() error { return errors.Join(p.cmd.Wait(), <-p.served) }

// serve judges calls until the process has ended.
func (p *Process) serve() error {
	defer unix.Close(p.socket)
	listener, err := receiveListener(p.socket)
	if err != nil || listener < 0 {
		return err // it ended before it came to Enter
	}
	p.listener = listener
	defer unix.Close(listener)
	for {
		events := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		_, err := unix.Poll(events, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("trap: poll: %w", err)
		case events[0].Revents&unix.POLLIN != 0:
			if err := p.one(); err != nil {
				return err
			}
		default:
			return nil // nobody is left who makes calls
		}
	}
}

// one takes a call and answers it. A call that its thread gave up meanwhile is
// no error.
func (p *Process) one() error {
	var n notification
	if err := control(p.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, &n); err != nil {
		return ignore(err, unix.ENOENT, unix.EINTR)
	}
	a := answer{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	switch v := p.judge(n.call()); v {
	case Pass:
	case Kill:
		if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		return nil
	case Skip:
		a.flags = 0
	default:
		a.flags, a.errno = 0, -int32(v)
	}
	return ignore(control(p.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, &a), unix.ENOENT)
}

func ignore(err error, harmless ...error) error {
	if slices.ContainsFunc(harmless, func(h error) bool { return errors.Is(err, h) }) {
		return nil
	}
	return err
}

// receiveListener returns -1 when the other side has ended.
func receiveListener(socket int) (int, error) {
	room := make([]byte, unix.CmsgSpace(4))
	for {
		n, oob, _, _, err := unix.Recvmsg(socket, make([]byte, 1), room, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return -1, err
		}
		messages, err := unix.ParseSocketControlMessage(room[:oob])
		if err != nil {
			return -1, err
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		return fds[0], err
	}
}
