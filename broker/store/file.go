package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
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
	zeroStep = 1 << 20
	// growStep is how much bbolt adds when a file must outgrow its capacity,
	// which only a record larger than what is left of a segment causes.
	growStep = 1 << 20
)

// prepareFile makes an empty segment of the given capacity: a bbolt file with
// its buckets, written with zeros to its end and synced.
func prepareFile(path string, capacity int64) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	db, err := openFile(path, capacity, false)
	if err != nil {
		return err
	}
	var used int64
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
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return fillWithZeros(path, used, capacity)
}

// fillWithZeros writes what lies between the used part of a file and the
// capacity, so that no later commit has to allocate blocks or change the file's
// size.
func fillWithZeros(path string, used, capacity int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(used); err != nil {
		return err
	}
	zeros := make([]byte, zeroStep)
	for at := used; at < capacity; at += zeroStep {
		if _, err := f.WriteAt(zeros[:min(zeroStep, capacity-at)], at); err != nil {
			return fmt.Errorf("fill %s to %d bytes: %w", path, capacity, err)
		}
	}
	return f.Sync()
}

// openFile opens a bbolt file. The memory map is larger than the capacity, so
// that it never has to be made anew under a reader.
func openFile(path string, capacity int64, readOnly bool) (*bbolt.DB, error) {
	o := &bbolt.Options{
		Timeout:      time.Second,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
		ReadOnly:     readOnly,
	}
	if !readOnly {
		o.InitialMmapSize = int(capacity) + 2*MaxRecordBytes
	}
	var db *bbolt.DB
	err := guard(path, func() (err error) {
		db, err = bbolt.Open(path, 0o600, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.AllocSize = growStep
	return db, nil
}

// Where bbolt keeps what checkFile looks at: two meta pages at the start, each
// with a header of 16 bytes before the fields.
const (
	metaMagicAt    = 16
	metaPageSizeAt = 24
	metaPagesAt    = 56 // the number of pages in use
	metaSumAt      = 72 // FNV-1a over the fields before it
	metaEnd        = 80
	bboltMagic     = 0xED0CDAED
)

// checkFile looks at a segment file before bbolt does. bbolt turns an empty file
// into a new database, quietly falls back to the state before the last commit
// when one meta page is damaged, and faults on a file that was cut; all three
// would lose what was acknowledged. A commit writes a meta page within one disk
// sector, so that a crash leaves none half written: a bad one is damage.
func checkFile(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	pageSize := int64(os.Getpagesize())
	var used int64
	for i := range int64(2) {
		page := make([]byte, metaEnd)
		if _, err := f.ReadAt(page, i*pageSize); err != nil {
			return fmt.Errorf("%w: %s is cut: meta page %d: %v", ErrDamaged, path, i, err)
		}
		pages, err := checkMeta(page, pageSize)
		if err != nil {
			return fmt.Errorf("%w: %s: meta page %d: %v", ErrDamaged, path, i, err)
		}
		used = max(used, pages*pageSize)
	}
	if used > info.Size() {
		return fmt.Errorf("%w: %s is cut: it has %d bytes and uses %d", ErrDamaged, path, info.Size(), used)
	}
	return nil
}

func checkMeta(page []byte, pageSize int64) (pages int64, err error) {
	le := binary.LittleEndian
	if m := le.Uint32(page[metaMagicAt:]); m != bboltMagic {
		return 0, fmt.Errorf("magic %#08x", m)
	}
	sum := fnv.New64a()
	sum.Write(page[metaMagicAt:metaSumAt]) // a hash never fails
	if got, want := sum.Sum64(), le.Uint64(page[metaSumAt:]); got != want {
		return 0, fmt.Errorf("checksum %#016x, says %#016x", got, want)
	}
	if p := int64(le.Uint32(page[metaPageSizeAt:])); p != pageSize {
		return 0, fmt.Errorf("pages of %d bytes, this machine has %d", p, pageSize)
	}
	return int64(le.Uint64(page[metaPagesAt:])), nil
}

// checkPages runs bbolt's own check: no page is used twice or both used and free.
func checkPages(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		var first error
		for err := range tx.Check() {
			if first == nil {
				first = fmt.Errorf("%w: %s: %v", ErrDamaged, db.Path(), err)
			}
		}
		return first
	})
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
