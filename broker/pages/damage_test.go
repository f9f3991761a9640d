package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

const flagMeta = 0x04

// verdict proves a damaged file. What it takes must be safe for bbolt: its own
// check finds nothing, all of it can be read, and it stays whole when it is
// written to. A proof that panics fails the test.
func verdict(t testing.TB, path string, b []byte) (refused bool) {
	t.Helper()
	whole, err := prove(b, testPageSize)
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			t.Fatalf("got %v, want ErrDamaged", err)
		}
		return true
	}
	m, _, err := currentMeta(b, testPageSize)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(firstDataPage) { // only bbolt's check looks at these
		binary.LittleEndian.PutUint64(b[i*testPageSize:], i)
		binary.LittleEndian.PutUint16(b[i*testPageSize+8:], flagMeta)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db := mustOpen(t, path)
	if err := db.View(func(tx *bbolt.Tx) error { return readAll(tx, m.transaction) }); err != nil {
		t.Fatalf("taken with %d whole meta pages: %v", whole, err)
	}
	if err := errors.Join(db.Update(touch), db.Update(touch), db.Close()); err != nil {
		t.Fatalf("taken, and cannot be written: %v", err)
	}
	if whole, err := Check(path, testPageSize); whole != 2 || err != nil {
		t.Fatalf("after a write got %d meta pages and %v", whole, err)
	}
	return false
}

func readAll(tx *bbolt.Tx, transaction uint64) error {
	if uint64(tx.ID()) != transaction {
		return errors.New("bbolt uses the other meta page")
	}
	var damage error
	for err := range tx.Check() { // it must be read to its end
		if !strings.HasSuffix(err.Error(), "unreachable unfreed") {
			damage = err
		}
	}
	if damage != nil {
		return damage
	}
	return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return readBucket(b) })
}

func readBucket(b *bbolt.Bucket) error {
	return b.ForEach(func(key, value []byte) error {
		if nested := b.Bucket(key); nested != nil {
			return readBucket(nested)
		}
		return nil
	})
}

// touch rewrites a part of every bucket, and lets it grow.
func touch(tx *bbolt.Tx) error {
	return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error { return touchBucket(b) })
}

func touchBucket(b *bbolt.Bucket) error {
	var keys [][]byte
	err := b.ForEach(func(key, _ []byte) error {
		keys = append(keys, bytes.Clone(key))
		return nil
	})
	for i, key := range keys {
		if nested := b.Bucket(key); nested != nil {
			err = errors.Join(err, touchBucket(nested))
		} else if i%3 == 0 {
			err = errors.Join(err, b.Delete(key))
		}
	}
	return errors.Join(err, b.Put([]byte("a touch"), make([]byte, 600)))
}

// TestCheckFindsFlippedBits flips bits in most bytes of headers and first
// elements, and in some of the others.
func TestCheckFindsFlippedBits(t *testing.T) {
	whole, path := sample(t), testPath(t)
	refused, taken := 0, 0
	for at := range whole {
		structure := at%testPageSize < pageHeader+pageElement && (whole[at] != 0 || at%11 == 0)
		if !structure && at%1009 != 0 {
			continue
		}
		b := bytes.Clone(whole)
		b[at] ^= 1 << (at / 7 % 8)
		if verdict(t, path, b) {
			refused++
		} else {
			taken++
		}
	}
	t.Logf("%d flips were refused, %d are safe", refused, taken)
	if refused < 300 || taken < 300 {
		t.Error("the flips are too much alike")
	}
}

func TestCheckFindsRandomBytes(t *testing.T) {
	whole, path := sample(t), testPath(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		b := bytes.Clone(whole)
		at := random.IntN(len(b))
		for i := range b[at:min(at+1+random.IntN(32), len(b))] {
			b[at+i] = byte(random.Uint32())
		}
		verdict(t, path, b)
	}
}

