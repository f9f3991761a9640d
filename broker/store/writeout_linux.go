package store

import (
	"os"

	"golang.org/x/sys/unix"
)

// writeOut waits until a range of a file is with the disk, whose cache need not
// have let go of it: a sync is still to come.
func writeOut(f *os.File, from, bytes int64) error {
	return unix.SyncFileRange(int(f.Fd()), from, bytes,
		unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}
