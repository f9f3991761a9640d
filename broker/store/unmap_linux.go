package store

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// unmap takes what a value of a transaction is in out of the process's memory
// until it is touched again. A hint that is not taken does no harm.
func unmap(value []byte) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(value)))
	from := at &^ (pageSize - 1)
	unix.Syscall(unix.SYS_MADVISE, from, at+uintptr(len(value))-from, unix.MADV_DONTNEED)
}
