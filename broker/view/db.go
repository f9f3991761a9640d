package view

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/rmqio/rmq/broker/pages"
)

const lockTimeout = time.Second

// DB is the open file. Flush, Settle and Close belong to one goroutine at a time;
// Position and Certain may be called from any.
type DB struct {
	path  string
	bolt  *bbolt.DB
	file  *os.File // bolt's
	views []View
	// pending holds, for each view, the rows that it has handed over and that no
	// transaction holds yet; a nil row is deleted.
	pending  []map[string][]byte
	state    state
	position atomic.Uint64
	certain  atomic.Uint64
	// failed is set by a write whose outcome is not known; nothing is written
	// after it.
	failed error
	// broken is set when bbolt panicked: its locks may be held for ever.
	broken bool
}

// Open opens the file, or makes an empty one at position 0 when there is none,
// and loads all rows into the views, which must be empty. The caller holds the
// lock of the directory. After an error the views may hold some of the rows and
// must be thrown away. Errors: ErrDamaged, ErrNewer, ErrInUse, or an I/O error,
// which says nothing about the file.
func Open(path string, views ...View) (*DB, error) {
	d := &DB{path: path, views: views, pending: make([]map[string][]byte, len(views))}
	if err := d.checkNames(); err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = create(path, views)
	case err == nil && !info.Mode().IsRegular():
		err = errors.New("not a file")
	case err == nil && info.Size() == 0:
		// bbolt takes it for a new database; Open never leaves one behind.
		err = fmt.Errorf("%w: the file is empty", ErrDamaged)
	}
	if err == nil {
		err = d.open()
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return d, nil
}

func (d *DB) checkNames() error {
	seen := map[string]bool{"": true, stateBucket: true}
	for i, v := range d.views {
		if seen[v.Name()] {
			return fmt.Errorf("open %s: %q cannot be the name of a view, or is one twice", d.path, v.Name())
		}
		seen[v.Name()] = true
		d.pending[i] = map[string][]byte{}
	}
	return nil
}

// open proves the pages under a shared lock and only then lets bbolt follow them.
func (d *DB) open() error {
	if err := d.guard(func() error { return checkFile(d.path) }); err != nil {
		return err
	}
	if err := d.openBolt(); err != nil {
		return err
	}
	if err := d.guard(func() error { return d.bolt.View(d.load) }); err != nil {
		d.Close()
		return err
	}
	d.position.Store(d.state.position)
	return nil
}

// checkFile proves the structure of the file under a shared lock. Opened for
// reading only, bbolt looks at nothing but its two meta pages. One whole meta
// page is enough.
func checkFile(path string) error {
	o := options()
	o.ReadOnly = true
	bolt, err := bbolt.Open(path, 0, o)
	if err != nil {
		return boltError(err)
	}
	_, err = pages.Check(path, bolt.Info().PageSize)
	if errors.Is(err, pages.ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return errors.Join(err, bolt.Close())
}

func (d *DB) openBolt() error {
	o := options()
	o.OpenFile = func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		d.file = f
		return f, err
	}
	err := d.guard(func() (err error) {
		d.bolt, err = bbolt.Open(d.path, 0o600, o)
		return boltError(err)
	})
	if err != nil && d.broken {
		d.file.Close()
	}
	return err
}

// load reads the whole file.
func (d *DB) load(tx *bbolt.Tx) error {
	want, err := readState(tx)
	if err != nil {
		return err
	}
	if err := d.checkBuckets(tx); err != nil {
		return err
	}
	d.state = state{position: want.position}
	for _, v := range d.views {
		if err := d.loadView(tx.Bucket([]byte(v.Name())), v); err != nil {
			return err
		}
	}
	if d.state != want {
		return fmt.Errorf("%w: %d rows with sum %#x; there were %d with %#x",
			ErrDamaged, d.state.rows, d.state.sum, want.rows, want.sum)
	}
	return nil
}

// checkBuckets refuses a file that was written for other views: its position
// would not be true for a view that it does not have.
func (d *DB) checkBuckets(tx *bbolt.Tx) error {
	want := map[string]bool{stateBucket: true}
	for _, v := range d.views {
		want[v.Name()] = true
	}
	err := tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
		if !want[string(name)] {
			return fmt.Errorf("%w: rows of an unknown view %q", ErrDamaged, name)
		}
		delete(want, string(name))
		return nil
	})
	for name := range want {
		return errors.Join(err, fmt.Errorf("%w: no rows of view %q", ErrDamaged, name))
	}
	return err
}

