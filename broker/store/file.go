package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"go.etcd.io/bbolt"

	"github.com/rmqio/rmq/broker/pages"
)

// This file is about bbolt files as such: how one is prepared, checked and
// opened. segment.go says what is in one.

var (
	logBucket  = []byte("log")  // a sub-bucket for each chunk; its sequence is the last log index
	sealBucket = []byte("seal") // what sealing adds
	metaBucket = []byte("meta")
	dataKey    = []byte("d")
	indexKey   = []byte("i")
)

const (
	// pageSize is that of every segment, so that its bytes do not depend on the
	// machine that made it.
	pageSize = 4096
	zeroStep = 1 << 20
	// growStep is how much bbolt adds when a file must outgrow its capacity,
	// which only a record larger than what is left of a segment causes.
	growStep = 1 << 20
)

// prepareFile makes an empty segment of the given capacity, synced: from the file
// at old, if that is large enough, else from zeros written to its end. So
// commits overwrite blocks that the file has, and no block is ever shown that this
// segment did not write: what bbolt has not allocated nothing leads to. wait is
// called with the share of the zeros that is written before more are, and may end it.
func prepareFile(path, old string, capacity int64, wait func(filled float64) error) error {
	used, err := createFile(path, capacity)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if fileBytes(old) >= capacity {
		return recycle(path, old, capacity)
	}
	return fillWithZeros(path, used, capacity, wait)
}

// createFile makes a bbolt file with a segment's buckets and returns how much of
// it is used.
func createFile(path string, capacity int64) (used int64, err error) {
	if err := os.RemoveAll(path); err != nil {
		return 0, err
	}
	db, err := openFile(path, capacity, false)
	if err != nil {
		return 0, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(metaBucket)
		if err == nil {
			_, err = tx.CreateBucket(logBucket)
		}
		return err
	})
	if err == nil {
		err = db.View(func(tx *bbolt.Tx) error {
			used = tx.Size()
			return nil
		})
	}
	return used, errors.Join(err, db.Close())
}

// recycle replaces a new file by an old one with the new one's beginning, which
// says that the rest is free. Sealing may have made the old one larger than it was.
func recycle(path, old string, capacity int64) error {
	beginning, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.Rename(old, path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(beginning, 0)
	if err == nil {
		err = f.Truncate(capacity)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// fillWithZeros writes what lies between the used part of a file and the
// capacity, so that no later commit has to allocate blocks or change the file's
// size.
func fillWithZeros(path string, used, capacity int64, wait func(filled float64) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(used); err != nil {
		return err
	}
	if err := reserve(f, used, capacity-used); err != nil {
		return fmt.Errorf("reserve %s to %d bytes: %w", path, capacity, err)
	}
	z := zeroWriter{file: f, direct: openDirect(path), zeros: make([]byte, zeroStep)}
	defer z.close()
	for at := used; at < capacity; at += zeroStep {
		err := wait(float64(at) / float64(capacity))
		if err == nil {
			err = z.write(at, min(zeroStep, capacity-at))
		}
		if err != nil {
			return fmt.Errorf("fill %s to %d bytes: %w", path, capacity, err)
		}
	}
	return f.Sync()
}

// zeroWriter writes zeros past the kernel's cache if it can: there they would push
// out what is read, and cost more than all of a commit but its sync. Each step is
// with the disk when it returns: one sync of everything would hold up the commits'.
type zeroWriter struct {
	file   *os.File
	direct *os.File // nil: through the cache
	zeros  []byte
}

func (z *zeroWriter) write(at, n int64) error {
	if z.direct != nil {
		_, err := z.direct.WriteAt(z.zeros[:n], at)
		if !refusesDirect(err) {
			return err
		}
		z.close()
	}
	if _, err := z.file.WriteAt(z.zeros[:n], at); err != nil {
		return err
	}
	return writeOut(z.file, at, n)
}

func (z *zeroWriter) close() {
	if z.direct != nil {
		z.direct.Close() // what was written is synced through file
		z.direct = nil
	}
}

// database is an open bbolt file.
type database struct {
	*bbolt.DB
	file *os.File // that of DB, which closes it
}

// openFile opens a bbolt file. The memory map is larger than the capacity, so
// that it never has to be made anew under a reader.
func openFile(path string, capacity int64, readOnly bool) (*database, error) {
	db := &database{}
	o := &bbolt.Options{
		Timeout:      time.Second,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		ReadOnly:     readOnly,
		PageSize:     pageSize, // of a new file
		OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			db.file, err = os.OpenFile(name, flag, mode)
			return db.file, err
		},
	}
	if !readOnly {
		o.InitialMmapSize = int(capacity) + 2*MaxRecordBytes
	}
	err := guard(path, func() (err error) {
		db.DB, err = bbolt.Open(path, 0o600, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.AllocSize = growStep
	return db, nil
}

// isInline reports whether a value may be one that bbolt keeps in the page of the
// bucket's own entry, which it hands out as a copy.
func isInline(value []byte) bool { return len(value) < pageSize }

// place is where a value that a transaction has read, and that is not inline, lies
// in the file. To find it the kernel has mapped up to 2 MiB around its beginning;
// that is given back.
func (d *database) place(value []byte) int64 {
	unmap(value)
	return int64(uintptr(unsafe.Pointer(unsafe.SliceData(value))) - d.Info().Data)
}

// readAt fills b from an offset of the file. What cannot be read is damaged.
func (d *database) readAt(b []byte, offset int64) error {
	if _, err := d.file.ReadAt(b, offset); err != nil {
		return fmt.Errorf("%w: %s at %d: %w", ErrDamaged, d.file.Name(), offset, err)
	}
	return nil
}

// checkFile looks at a segment file before bbolt does. bbolt turns an empty file
// into a new database, quietly falls back to the state before the last commit
// when one meta page is damaged, faults on a file that was cut, and follows a
// pointer that leads round for ever; all of them would lose what was
// acknowledged. A commit writes a meta page within one disk sector, so that a
// crash leaves none half written: a bad one is damage.
func checkFile(path string) error {
	wholeMetas, err := pages.Check(path, pageSize)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	case errors.Is(err, pages.ErrDamaged):
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	case err == nil && wholeMetas < 2:
		return fmt.Errorf("%w: %s: one of its two meta pages is not whole", ErrDamaged, path)
	}
	return err
}

// checkStructure is checkFile for a file that is known to be damaged: with one
// whole meta page it can be read.
func checkStructure(path string) error {
	wholeMetas, err := pages.Check(path, pageSize)
	if err == nil && wholeMetas == 0 {
		err = ErrDamaged
	}
	return err
}

// syncDir makes names that were added to or taken from a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// rename moves a file within its directory, durably.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}