func TestCheckFindsExchangedPages(t *testing.T) {
	whole, path := sample(t), testPath(t)
	const size = testPageSize
	for i := firstDataPage * size; i < len(whole); i += size {
		for j := firstDataPage * size; j < len(whole); j += 13 * size {
			b := bytes.Clone(whole)
			copy(b[i:i+size], whole[j:j+size])
			// The page claims to be the one that it replaces.
			binary.LittleEndian.PutUint64(b[i:], uint64(i/size))
			verdict(t, path, b)
		}
	}
}

// pointer is where in a file a page is pointed to, and the pages that lead there.
type pointer struct {
	at    int
	above []uint64
}

// pointers lists those below a page of a whole file.
func pointers(file []byte, id uint64, above []uint64) (found []pointer) {
	above = append(slices.Clone(above), id)
	start := int(id) * testPageSize
	pg := decodePage(file[start:])
	for i := range pg.count {
		e, _ := pg.element(i)
		at := start + pageHeader + i*pageElement + 8
		child := e.child
		if pg.flags == flagLeaf {
			if e.flags != elementBucket {
				continue
			}
			at, child = start+e.begin+len(e.key), binary.LittleEndian.Uint64(e.value)
		}
		if child != 0 {
			found = append(found, pointer{at, above})
			found = append(found, pointers(file, child, above)...)
		}
	}
	return found
}

func allPointers(t testing.TB, file []byte) []pointer {
	t.Helper()
	m, _, err := currentMeta(file, testPageSize)
	if err != nil {
		t.Fatal(err)
	}
	return pointers(file, m.root, nil)
}

// TestCheckFindsCircles builds what no single bit does: pointers that go round,
// of which bbolt would never come back.
func TestCheckFindsCircles(t *testing.T) {
	b := sample(t)
	le := binary.LittleEndian
	deepest := 0
	for _, p := range allPointers(t, b) {
		deepest = max(deepest, len(p.above))
		was := le.Uint64(b[p.at:])
		for _, id := range p.above {
			le.PutUint64(b[p.at:], id)
			if _, err := prove(b, testPageSize); !errors.Is(err, ErrDamaged) {
				t.Fatalf("pointer at %d to page %d: got %v, want ErrDamaged", p.at, id, err)
			}
		}
		le.PutUint64(b[p.at:], was)
	}
	if deepest < 6 {
		t.Errorf("the deepest pointer has %d pages above it", deepest)
	}
}

// TestCheckFindsLeavesAtDifferentHeights puts the first page below a branch in
// its place, which nothing but the height of the tree tells.
func TestCheckFindsLeavesAtDifferentHeights(t *testing.T) {
	whole := sample(t)
	const size = testPageSize
	le := binary.LittleEndian
	tried := 0
	for _, p := range allPointers(t, whole) {
		child := int(le.Uint64(whole[p.at:])) * size
		above := int(p.above[len(p.above)-1]) * size
		if decodePage(whole[child:]).flags != flagBranch || decodePage(whole[above:]).flags != flagBranch {
			continue
		}
		b := bytes.Clone(whole)
		first := int(le.Uint64(whole[child+pageHeader+8:])) * size
		copy(b[child+8:child+size], whole[first+8:])
		if _, err := prove(b, size); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "height") {
			t.Errorf("page %d: got %v, want ErrDamaged for its height", child/size, err)
		}
		tried++
	}
	if tried == 0 {
		t.Error("the sample has no branch below a branch")
	}
}

// where finds the leaf element with a key, and hands its place and its value's.
func where(t testing.TB, file []byte, key string) (element, value int) {
	t.Helper()
	for start := firstDataPage * testPageSize; start < len(file); start += testPageSize {
		pg := decodePage(file[start:])
		if pg.flags != flagLeaf || pg.id != uint64(start/testPageSize) {
			continue
		}
		for i := range pg.count {
			if e, ok := pg.element(i); ok && string(e.key) == key {
				return start + pageHeader + i*pageElement, start + e.begin + len(e.key)
			}
		}
	}
	t.Fatalf("no element %q", key)
	return 0, 0
}

