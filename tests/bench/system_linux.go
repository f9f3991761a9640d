package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

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

// diskWritten is how many bytes were written to the disk that has a folder, by
// everybody, what is not written yet included; 0 when it is not known. What the
// kernel counts for a process is no measure: where the page cache has large folios,
// a write to a part of one counts as a write of the whole.
func diskWritten(dir string) int64 {
	var at unix.Stat_t
	if err := unix.Stat(dir, &at); err != nil {
		return 0
	}
	unix.Sync()
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", unix.Major(at.Dev), unix.Minor(at.Dev)))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 7 {
		return 0
	}
	sectors, _ := strconv.ParseInt(fields[6], 10, 64)
	return sectors * 512
}
