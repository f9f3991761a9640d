package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrDiskFull is returned by Append for messages while the disk is above
// Watermarks.Refuse.
var ErrDiskFull = errors.New("disk is almost full")

// Watermarks are shares of the disk in use, in percent, from which on something
// is done about it. They count only while less than PlentyBytes are free: a
// large disk is not full because a tenth of it is left. Sources: RocketMQ's
// diskMaxUsedSpaceRatio 75, diskSpaceCleanForciblyRatio 85 and
// diskSpaceWarningLevelRatio 90.
type Watermarks struct {
	Warn   int // logged
	Clean  int // the oldest segments are dropped whatever their age
	Refuse int // messages are refused, until the share is 2 below
	// PlentyBytes; 0: 16 GiB.
	PlentyBytes int64
}

func (w Watermarks) withDefaults() (Watermarks, error) {
	w.Warn, w.Clean, w.Refuse = cmp.Or(w.Warn, 75), cmp.Or(w.Clean, 85), cmp.Or(w.Refuse, 90)
	w.PlentyBytes = cmp.Or(w.PlentyBytes, 16<<30)
	if w.Warn < 0 || w.Warn > w.Clean || w.Clean > w.Refuse || w.Refuse > 100 {
		return w, fmt.Errorf("disk watermarks %d%%, %d%%, %d%%: they must rise and lie within 0 to 100", w.Warn, w.Clean, w.Refuse)
	}
	return w, nil
}

// hysteresis is how far the share must fall before messages are taken again.
const hysteresis = 2

// DiskLevel says how full a disk is, by the watermarks.
type DiskLevel int

// The levels, each with the ones below it.
const (
	DiskOK DiskLevel = iota
	DiskWarn
	DiskClean
	DiskRefuse
)

// String is what people and programs are shown: ok, warn, clean or refuse.
func (l DiskLevel) String() string {
	return [...]string{"ok", "warn", "clean", "refuse"}[l]
}

// Disk is how full the disk of a log is.
type Disk struct {
	UsedPercent int
	FreeBytes   int64 // for this process
	Level       DiskLevel
}

// level judges a disk. refusing says that messages are refused now.
func (w Watermarks) level(used int, free int64, refusing bool) DiskLevel {
	refuse := w.Refuse
	if refusing {
		refuse -= hysteresis
	}
	switch {
	case free >= w.PlentyBytes:
		return DiskOK
	case used >= refuse:
		return DiskRefuse
	case used >= w.Clean:
		return DiskClean
	case used >= w.Warn:
		return DiskWarn
	}
	return DiskOK
}

// diskUse returns the share of the disk in use, in percent, and the bytes that
// are free for this process.
func diskUse(dir string) (used int, free int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	block := int64(s.Bsize) // systems differ in its type
	free = int64(s.Bavail) * block
	total := int64(s.Blocks-s.Bfree)*block + free // what root may use beyond is not counted, as df does
	if total == 0 {
		return 0, free, nil
	}
	return int((total - free) * 100 / total), free, nil
}

// Disk looks at the disk and changes nothing.
func (l *Log) Disk() (Disk, error) {
	used, free, err := l.opts.DiskUse(l.dir)
	if err != nil {
		return Disk{}, err
	}
	refusing := errors.Is(l.tail.refusing(), ErrDiskFull)
	return Disk{UsedPercent: used, FreeBytes: free, Level: l.opts.Watermarks.level(used, free, refusing)}, nil
}

// CheckDisk looks at the disk, refuses messages or takes them again, gives back what
// is kept to be written over, logs a change of the level, and returns it. The
// goroutine that calls Retain calls it, from time to time.
func (l *Log) CheckDisk() (DiskLevel, error) {
	disk, err := l.Disk()
	if err != nil {
		return DiskOK, err
	}
	refusing := errors.Is(l.tail.refusing(), ErrDiskFull)
	if disk.Level == DiskRefuse {
		l.tail.refuseNew(fmt.Errorf("%w: the disk of %s is %d%% full, the limit is %d%%",
			ErrDiskFull, l.dir, disk.UsedPercent, l.opts.Watermarks.Refuse))
	} else if refusing {
		l.tail.acceptNew(ErrDiskFull)
	}
	if disk.Level >= DiskClean {
		if err := os.RemoveAll(l.path(recycledName)); err != nil {
			return disk.Level, err
		}
	}
	if disk.Level != l.level {
		l.logger.Warn("disk", "dir", l.dir, "level", disk.Level, "before", l.level, "used_percent", disk.UsedPercent, "free_bytes", disk.FreeBytes)
		l.level = disk.Level
	}
	return disk.Level, nil
}

// checkRoom fails when the disk has no room for a segment. To find out by writing
// one would, at each attempt, take the last free byte from everybody else.
func (l *Log) checkRoom(capacity int64) error {
	_, free, err := l.opts.DiskUse(l.dir)
	if err == nil && free < capacity {
		err = fmt.Errorf("the disk of %s has %d bytes free, a segment takes %d", l.dir, free, capacity)
	}
	return err
}
