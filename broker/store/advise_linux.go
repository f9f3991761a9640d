package store

import (
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// readAhead has the kernel read a sealed file ahead of who reads it in order.
// bbolt asks for the opposite for every file, since trees are read in no order;
// each page would be waited for by itself. A hint that is not taken does no harm.
func readAhead(db *bbolt.DB) {
	if info, err := os.Stat(db.Path()); err == nil {
		unix.Syscall(unix.SYS_MADVISE, db.Info().Data, uintptr(info.Size()), unix.MADV_SEQUENTIAL)
	}
}
