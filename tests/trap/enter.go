//go:build linux

package trap

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketEnv tells a process the descriptor of its socket to the one that started
// it.
const socketEnv = "RMQ_TRAP_SOCKET"

// Enter hands the calls of this process, in all its threads and for good, to the
// process that started it with Start. In one that was started without, it does
// nothing. What is written to the standard outputs is not trapped.
func Enter() error {
	value, ok := os.LookupEnv(socketEnv)
	if !ok {
		return nil
	}
	socket, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("trap: %s: %w", socketEnv, err)
	}
	listener, err := install(filter())
	if err != nil {
		return fmt.Errorf("trap: seccomp: %w", err)
	}
	return errors.Join(unix.Sendmsg(socket, []byte{0}, unix.UnixRights(listener), nil, 0), unix.Close(listener), unix.Close(socket))
}

// install puts a filter before the calls of all threads.
func install(program []unix.SockFilter) (listener int, err error) {
	runtime.LockOSThread() // both calls are about one thread
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC |
		unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// Where the kernel puts what a filter looks at; the first argument's lower half.
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16
)

// filter is the program that tells trapped calls from others.
func filter() []unix.SockFilter {
	const load, equal, greater, end = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K,
		unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	calls := allWatched()
	p := []unix.SockFilter{
		{Code: load, K: dataArch},
		{Code: equal, K: machine, Jf: uint8(len(calls) + 1)}, // to the first end,
		{Code: load, K: dataNr},
	}
	for i, c := range calls {
		left := uint8(len(calls) - i - 1) // comparisons
		jump := unix.SockFilter{Code: equal, K: uint32(c.nr), Jt: left + 1}
		if c.nr == unix.SYS_WRITE {
			jump.Jt = left + 2
		}
		p = append(p, jump)
	}
	return append(p, // the second end is for calls, what follows it for writes
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_USER_NOTIF},
		unix.SockFilter{Code: load, K: dataArg0},
		unix.SockFilter{Code: greater, K: 2, Jt: 1},
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: end, K: unix.SECCOMP_RET_USER_NOTIF},
	)
}
