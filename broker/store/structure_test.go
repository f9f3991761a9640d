package store

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestLog_RandomBytesAreFoundOrHarmless overwrites some bytes in a row in the
// first 64 KiB of a segment, where its structure is.
func TestLog_RandomBytesAreFoundOrHarmless(t *testing.T) {
	dir, ends := manyPages(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, name := range sealedAndUnsealed(t, dir) {
		found := 0
		for range 250 {
			at, n := random.IntN(64<<10), 2+random.IntN(62)
			if err := change(t, dir, ends, name, func(b []byte) []byte {
				for i := range n {
					b[at+i] = byte(random.Uint32())
				}
				return b
			}); err != nil {
				found++
			}
		}
		t.Logf("%s: %d of 250 changes found", name, found)
		if found == 0 {
			t.Errorf("no change of %s was found", name)
		}
	}
}

// manyPages is a sample with branch pages in the log's bucket, and chunks both
// in its pages and in their own.
func manyPages(t testing.TB) (dir string, ends [3]int64) {
	t.Helper()
	return sampleOf(t, 240, func(i int) int {
		if i%5 == 0 {
			return 1500
		}
		return 24
	})
}

func sealedAndUnsealed(t testing.TB, dir string) []string {
	t.Helper()
	m, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, last := m.Segments[0], m.Segments[len(m.Segments)-1]
	if !first.Sealed || last.Sealed {
		t.Fatalf("got segments %+v, want the first one sealed and the last one not", m.Segments)
	}
	return []string{first.name(), last.name()}
}

// TestLog_CircleIsFound makes each pointer of a segment, of a branch or of a
// bucket, lead to each of the pages that lead to it. bbolt would follow it for
// ever. The root page of the active segment was written by what confirms the last
// commit, and is the only one that the state before does not share: that one is
// gone back to, and has all that was acknowledged.
func TestLog_CircleIsFound(t *testing.T) {
	dir, ends := manyPages(t)
	names := sealedAndUnsealed(t, dir)
	first := names[0]
	for _, name := range names {
		whole, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		branches, buckets := 0, 0
		for _, p := range pagePointers(whole, currentRoot(whole), nil) {
			if p.branch {
				branches++
			} else {
				buckets++
			}
			for _, page := range p.above {
				if err := change(t, dir, ends, name, func(b []byte) []byte {
					binary.LittleEndian.PutUint64(b[p.at:], page)
					return b
				}); err == nil && (first == name || len(p.above) > 1) {
					t.Errorf("%s: a pointer at %d to page %d: not found", name, p.at, page)
				}
			}
		}
		t.Logf("%s: %d pointers of branches, %d of buckets", name, branches, buckets)
		if branches < 2 || buckets < 3 {
			t.Errorf("%s has too few pointers", name)
		}
	}
}

// pagePointer is where in a bbolt file a page is pointed to, and the pages that
// lead there.
type pagePointer struct {
	at     int
	branch bool // not a bucket
	above  []uint64
}

// pagePointers lists those of a whole file from a page down; package pages says
// what such a file looks like.
func pagePointers(file []byte, id uint64, above []uint64) (found []pagePointer) {
	const header, element, branch, bucket = 16, 16, 1, 1
	le := binary.LittleEndian
	above = append(slices.Clone(above), id)
	start := int(id) * pageSize
	for i := range int(le.Uint16(file[start+10:])) {
		e := start + header + i*element
		p := pagePointer{at: e + 8, branch: le.Uint16(file[start+8:]) == branch, above: above}
		if !p.branch {
			if le.Uint32(file[e:]) != bucket {
				continue
			}
			p.at = e + int(le.Uint32(file[e+4:])+le.Uint32(file[e+8:]))
		}
		if child := le.Uint64(file[p.at:]); child != 0 { // 0: an inline bucket
			found = append(append(found, p), pagePointers(file, child, above)...)
		}
	}
	return found
}

// currentRoot is the root page of the later meta page.
func currentRoot(file []byte) uint64 {
	const root, transaction = 16 + 16, 16 + 48
	le := binary.LittleEndian
	first, second := file, file[pageSize:]
	if le.Uint64(first[transaction:]) > le.Uint64(second[transaction:]) {
		return le.Uint64(first[root:])
	}
	return le.Uint64(second[root:])
}
