package consumer

import (
	"os"

	"golang.org/x/sys/windows"
)

// errLocked says that another process, or another file of this one, has the lock.
var errLocked error = windows.ERROR_LOCK_VIOLATION

// lockedAt is behind everything that a file holds: what is locked cannot be read.
const lockedAt = 1 << 30

// lockFile takes a file until it is closed.
func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{Offset: lockedAt})
}

// syncFolder does nothing: a folder cannot be synced there.
func syncFolder(string) error { return nil }
