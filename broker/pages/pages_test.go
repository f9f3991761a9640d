package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

const testPageSize = 4096

func testPath(t testing.TB) string { return filepath.Join(t.TempDir(), "test.db") }

func boltOptions() *bbolt.Options {
	return &bbolt.Options{PageSize: testPageSize, FreelistType: bbolt.FreelistMapType, NoStatistics: true, NoSync: true, NoGrowSync: true}
}

func mustOpen(t testing.TB, path string) *bbolt.DB {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, boltOptions())
	if err != nil {
		t.Fatalf("open with bbolt: %v", err)
	}
	return db
}

// update runs the transactions on a file, which it makes when there is none.
func update(t testing.TB, path string, transactions ...func(*bbolt.Tx) error) {
	t.Helper()
	db := mustOpen(t, path)
	for _, fn := range transactions {
		if err := db.Update(fn); err != nil {
			t.Fatalf("update: %v", err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// writer puts into a transaction and remembers the first error.
type writer struct{ err error }

func (w *writer) bucket(in interface {
	CreateBucketIfNotExists([]byte) (*bbolt.Bucket, error)
}, name string) *bbolt.Bucket {
	b, err := in.CreateBucketIfNotExists([]byte(name))
	w.err = errors.Join(w.err, err)
	return b
}

func (w *writer) put(b *bbolt.Bucket, key string, size int) {
	w.err = errors.Join(w.err, b.Put([]byte(key), bytes.Repeat([]byte{'v'}, size)))
}

var longKey = strings.Repeat("k", 400)

// fill writes what a segment of the log looks like, and a tree of three levels
// with buckets among its values, four buckets deep.
func fill(tx *bbolt.Tx) error {
	var w writer
	w.put(w.bucket(tx, "meta"), "segment", 100)
	log := w.bucket(tx, "log")
	for i := range 60 {
		b := w.bucket(log, fmt.Sprintf("%08d", i))
		w.put(b, "d", 100+i%4/3*3000)
		w.put(b, "i", 84)
	}
	deep := w.bucket(tx, "deep")
	for i := range 130 {
		w.put(deep, fmt.Sprintf("%s%04d", longKey, i), 30)
	}
	for range 3 {
		deep = w.bucket(deep, "and deeper")
		w.put(deep, "large", 9000)
	}
	return w.err
}

// thin deletes some of it, so that the freelist is not empty.
func thin(tx *bbolt.Tx) error {
	log, deep := tx.Bucket([]byte("log")), tx.Bucket([]byte("deep"))
	var err error
	for i := range 14 {
		err = errors.Join(err, log.DeleteBucket(fmt.Appendf(nil, "%08d", 4*i+3)))
		err = errors.Join(err, deep.Delete(fmt.Appendf(nil, "%s%04d", longKey, 7*i)))
	}
	return err
}

// sample is a file with everything that the walk meets.
func sample(t testing.TB) []byte {
	t.Helper()
	path := testPath(t)
	update(t, path, fill, thin)
	return mustRead(t, path)
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := currentMeta(b, testPageSize)
	if err != nil {
		t.Fatal(err)
	}
	return b[:m.pages*testPageSize]
}

func mustWrite(t testing.TB, b []byte) (path string) {
	t.Helper()
	path = testPath(t)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckTakesAWholeFile(t *testing.T) {
	if whole, err := Check(mustWrite(t, sample(t)), testPageSize); whole != 2 || err != nil {
		t.Fatalf("got %d meta pages and %v, want 2 and no error", whole, err)
	}
}

// TestCheckTakesWhatBboltMakes shows that no tree that bbolt makes, however
// buckets nest, grow and shrink, is taken for damage.
func TestCheckTakesWhatBboltMakes(t *testing.T) {
	path := testPath(t)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 120 {
		update(t, path, func(tx *bbolt.Tx) error {
			var w writer
			for range random.IntN(60) {
				b := w.bucket(tx, fmt.Sprint("top", random.IntN(3)))
				for random.IntN(3) > 0 {
					b = w.bucket(b, fmt.Sprint("bucket", random.IntN(20)))
				}
				w.change(b, random, round/20%2 == 0)
			}
			return w.err
		})
		if whole, err := Check(path, testPageSize); whole != 2 || err != nil {
			t.Fatalf("round %d: got %d meta pages and %v", round, whole, err)
		}
	}
}

// change grows a bucket or makes it smaller.
func (w *writer) change(b *bbolt.Bucket, random *rand.Rand, grow bool) {
	for range random.IntN(40) {
		key := fmt.Sprint(strings.Repeat("k", random.IntN(120)), random.IntN(500))
		if grow || random.IntN(10) == 0 {
			w.put(b, key, random.IntN(1+random.IntN(6000)))
		} else if k, v := b.Cursor().Seek([]byte(key)); k != nil && v == nil {
			w.err = errors.Join(w.err, b.DeleteBucket(k))
		} else if k != nil {
			w.err = errors.Join(w.err, b.Delete(k))
		}
	}
}

// TestCheckReadsNoValues takes the right to read from all pages that hold only a
// part of a value.
func TestCheckReadsNoValues(t *testing.T) {
	path := testPath(t)
	update(t, path, func(tx *bbolt.Tx) error {
		var w writer
		log := w.bucket(tx, "log")
		for i := range 8 {
			b := w.bucket(log, fmt.Sprint("chunk", i))
			w.put(b, "d", 1<<20)
			w.put(b, "i", 100<<10)
		}
		return w.err
	})
	b := mapped(t, path)
	unreadable := 0
	for id := firstDataPage; id < len(b)/testPageSize; id++ {
		pg := decodePage(b[id*testPageSize:])
		if pg.id != uint64(id) || pg.flags != flagLeaf || pg.count != 2 || pg.overflow < 256 {
			continue
		}
		// "d" ends, and "i" begins, 1 MiB behind the start.
		for _, values := range [][2]int{{id + 1, id + 256}, {id + 257, id + 1 + int(pg.overflow)}} {
			if err := syscall.Mprotect(b[values[0]*testPageSize:values[1]*testPageSize], syscall.PROT_NONE); err != nil {
				t.Fatal(err)
			}
		}
		unreadable++
		id += int(pg.overflow)
	}
	if err := guarded(b); err != nil || unreadable != 8 {
		t.Fatalf("got %v with %d unreadable values", err, unreadable)
	}
}

// guarded proves bytes that may fault.
func guarded(b []byte) error {
	return guard(func() error {
		_, err := prove(b, testPageSize)
		return err
	})
}

func mapped(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := syscall.Mmap(int(file.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(b) })
	return b
}

// TestCheckTurnsAFaultIntoAnError cuts the file after it was mapped.
func TestCheckTurnsAFaultIntoAnError(t *testing.T) {
	path := mustWrite(t, sample(t))
	b := mapped(t, path)
	if err := os.Truncate(path, 2*testPageSize); err != nil {
		t.Fatal(err)
	}
	if err := guarded(b); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
}

func TestCheckCountsWholeMetaPages(t *testing.T) {
	whole := sample(t)
	for name, c := range map[string]struct {
		want   int
		change func(b []byte)
	}{
		"first bad":   {1, func(b []byte) { b[pageHeader+metaChecksum] ^= 1 }},
		"second bad":  {1, func(b []byte) { b[testPageSize+pageHeader] ^= 1 }},
		"one a copy":  {1, func(b []byte) { copy(b[testPageSize:2*testPageSize], b) }},
		"none":        {0, func(b []byte) { clear(b[:2*testPageSize]) }},
		"two, intact": {2, func([]byte) {}},
	} {
		b := bytes.Clone(whole)
		c.change(b)
		got, err := Check(mustWrite(t, b), testPageSize)
		if got != c.want || (err == nil) != (c.want > 0) || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %d meta pages and %v, want %d", name, got, err, c.want)
		}
	}
}

func TestCheckTellsDamageFromWhatIsNotThere(t *testing.T) {
	if _, err := Check(testPath(t), testPageSize); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
		t.Errorf("no file: got %v, want fs.ErrNotExist", err)
	}
	b := sample(t)
	for name, path := range map[string]string{
		"a directory":           t.TempDir(),
		"an empty file":         mustWrite(t, nil),
		"a short file":          mustWrite(t, b[:2*testPageSize-1]),
		"a file without data":   mustWrite(t, b[:2*testPageSize]),
		"a file less one page":  mustWrite(t, b[:len(b)-testPageSize]),
		"a file less one byte":  mustWrite(t, b[:len(b)-1]),
		"a file of other pages": otherPages(t),
	} {
		if _, err := Check(path, testPageSize); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
}

func otherPages(t *testing.T) string {
	t.Helper()
	path := testPath(t)
	o := boltOptions()
	o.PageSize = 4 * testPageSize
	db, err := bbolt.Open(path, 0o600, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fill), db.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFreelistOfManyPages covers the form that a freelist takes when its count
// does not fit the header of a page.
func TestFreelistOfManyPages(t *testing.T) {
	const id, free = 2, manyFree + 5
	build := func(count uint64) *proof {
		overflow := (pageHeader + 8 + 8*free) / testPageSize
		b := make([]byte, (id+1+overflow)*testPageSize)
		le := binary.LittleEndian
		header := b[id*testPageSize:]
		le.PutUint64(header, id)
		le.PutUint16(header[8:], flagFreelist)
		le.PutUint16(header[10:], manyFree)
		le.PutUint32(header[12:], uint32(overflow))
		le.PutUint64(header[pageHeader:], count)
		for i := range free {
			le.PutUint64(header[pageHeader+8+8*i:], uint64(1000+i))
		}
		return &proof{file: b, size: testPageSize, used: make([]bool, 1000+free)}
	}
	if err := build(free).freelist(id); err != nil {
		t.Errorf("got %v of a list that is right", err)
	}
	p := build(free)
	p.used[1000+free-1] = true
	for name, p := range map[string]*proof{"a page in use": p, "a page of no file": build(free + 1), "a count beyond the page": build(1 << 40)} {
		if err := p.freelist(id); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
}
