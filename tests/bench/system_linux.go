package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// dataSync is fdatasync.
func dataSync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// forget drops what the page cache has of a file that nobody has mapped.
func forget(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// settle waits until what was written before is on disk, so that nobody's
// measurement pays for another's.
func settle() { unix.Sync() }
