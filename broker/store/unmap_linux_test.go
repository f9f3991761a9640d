package store

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRead_LeavesNothingMapped: what is read of old segments must not pile up as
// memory of the process, whether the batches are large or small.
func TestRead_LeavesNothingMapped(t *testing.T) {
	for name, size := range map[string]int{"large batches": 128 << 10, "small batches": 2 << 10} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, Options{TailBytes: 1, FirstSegmentBytes: 16 << 20, SegmentBytes: 16 << 20})
			const messages, total = 4, 40 << 20
			for written := 0; written < total; written += size {
				err := l.Append(benchBatch(size/messages, size), func(_ Committed, err error) {
					if err != nil {
						t.Error(err)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			mustClose(t, l)
			mustClose(t, mustOpen(t, dir, Options{})) // seals what is full
			for _, name := range files(t, dir) {
				if err := dropCache(filepath.Join(dir, name)); err != nil { // large pages come from the disk
					t.Fatal(err)
				}
			}

			l = mustOpen(t, dir, Options{Position: uint64(total / size)}) // else all is read for the views
			_, end := l.Bounds(QueueKey{Topic: 1})
			for at := int64(0); at < end; {
				b, err := l.Read(QueueKey{Topic: 1}, at, 1<<20, 0)
				if err != nil {
					t.Fatal(err)
				}
				at = b.Next
			}
			if mapped := mappedBytes(t, dir); mapped > total/10 {
				t.Errorf("reading %d bytes left %d of them mapped", total, mapped)
			}
		})
	}
}

// mappedBytes is how much of the files in a directory counts as the process's memory.
func mappedBytes(t *testing.T, dir string) (bytes int64) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	within := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		var kib int64
		if strings.Contains(line, "-") && strings.Contains(line, " r") {
			within = strings.Contains(line, dir)
		} else if _, err := fmt.Sscanf(line, "Rss: %d kB", &kib); err == nil && within {
			bytes += kib << 10
		}
	}
	return bytes
}
