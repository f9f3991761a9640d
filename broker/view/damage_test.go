package view

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// Where bbolt keeps what the tests damage.
const (
	pageHeader    = 16
	pageElement   = 16
	metaBytes     = 64
	metaChecksum  = 56
	flagBranch    = 0x01
	firstDataPage = 2
)

// sample is a file whose rows were flushed at position 1 and, changed, at 2.
// View "a" is a tree of several pages, view "b" an inline bucket; the freelist is
// not empty.
type sample struct {
	bytes    []byte
	pageSize int
	used     []bool // by page
	at       map[uint64][2]map[string]string
}

func newSample(t testing.TB) *sample {
	t.Helper()
	path := dbPath(t)
	a, b := newTable("a"), newTable("b")
	d := mustOpen(t, path, a, b)
	s := &sample{at: map[uint64][2]map[string]string{}}
	for position := uint64(1); position <= 2; position++ {
		for i := range 180 {
			if position == 1 || i%3 == 0 {
				a.put(fmt.Sprintf("row-%03d", i), strings.Repeat(fmt.Sprint(position), 40))
			}
		}
		a.delete(fmt.Sprintf("row-%03d", position))
		b.put("small", fmt.Sprint("value ", position))
		mustFlush(t, d, position)
		s.at[position] = [2]map[string]string{maps.Clone(a.rows), maps.Clone(b.rows)}
	}
	s.pageSize = d.bolt.Info().PageSize
	mustClose(t, d)
	s.read(t, path)
	return s
}

// read takes the part of the file that has pages, and which of them are in use.
func (s *sample) read(t testing.TB, path string) {
	t.Helper()
	var err error
	if s.bytes, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	update(t, path, func(tx *bbolt.Tx) error {
		s.bytes = s.bytes[:tx.Size()]
		for id := range len(s.bytes) / s.pageSize {
			page, err := tx.Page(id)
			if err != nil {
				return err
			}
			s.used = append(s.used, page.Type != "free")
		}
		return nil
	})
}

// verify opens a damaged copy: it is refused, or it is exactly what it was at
// the position that it says, and stays so when it is written to.
func (s *sample) verify(t testing.TB, path string, file []byte) (opened bool) {
	t.Helper()
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := newTable("a"), newTable("b")
	d, err := Open(path, a, b)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("got %v, want ErrDamaged", err)
		}
		return false
	}
	want, ok := s.at[d.Position()]
	if !ok {
		t.Fatalf("opened at position %d", d.Position())
	}
	wantRows(t, a, want[0])
	wantRows(t, b, want[1])
	s.write(t, d, a)
	b = newTable("b")
	written := newTable("a")
	d, err = Open(path, written, b)
	if err != nil {
		t.Fatalf("open after a write: %v", err)
	}
	wantRows(t, written, a.rows)
	wantRows(t, b, want[1])
	mustClose(t, d)
	return true
}

// write touches many pages, so that free ones are used.
func (s *sample) write(t testing.TB, d *DB, a *table) {
	t.Helper()
	d.bolt.NoSync, d.bolt.NoGrowSync = true, true
	for i := range 30 {
		a.put(fmt.Sprintf("row-%03d", 6*i), strings.Repeat("w", 60))
	}
	mustFlush(t, d, 10)
	a.put("row-000", "x")
	mustFlush(t, d, 11)
	mustClose(t, d)
}

func TestOpenIntactSample(t *testing.T) {
	s := newSample(t)
	if !s.verify(t, dbPath(t), s.bytes) {
		t.Fatal("the sample itself was refused")
	}
}

func TestOpenWithFlippedBits(t *testing.T) {
	s := newSample(t)
	path := dbPath(t)
	refused := 0
	for at := range s.bytes {
		if !s.sampled(at) {
			continue
		}
		file := bytes.Clone(s.bytes)
		bit := at / 7 % 8
		file[at] ^= 1 << bit
		if !s.verify(t, path, file) {
			refused++
		}
		if t.Failed() {
			t.Fatalf("bit %d of byte %d", bit, at)
		}
	}
	if refused == 0 {
		t.Error("no flip was found")
	}
}

