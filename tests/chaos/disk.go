//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// disk is an ext4 file system of its own, in a file.
type disk struct {
	image string
	path  string // where it is mounted
}

// newDisk makes a file system and mounts it; it is unmounted when the suite ends.
func newDisk(ctx context.Context, b *site, name string, bytes int64) (*disk, error) {
	d := &disk{image: filepath.Join(b.dir, name+".img"), path: filepath.Join(b.dir, name)}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(bytes), f.Close(), os.Mkdir(d.path, 0o700)); err != nil {
		return nil, err
	}
	if err := command(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", d.image); err != nil {
		return nil, err
	}
	b.atEnd(d.unmount)
	return d, d.mount(ctx)
}

func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// mount mounts it so that what is not synced stays in memory for long.
func (d *disk) mount(ctx context.Context) error {
	return command(ctx, "mount", "-o", "loop,commit=1000", d.image, d.path)
}

func (d *disk) unmount() error { return unmount(d.path) }

// unmount undoes a mount, and with it a loop device; what is not mounted is left
// alone. Files of processes that were killed may be open for a moment.
func unmount(path string) error {
	const patience = 400
	for n := 0; ; n++ {
		err := unix.Unmount(path, 0)
		switch {
		case err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) || n == patience:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

const (
	shutdownRequest = 0x8004587d // EXT4_IOC_SHUTDOWN
	noLogFlush      = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written
)

// cut is what a power failure is to the file system: from now on nothing gets to
// the disk any more.
func (d *disk) cut() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdownRequest, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return fmt.Errorf("shut %s down: %w", d.path, errno)
	}
	return nil
}

// restart is the start after a power failure: what was not on the disk is gone.
func (d *disk) restart(ctx context.Context) error {
	return errors.Join(d.unmount(), d.mount(ctx))
}
