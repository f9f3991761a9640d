//go:build linux

package trap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification and answer are what the kernel and a listener exchange; see
// linux/seccomp.h.
type notification struct {
	id   uint64
	pid  uint32 // the thread
	_    uint32 // flags
	nr   int32
	_    uint32 // architecture
	_    uint64 // instruction pointer
	args [6]uint64
}

type answer struct {
	id    uint64
	_     int64 // value
	errno int32 // negative
	flags uint32
}

func control[T any](fd int, request uintptr, arg *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
		return errno
	}
	return nil
}

// watched is a system call that is trapped: where its file is in its arguments.
type watched struct {
	nr   int
	name string
	path int // the argument that is a path; -1: the first one is a descriptor
	dir  int // the argument that the path is relative to; -1: none
}

// portable are the calls that every machine has; calls_ARCH.go adds to them.
func portable() []watched {
	return []watched{
		{unix.SYS_PWRITE64, "pwrite64", -1, -1},
		{unix.SYS_WRITE, "write", -1, -1},
		{unix.SYS_FDATASYNC, "fdatasync", -1, -1},
		{unix.SYS_FSYNC, "fsync", -1, -1},
		{unix.SYS_FTRUNCATE, "ftruncate", -1, -1},
		{unix.SYS_OPENAT, "openat", 1, 0},
		{unix.SYS_MKDIRAT, "mkdirat", 1, 0},
		{unix.SYS_UNLINKAT, "unlinkat", 1, 0},
		{unix.SYS_RENAMEAT, "renameat", 3, 2},
		{unix.SYS_RENAMEAT2, "renameat2", 3, 2},
	}
}

// Names lists the calls that are trapped: those that change files or make
// changes durable.
func Names() []string {
	var names []string
	for _, w := range allWatched() {
		names = append(names, w.name)
	}
	return names
}

func (n *notification) call() Call {
	for _, w := range allWatched() {
		if int32(w.nr) == n.nr {
			return Call{Name: w.name, Path: n.file(w)}
		}
	}
	return Call{Name: fmt.Sprint("call ", n.nr)}
}

func (n *notification) file(w watched) string {
	if w.path < 0 {
		return n.behind(int32(n.args[0]))
	}
	path := n.text(uintptr(n.args[w.path]))
	if w.dir < 0 || filepath.IsAbs(path) || int32(n.args[w.dir]) == unix.AT_FDCWD {
		return path
	}
	return filepath.Join(n.behind(int32(n.args[w.dir])), path)
}

// behind is the file of a descriptor.
func (n *notification) behind(fd int32) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, fd))
	if err != nil || !filepath.IsAbs(path) || strings.HasSuffix(path, " (deleted)") {
		return ""
	}
	return path
}

// text reads a string out of the memory of the process, which waits.
func (n *notification) text(at uintptr) string {
	var found []byte
	for len(found) < unix.PathMax {
		step := 4096 - int(at%4096) // not into a page that may not be there
		part := make([]byte, step)
		read, err := unix.ProcessVMReadv(int(n.pid),
			[]unix.Iovec{{Base: &part[0], Len: uint64(step)}}, []unix.RemoteIovec{{Base: at, Len: step}}, 0)
		if err != nil {
			return ""
		}
		head, _, ended := bytes.Cut(part[:read], []byte{0})
		if found = append(found, head...); ended {
			break
		}
		at += uintptr(read)
	}
	return string(found)
}