// sampled tells whether a flip at a byte is tried: all bytes of the headers and
// of the first elements of pages in use, and some of the others.
func (s *sample) sampled(at int) bool {
	page, offset := at/s.pageSize, at%s.pageSize
	switch {
	case page < firstDataPage:
		return offset < pageHeader+metaBytes || at%31 == 0
	case s.used[page]:
		return offset < pageHeader+4*pageElement || at%29 == 0
	default:
		return at%61 == 0
	}
}

// TestOpenTakesEveryShapeOfTree shows that nothing that bbolt itself makes of a
// tree, of up to three levels, is taken for damage.
func TestOpenTakesEveryShapeOfTree(t *testing.T) {
	path := dbPath(t)
	a, b := newTable("a"), newTable("b")
	d := mustOpen(t, path, a, b)
	random := rand.New(rand.NewPCG(1, 2))
	for position := uint64(1); position <= 150; position++ {
		d.bolt.NoSync, d.bolt.NoGrowSync = true, true
		grow := position/25%2 == 0 // and shrink, in turns
		for range random.IntN(400) {
			key := fmt.Sprint(strings.Repeat("k", 90), random.IntN(9000))
			if grow || random.IntN(20) == 0 {
				a.put(key, strings.Repeat("v", random.IntN(300)))
			} else {
				a.delete(key)
			}
			for key := range a.rows {
				if !grow {
					a.delete(key)
				}
				break
			}
		}
		b.put(fmt.Sprint(random.IntN(40)), "v")
		mustFlush(t, d, position)
		if position%3 != 0 {
			continue
		}
		mustClose(t, d)
		again := newTable("a")
		d = mustOpen(t, path, again, b)
		wantRows(t, again, a.rows)
		a = again
	}
}

func TestOpenWithZeroedPages(t *testing.T) {
	s := newSample(t)
	path := dbPath(t)
	for at := 0; at < len(s.bytes); at += s.pageSize {
		file := bytes.Clone(s.bytes)
		clear(file[at : at+s.pageSize])
		s.verify(t, path, file)
	}
	clear(s.bytes)
	if s.verify(t, path, s.bytes) {
		t.Error("a file of zeros was opened")
	}
}

func TestOpenWithExchangedPages(t *testing.T) {
	s := newSample(t)
	path := dbPath(t)
	size := s.pageSize
	for i := 2 * size; i < len(s.bytes); i += size {
		for j := 2 * size; j < len(s.bytes); j += size {
			file := bytes.Clone(s.bytes)
			copy(file[i:i+size], s.bytes[j:j+size])
			// The page claims to be the one that it replaces.
			binary.LittleEndian.PutUint64(file[i:], uint64(i/size))
			s.verify(t, path, file)
		}
	}
}

func TestOpenCutFile(t *testing.T) {
	s := newSample(t)
	path := dbPath(t)
	for size := 0; size < len(s.bytes); size += 1021 {
		if s.verify(t, path, s.bytes[:size]) {
			t.Errorf("a file cut to %d of %d bytes was opened", size, len(s.bytes))
		}
	}
}

func TestOpenGarbage(t *testing.T) {
	s := newSample(t)
	path := dbPath(t)
	garbage := bytes.Repeat([]byte("not a database\n"), 4000)
	if s.verify(t, path, garbage) {
		t.Error("garbage was opened")
	}
	if s.verify(t, path, nil) {
		t.Error("an empty file was opened")
	}
}

// TestOpenWithOneMetaPage shows that the other meta page takes the file back to
// the flush before.
func TestOpenWithOneMetaPage(t *testing.T) {
	s := newSample(t)
	path := dbPath(t)
	found := map[uint64]bool{}
	for i := range 2 {
		file := bytes.Clone(s.bytes)
		file[i*s.pageSize+pageHeader+metaChecksum] ^= 1
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		d := mustOpen(t, path, newTable("a"), newTable("b"))
		found[d.Position()] = true
		mustClose(t, d)
		s.verify(t, path, file)
	}
	if !found[1] || !found[2] {
		t.Errorf("got positions %v, want 1 and 2", found)
	}
}