func TestCheckFindsCraftedDamage(t *testing.T) {
	small := func(t *testing.T) []byte {
		path := mustWrite(t, nil)
		update(t, path, func(tx *bbolt.Tx) error {
			var w writer
			log := w.bucket(tx, "log")
			for _, key := range []string{"a", "b", "c", "d", "e"} {
				w.put(log, key, 2000) // "a" and "b" have a page of their own
			}
			w.put(w.bucket(tx, "inline"), "d", 10)
			w.put(w.bucket(tx, "inline"), "e", 10)
			return w.err
		})
		return mustRead(t, path)
	}
	le := binary.LittleEndian
	for name, damage := range map[string]func(t *testing.T, b []byte){
		"a value in the root": func(t *testing.T, b []byte) {
			e, _ := where(t, b, "inline")
			le.PutUint32(b[e:], 0)
		},
		"an unknown kind of element": func(t *testing.T, b []byte) {
			e, _ := where(t, b, "log")
			le.PutUint32(b[e:], elementBucket|2)
		},
		"a bucket too short for its header": func(t *testing.T, b []byte) {
			e, _ := where(t, b, "inline")
			le.PutUint32(b[e+12:], bucketHeader-1)
		},
		"an inline bucket too short for a page": func(t *testing.T, b []byte) {
			e, _ := where(t, b, "inline")
			le.PutUint32(b[e+12:], bucketHeader+pageHeader-1)
		},
		"an inline bucket that is a page": func(t *testing.T, b []byte) {
			_, v := where(t, b, "inline")
			le.PutUint64(b[v+bucketHeader:], 3)
		},
		"an inline bucket that is a branch": func(t *testing.T, b []byte) {
			_, v := where(t, b, "inline")
			le.PutUint16(b[v+bucketHeader+8:], flagBranch)
		},
		"a bucket in an inline bucket": func(t *testing.T, b []byte) {
			_, v := where(t, b, "inline")
			le.PutUint32(b[v+bucketHeader+pageHeader:], elementBucket)
		},
		"overlapping elements": func(t *testing.T, b []byte) {
			_, v := where(t, b, "inline")
			at := v + bucketHeader + pageHeader
			le.PutUint32(b[at+12:], 11) // up to the first byte of the next key
		},
		"pages beyond the file": func(t *testing.T, b []byte) {
			changeMeta(t, b, 40, uint64(len(b)/testPageSize+1))
		},
		"the keys of the next page": func(t *testing.T, b []byte) {
			_, v := where(t, b, "b") // the last key of its page
			b[v-1] = 'd'
		},
		"no freelist": func(t *testing.T, b []byte) {
			changeMeta(t, b, 32, ^uint64(0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := small(t)
			if _, err := prove(b, testPageSize); err != nil {
				t.Fatalf("before: %v", err)
			}
			damage(t, b)
			_, err := prove(b, testPageSize)
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("got %v, want ErrDamaged", err)
			}
			t.Log(err)
		})
	}
}

// changeMeta changes a field of the meta page that is used, which stays whole.
func changeMeta(t testing.TB, b []byte, field int, value uint64) {
	t.Helper()
	m, _, err := currentMeta(b, testPageSize)
	if err != nil {
		t.Fatal(err)
	}
	at := b[int(m.transaction%2)*testPageSize+pageHeader:]
	binary.LittleEndian.PutUint64(at[field:], value)
	sum := fnv.New64a()
	sum.Write(at[:metaChecksum])
	binary.LittleEndian.PutUint64(at[metaChecksum:], sum.Sum64())
}

func FuzzCheck(f *testing.F) {
	whole := sample(f)
	f.Add(uint32(3*testPageSize+10), []byte{0xff})
	f.Add(uint32(4*testPageSize), []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		path := testPath(t)
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], patch)
		verdict(t, path, b)
	})
}
