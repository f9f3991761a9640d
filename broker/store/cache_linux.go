package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// dropCache has what is read of a file from now on come from its disk: after a
// write that failed, the kernel's memory holds what the disk may not have, and
// says nothing about it. What can be written is written first. Nobody has the
// file mapped.
func dropCache(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if err == nil {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("drop what is cached of %s: %w", path, err)
	}
	return nil
}
