package store

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// Errors that callers match with errors.Is.
var (
	// ErrLocked is returned by LockDir when another process has the directory.
	ErrLocked = errors.New("data directory is in use")
	// ErrNewerVersion is returned by Open for a directory written by a newer build.
	ErrNewerVersion = errors.New("data directory was written by a newer version")
	// ErrDamaged is returned when stored bytes do not pass their checks. The text
	// says which file and what in it.
	ErrDamaged = errors.New("stored data is damaged")
	// ErrBusy is returned by Append when too much is waiting for the disk.
	ErrBusy = errors.New("too much is waiting for the disk")
	// ErrNoSpace is returned by Append while no new segment can be made.
	ErrNoSpace = errors.New("no room for a new segment")
	// ErrPoisoned is returned after a failed write or sync until the segment was
	// reopened and verified. Records under way then have an unknown outcome.
	ErrPoisoned = errors.New("a write to the log failed")
	// ErrClosed is returned by a log that was closed.
	ErrClosed = errors.New("log is closed")
	// ErrTooLarge is returned by Append for a record above MaxRecordBytes.
	ErrTooLarge = errors.New("record too large")
	// ErrOutOfRange is returned by Read for an offset below the queue's first or
	// above its end.
	ErrOutOfRange = errors.New("offset out of range")
)

// guard runs fn and turns a panic or a memory fault into ErrDamaged: bbolt
// panics on pages that make no sense, and a file that was cut faults when its
// missing part is read through the memory map.
func guard(path string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, p)
		}
	}()
	return fn()
}
