//go:build unix

package consumer

import (
	"errors"
	"os"
	"syscall"
)

// errLocked says that another process, or another file of this one, has the lock.
var errLocked = syscall.EWOULDBLOCK

// lockFile takes a file until it is closed.
func lockFile(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// syncFolder makes the names in a folder last.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