// TestOpenFindsCircles builds what no single bit does: pointers that go
// round, of which bbolt would never come back.
func TestOpenFindsCircles(t *testing.T) {
	s := newSample(t)
	size := s.pageSize
	circles := 0
	for at := 2 * size; at < len(s.bytes); at += size {
		le := binary.LittleEndian
		if le.Uint16(s.bytes[at+8:]) != flagBranch {
			continue
		}
		file := bytes.Clone(s.bytes)
		le.PutUint64(file[at+pageHeader+8:], uint64(at/size))
		if s.verify(t, dbPath(t), file) {
			continue // a free page
		}
		circles++
	}
	if circles == 0 {
		t.Error("the sample has no branch page in use")
	}
}

func TestOpenFindsWhatChecksumsOfRowsDoNot(t *testing.T) {
	a := func(tx *bbolt.Tx) *bbolt.Bucket { return tx.Bucket([]byte("a")) }
	key := []byte("row-000")
	old := seal("a", key, []byte(strings.Repeat("1", 40)))
	for name, change := range map[string]func(*bbolt.Tx) error{
		"missing row":      func(tx *bbolt.Tx) error { return a(tx).Delete(key) },
		"older row":        func(tx *bbolt.Tx) error { return a(tx).Put(key, old) },
		"row of another":   func(tx *bbolt.Tx) error { return a(tx).Put([]byte("row-999"), old) },
		"short row":        func(tx *bbolt.Tx) error { return a(tx).Put(key, old[:3]) },
		"missing view":     func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("b")) },
		"missing state":    func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(stateBucket)) },
		"missing format":   func(tx *bbolt.Tx) error { return tx.Bucket([]byte(stateBucket)).Delete([]byte(formatKey)) },
		"missing position": func(tx *bbolt.Tx) error { return tx.Bucket([]byte(stateBucket)).Delete([]byte(stateKey)) },
		"short format":     func(tx *bbolt.Tx) error { return putState(tx, formatKey, []byte{1}) },
		"format 0":         func(tx *bbolt.Tx) error { return putState(tx, formatKey, make([]byte, 4)) },
		"short position":   func(tx *bbolt.Tx) error { return putState(tx, stateKey, make([]byte, 23)) },
		"other position":   func(tx *bbolt.Tx) error { return writeState(tx, state{position: 2}) },
		"unknown view": func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("c"))
			return err
		},
		"bucket as row": func(tx *bbolt.Tx) error {
			_, err := a(tx).CreateBucket([]byte("nested"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := dbPath(t)
			if err := os.WriteFile(path, newSample(t).bytes, 0o600); err != nil {
				t.Fatal(err)
			}
			update(t, path, change)
			if _, err := Open(path, newTable("a"), newTable("b")); !errors.Is(err, ErrDamaged) {
				t.Fatalf("got %v, want ErrDamaged", err)
			}
		})
	}
}

func TestOpenRefusesANewerFormat(t *testing.T) {
	path := dbPath(t)
	mustClose(t, mustOpen(t, path, newTable("a")))
	update(t, path, func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket([]byte("of the newer format")); err != nil {
			return err
		}
		return putState(tx, formatKey, []byte{FormatVersion + 1, 0, 0, 0})
	})
	_, err := Open(path, newTable("a"))
	if !errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrNewer alone", err)
	}
}

func TestOpenRefusesARowThatItsViewDoesNotTake(t *testing.T) {
	path := dbPath(t)
	a := newTable("a")
	d := mustOpen(t, path, a)
	a.put("k", "v")
	mustFlush(t, d, 1)
	mustClose(t, d)
	refusing := newTable("a")
	refusing.refuse = errors.New("no such row")
	if _, err := Open(path, refusing); !errors.Is(err, ErrDamaged) || !errors.Is(err, refusing.refuse) {
		t.Fatalf("got %v, want ErrDamaged and the view's error", err)
	}
	mustOpen(t, path, newTable("a")) // the lock is free
}

func FuzzOpen(f *testing.F) {
	s := newSample(f)
	f.Add(uint32(3*4096+10), []byte{0xff})
	f.Add(uint32(4*4096), []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		file := bytes.Clone(s.bytes)
		copy(file[int(at)%len(file):], patch)
		s.verify(t, dbPath(t), file)
	})
}