func (d *DB) loadView(b *bbolt.Bucket, v View) error {
	return b.ForEach(func(key, row []byte) error {
		value, err := unseal(v.Name(), key, row)
		if err != nil {
			return err
		}
		if err := v.Load(key, value); err != nil {
			return fmt.Errorf("%w: row %x of %q: %w", ErrDamaged, key, v.Name(), err)
		}
		d.state.add(row)
		return nil
	})
}

// Position is the log position that the rows on disk have applied: of the last
// flush that succeeded, or as opened. 0: none.
func (d *DB) Position() uint64 { return d.position.Load() }

// Certain is the position that the rows on disk have applied even if one of
// bbolt's two meta pages goes bad: that of the flush before the last; 0 when it is
// not known, as after Open. The log keeps what lies behind it.
func (d *DB) Certain() uint64 { return d.certain.Load() }

// Settle writes the position of the last flush once more, so that both meta pages
// lead to it: Certain is Position then. After an error nothing has changed; the
// next Settle tries again.
func (d *DB) Settle() error {
	if d.failed != nil || d.Certain() == d.state.position {
		return d.failed
	}
	return d.commit(d.state.position, func() error {
		return d.bolt.Update(func(tx *bbolt.Tx) error { return writeState(tx, d.state) })
	})
}

// Flush writes all that changed in the views, and position, in one transaction.
// It is called when the views have applied exactly the records up to position,
// and none of them changes meanwhile. When it fails the file is as before and no
// change is lost: the next Flush writes it too. After a full disk that can
// succeed; after any other failure of a write every further Flush returns the
// same error, because the system may have dropped what it could not write.
func (d *DB) Flush(position uint64) error {
	if d.failed != nil {
		return d.failed
	}
	if position < d.state.position {
		return fmt.Errorf("flush %s at position %d, which is behind %d", d.path, position, d.state.position)
	}
	if !d.stage() && position == d.state.position {
		return nil
	}
	return d.commit(position, func() error { return d.write(position) })
}

// commit carries out a transaction and notes where its meta page leads.
func (d *DB) commit(position uint64, write func() error) error {
	err := d.guard(write)
	if err == nil {
		d.certain.Store(d.position.Swap(position))
		return nil
	}
	err = fmt.Errorf("flush %s at position %d: %w", d.path, position, err)
	if !retryable(err) {
		d.failed = err
	}
	return err
}

// stage takes over what changed in the views and reports whether there is
// anything to write.
func (d *DB) stage() bool {
	n := 0
	for i, v := range d.views {
		rows := d.pending[i]
		v.Changes(
			func(key, value []byte) { rows[string(key)] = seal(v.Name(), key, value) },
			func(key []byte) { rows[string(key)] = nil },
		)
		n += len(rows)
	}
	return n > 0
}

func (d *DB) write(position uint64) error {
	next := d.state
	next.position = position
	err := d.bolt.Update(func(tx *bbolt.Tx) error {
		for i, v := range d.views {
			b := tx.Bucket([]byte(v.Name()))
			for _, key := range slices.Sorted(maps.Keys(d.pending[i])) {
				if err := next.replace(b, []byte(key), d.pending[i][key]); err != nil {
					return fmt.Errorf("row %x of %q: %w", key, v.Name(), err)
				}
			}
		}
		return writeState(tx, next)
	})
	if err != nil {
		return err
	}
	for i := range d.pending {
		d.pending[i] = map[string][]byte{}
	}
	d.state = next
	return nil
}

// Close closes the file. It writes nothing: what was not flushed is in the log.
// After a Flush that returned ErrDamaged the file stays locked until the process
// ends, but SetAside and another Open are possible.
func (d *DB) Close() error {
	if d.broken {
		return d.file.Close()
	}
	if err := d.bolt.Close(); err != nil {
		return fmt.Errorf("close %s: %w", d.path, err)
	}
	return nil
}

// guard turns a panic of bbolt, and a fault in the memory that it maps, into
// ErrDamaged.
func (d *DB) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			d.broken = true
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return fn()
}

func options() *bbolt.Options {
	return &bbolt.Options{Timeout: lockTimeout, FreelistType: bbolt.FreelistMapType, NoStatistics: true}
}

// boltError sorts the errors of bbolt.Open: what the system says is passed on,
// what bbolt finds wrong is damage.
func boltError(err error) error {
	var errno syscall.Errno
	switch {
	case err == nil, errors.As(err, &errno):
		return err
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: its lock was not free within %v", ErrInUse, lockTimeout)
	default:
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
}

// retryable reports whether a write failed for want of space, before it changed
// anything.
func retryable(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, berrors.ErrMaxSizeReached)
}
