package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// writeOut waits until a range of a file is with the disk, whose cache need not
// have let go of it: a sync is still to come.
func writeOut(f *os.File, from, bytes int64) error {
	return unix.SyncFileRange(int(f.Fd()), from, bytes,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

// openDirect opens a file to write past the kernel's cache; nil where that cannot
// be done.
func openDirect(path string) *os.File {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return f
}

// refusesDirect reports whether a write past the cache failed because it was one:
// the file system cannot do it, or not at this place.
func refusesDirect(err error) bool { return errors.Is(err, unix.EINVAL) }

// reserve has the file system choose the blocks of a range at once, beyond the
// file's end. One that cannot do so chooses them as they are written.
func reserve(f *os.File, from, bytes int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, from, bytes)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
