package pages

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

// State is one of the two states that a file holds: a transaction overwrites no
// page of the one before it.
type State int

// The states of a file.
const (
	Newest   State = iota // after its last transaction: the one that bbolt uses
	Previous              // before that
)

// Read proves a state of a file as Check does, with both meta pages whole, and
// hands its root to fn, whose error it returns. What fn gets is valid during the
// call. bbolt can only read the newest state.
func Read(path string, pageSize int, s State, fn func(root Bucket, transaction uint64) error) error {
	return withFile(path, pageSize, func(b []byte) error {
		m, err := metaOf(b, pageSize, s)
		if err == nil {
			err = proveState(b, pageSize, &m)
		}
		if err != nil {
			return err
		}
		// The disk is read in large pieces, and not as the pages are touched. A hint that
		// is not taken does no harm.
		_ = unix.Madvise(b[:m.pages*uint64(pageSize)], unix.MADV_WILLNEED)
		r := reader{file: b, size: uint64(pageSize)}
		return fn(Bucket{reader: r, page: r.at(m.root)}, m.transaction)
	})
}

func metaOf(file []byte, pageSize int, s State) (meta, error) {
	if s == Previous {
		return previousMeta(file, pageSize)
	}
	m, whole, err := currentMeta(file, pageSize)
	if err == nil && whole < 2 {
		err = fmt.Errorf("%w: one of the two meta pages is not whole", ErrDamaged)
	}
	return m, err
}

// Bucket is a bucket of a proven state, to be read only.
type Bucket struct {
	reader
	page     page
	sequence uint64
}

// Entry is what a key stands for: a bucket or a value.
type Entry struct {
	Bucket *Bucket
	Value  []byte
}

// Sequence is the bucket's sequence number; the root has none.
func (b Bucket) Sequence() uint64 { return b.sequence }

// All yields what is in the bucket in the order of its keys.
func (b Bucket) All() iter.Seq2[[]byte, Entry] {
	return func(yield func([]byte, Entry) bool) { b.walk(b.page, yield) }
}

// Get returns what a key stands for; neither a bucket nor a value if it is not there.
func (b Bucket) Get(key []byte) Entry {
	for k, e := range b.All() {
		if bytes.Equal(k, key) {
			return e
		}
	}
	return Entry{}
}

// reader follows pointers that were proven.
type reader struct {
	file []byte
	size uint64 // of a page, in bytes
}

// at is a page with its overflow.
func (r reader) at(id uint64) page {
	pg := decodePage(r.file[id*r.size:])
	pg.b = r.file[id*r.size : (id+1+pg.overflow)*r.size]
	return pg
}

// walk yields the elements of a page and of those below it, until yield has enough.
func (r reader) walk(pg page, yield func([]byte, Entry) bool) (more bool) {
	for i := range pg.count {
		e, _ := pg.element(i)
		if pg.flags == flagBranch {
			more = r.walk(r.at(e.child), yield)
		} else {
			more = yield(e.key, r.entry(e))
		}
		if !more {
			return false
		}
	}
	return true
}

func (r reader) entry(e element) Entry {
	if e.flags != elementBucket {
		return Entry{Value: e.value}
	}
	b := &Bucket{reader: r, sequence: binary.LittleEndian.Uint64(e.value[8:])}
	if root := binary.LittleEndian.Uint64(e.value); root != 0 {
		b.page = r.at(root)
	} else {
		b.page = decodePage(e.value[bucketHeader:])
	}
	return Entry{Bucket: b}
}

// TakenBack returns the page that takes the last transaction of a file back when
// it is written at the offset: the meta page of the state before, as if of one
// transaction earlier still. bbolt then uses that state and goes on from there.
func TakenBack(path string, pageSize int) (metaPage []byte, offset int64, err error) {
	err = withFile(path, pageSize, func(b []byte) error {
		previous, err := previousMeta(b, pageSize)
		if err != nil {
			return err
		}
		from, to := place(previous.transaction), place(previous.transaction-1)
		metaPage, offset = bytes.Clone(b[from*pageSize:(from+1)*pageSize]), int64(to*pageSize)
		le := binary.LittleEndian
		le.PutUint64(metaPage, uint64(to))
		m := metaPage[pageHeader:]
		le.PutUint64(m[metaTransaction:], previous.transaction-1)
		le.PutUint64(m[metaChecksum:], metaSum(m))
		return nil
	})
	return metaPage, offset, err
}
