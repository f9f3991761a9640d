package store

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rmqio/rmq/broker/pages"
)

// commits drives a segment's file commit by commit.
type commits struct {
	t      testing.TB
	s      *segment
	random *rand.Rand
	next   uint64
	chain  uint32
}

// newCommits makes a segment of a file in which lies what another one left.
func newCommits(t testing.TB) *commits {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := &commits{t: t, random: rand.New(rand.NewPCG(seed, 0)), next: 1000, chain: 7}
	const capacity = 512 << 10 // more than the commits of a test
	dir := t.TempDir()
	prepared, old := filepath.Join(dir, preparedName), filepath.Join(dir, recycledName)
	for i := range 2 {
		if i == 1 { // the file of the first becomes the second
			c.close()
			if err := os.Rename(c.s.path, old); err != nil {
				t.Fatal(err)
			}
		}
		if err := prepareFile(prepared, old, capacity, atOnce); err != nil {
			t.Fatal(err)
		}
		s, err := activate(dir, prepared, "a store", segmentInfo{First: c.next, Capacity: capacity, Chain: c.chain})
		if err != nil {
			t.Fatal(err)
		}
		c.s = s
		for i == 0 && c.s.fits(20<<10) {
			c.commit()
		}
	}
	t.Cleanup(c.close)
	return c
}

func (c *commits) close() {
	if err := c.s.close(); err != nil {
		c.t.Fatal(err)
	}
}

// chunk is one that follows: small ones are kept in the log's own pages.
func (c *commits) chunk(next uint64, chain uint32) *chunk {
	size := 1 + c.random.IntN([]int{40, 2000, 16 << 10}[c.random.IntN(3)])
	p := &pending{Committed: Committed{Record: Record{Type: GroupRecord, Data: make([]byte, size)}, Index: next}}
	for i := range p.Data {
		p.Data[i] = byte(c.random.Uint32())
	}
	return encodeChunk([]*pending{p}, chain, func(n int) []byte { return make([]byte, 0, n) })
}

func (c *commits) commit() {
	c.t.Helper()
	ch := c.chunk(c.next, c.chain)
	if err := c.s.commit(ch); err != nil {
		c.t.Fatal(err)
	}
	c.next, c.chain = ch.next(), ch.crc
}

func (c *commits) confirm() {
	c.t.Helper()
	if err := c.s.confirm(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *commits) file() []byte {
	c.t.Helper()
	b, err := os.ReadFile(c.s.path)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// found is a segment with a file of these bytes.
func (c *commits) found(file []byte) *segment {
	c.t.Helper()
	s := &segment{path: filepath.Join(c.t.TempDir(), "found.seg"), storeID: c.s.storeID, info: c.s.info}
	if err := os.WriteFile(s.path, file, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// stale yields, for each of the pages, a segment in whose file that page alone is as it
// was before.
func (c *commits) stale(file, before []byte, at []int) iter.Seq2[int, *segment] {
	return func(yield func(int, *segment) bool) {
		for _, at := range at {
			changed := bytes.Clone(file)
			copy(changed[at:at+pageSize], before[at:at+pageSize])
			if !yield(at, c.found(changed)) {
				return
			}
		}
	}
}

// changed lists the parts of a size that differ.
func changed(before, after []byte, size int) (at []int) {
	for i := 0; i < len(after); i += size {
		if !bytes.Equal(before[i:i+size], after[i:i+size]) {
			at = append(at, i)
		}
	}
	return at
}

// TestRecover_AnyPartOfACommit has a crash leave any part of a commit's pages, and
// of its sectors, on the disk: what was before it is there, the commit as a whole
// or not at all, and the next commits do no harm.
func TestRecover_AnyPartOfACommit(t *testing.T) {
	c := newCommits(t)
	takenBack, whole, tried := 0, 0, 0
	for range 24 {
		if c.random.IntN(3) == 0 {
			c.confirm()
		}
		before, first := c.file(), c.next
		c.commit()
		after := c.file()
		try := func(parts []int, size int, has func(i int) bool) {
			t.Helper()
			file := bytes.Clone(before)
			for i, at := range parts {
				if has(i) {
					copy(file[at:at+size], after[at:at+size])
				}
			}
			next, cut := c.afterCrash(file, first)
			switch tried++; {
			case cut != nil:
				takenBack++
			case next > first:
				whole++
			}
			if next == first && bytes.Equal(file, after) {
				t.Fatal("a whole commit was taken back")
			}
		}
		wholePages, sectors := changed(before, after, pageSize), changed(before, after, 512)
		for subset := range 1 << min(len(wholePages), 6) { // all of them for small commits
			try(wholePages, pageSize, func(i int) bool { return i >= 6 || subset>>i&1 == 1 })
		}
		for range 40 {
			most := c.random.IntN(2) == 0
			try(sectors, 512, func(int) bool { return c.random.IntN(8) == 0 != most })
		}
	}
	t.Logf("of %d crashes %d commits were taken back, %d whole", tried, takenBack, whole)
	if takenBack < 100 || whole < 24 {
		t.Error("the crashes are too much alike")
	}
}

// afterCrash recovers a segment with records below atLeast, commits two chunks more
// and reads all of it.
func (c *commits) afterCrash(file []byte, atLeast uint64) (next uint64, cut error) {
	c.t.Helper()
	s := c.found(file)
	cut, err := s.recover(atLeast)
	if err != nil {
		c.t.Fatal(err)
	}
	next, chain, err := s.read(pages.Newest, nothing)
	if err != nil || next < atLeast || next > c.next {
		c.t.Fatalf("records end at %d, want %d or %d: %v", next-1, atLeast-1, c.next-1, err)
	}
	if err := s.openWritable(); err != nil {
		c.t.Fatal(err)
	}
	end := next
	for range 2 {
		ch := c.chunk(end, chain)
		if err := s.commit(ch); err != nil {
			c.t.Fatal(err)
		}
		end, chain = ch.next(), ch.crc
		if got, _, err := s.read(pages.Newest, nothing); got != end || err != nil {
			c.t.Fatalf("after another commit records end at %d, want %d: %v", got-1, end-1, err)
		}
	}
	if err := errors.Join(s.close(), os.Remove(s.path)); err != nil {
		c.t.Fatal(err)
	}
	return next, cut
}

// TestRecover_ConfirmedCommit: of a commit that was confirmed no page can be missing
// unnoticed.
func TestRecover_ConfirmedCommit(t *testing.T) {
	c := newCommits(t)
	found := 0
	for range 24 {
		before := c.file()
		c.commit()
		after := c.file()
		c.confirm()
		confirmed := c.file()
		for at, s := range c.stale(confirmed, before, changed(before, after, pageSize)) {
			_, err := s.recover(0)
			switch {
			case errors.Is(err, ErrDamaged):
				found++
				continue
			case err != nil:
				t.Fatal(err)
			}
			if next, _, err := s.read(pages.Newest, nothing); next != c.next || err != nil {
				t.Fatalf("page %d as it was: records end at %d, want %d: %v", at/pageSize, next-1, c.next-1, err)
			}
		}
	}
	t.Logf("%d found", found)
	if found < 24 {
		t.Error("no page of a commit is missed")
	}
}

// flip damages what is in a file of the first message with this body.
func flip(t testing.TB, path, body string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, []byte(body))] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// unconfirmed is a log whose last commit, of the last message of queue 0, is not
// confirmed and not whole, and how many messages came before that.
func unconfirmed(t testing.TB) (dir string, n int, damaged string) {
	t.Helper()
	dir, n = t.TempDir(), 30
	l := mustOpen(t, dir, small())
	for i := range n {
		mustAppend(t, l, messages(0, i, 1, 6000))
	}
	segments := l.catalog.segments()
	s := &segment{path: segments[len(segments)-1].path, storeID: l.manifest.storeID(), info: segments[len(segments)-1].info}
	mustClose(t, l)
	next, chain, err := s.read(pages.Newest, nothing)
	if err != nil {
		t.Fatal(err)
	}
	r := messages(0, n, 1, 6000)
	p := &pending{Committed: Committed{Record: r, Index: next, BaseOffset: int64(n)}}
	c := encodeChunk([]*pending{p}, chain, func(n int) []byte { return make([]byte, 0, n) })
	if err := errors.Join(s.openWritable(), s.commit(c), s.close()); err != nil {
		t.Fatal(err)
	}
	flip(t, s.path, "q0-30 ")
	return dir, n, s.path
}

// TestOpen_TakesBackACommitCutShort: Verify says so and changes nothing, Open does
// it and goes on.
func TestOpen_TakesBackACommitCutShort(t *testing.T) {
	dir, n, path := unconfirmed(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reports := verifyDir(t, dir)
	for i, r := range reports {
		if cut := i == len(reports)-1; r.Err != nil || (r.Cut != nil) != cut {
			t.Errorf("%s: %+v", r.Path, r)
		}
	}
	if after, err := os.ReadFile(path); !bytes.Equal(before, after) || err != nil {
		t.Errorf("Verify changed the file: %v", err)
	}
	l := mustOpen(t, dir, small())
	wantQueue(t, l, 0, 0, int64(n))
	mustAppend(t, l, messages(0, n, 1, 6000))
	wantQueue(t, l, 0, 0, int64(n)+1)
	mustClose(t, l)
	for _, r := range verifyDir(t, dir) {
		if r.Err != nil || r.Cut != nil {
			t.Errorf("%s: %v, %v", r.Path, r.Err, r.Cut)
		}
	}
}

// TestOpen_CommitThatTheViewsHave was whole once: it is damaged, and not taken back.
func TestOpen_CommitThatTheViewsHave(t *testing.T) {
	dir, n, path := unconfirmed(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := small()
	o.Position = uint64(n) + 1
	l := mustOpen(t, dir, o)
	if _, err := appendWait(t, l, messages(0, n, 1, 100)); !errors.Is(err, ErrDamaged) {
		t.Errorf("append: got %v, want ErrDamaged", err)
	}
	mustClose(t, l)
	if after, err := os.ReadFile(path); !bytes.Equal(before, after) || err != nil {
		t.Errorf("the file was changed: %v", err)
	}
}

// TestLog_ConfirmsWhenIdle: when nothing comes any more, the last commit is damage
// if it is not whole.
func TestLog_ConfirmsWhenIdle(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	mustAppend(t, l, messages(0, 0, 1, 6000))
	var copied string
	eventually(t, func() bool {
		copied = copyDir(t, dir) // as a kill would leave it
		flip(t, filepath.Join(copied, filepath.Base(l.catalog.segments()[0].path)), "q0-0 ")
		reports := verifyDir(t, copied)
		return slices.ContainsFunc(reports, func(r SegmentReport) bool {
			return r.Err != nil && strings.Contains(r.Err.Error(), "checksum")
		})
	})
	if l, err := Open(copied, small()); err != nil || !errors.Is(l.Status().Refusing, ErrDamaged) {
		t.Errorf("the log opened as if nothing had been lost: %v", err)
	} else {
		mustClose(t, l)
	}
}

// flipInCopy copies a log that is open, damages what is there of a message, and opens
// the copy: the message must be missed.
func flipInCopy(t *testing.T, l *Log, body string) {
	t.Helper()
	copied := copyDir(t, l.dir)
	segments := l.catalog.segments()
	flip(t, filepath.Join(copied, filepath.Base(segments[len(segments)-1].path)), body)
	opened := mustOpen(t, copied, small())
	if !errors.Is(opened.Status().Refusing, ErrDamaged) {
		t.Errorf("the log ends at %d as if nothing had been lost", opened.Status().LastIndex)
	}
	mustClose(t, opened)
}

// transaction is the number of a file's last one; 0 when it cannot be read now.
func transaction(path string) (n uint64) {
	_ = pages.Read(path, pageSize, pages.Newest, func(_ pages.Bucket, tx uint64) error { n = tx; return nil })
	return n
}

// TestLog_ConfirmsAfterAFailure: a confirmation that fails is made up for.
func TestLog_ConfirmsAfterAFailure(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	s := l.catalog.segments()[0]
	first := transaction(s.path)
	eventually(t, func() bool { return transaction(s.path) > first }) // nothing is left to be confirmed
	committed := transaction(s.path) + 1
	mustAppend(t, l, messages(0, 0, 1, 6000))
	s.mu.Lock()
	err := s.db.file.Close() // before the confirmation, unless the machine is very slow
	s.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return transaction(s.path) > committed })
	flipInCopy(t, l, "q0-0 ")
}

// TestLog_ConfirmsWhenThereIsNoRoom: while the disk is full the last commit is
// confirmed, however long that takes.
func TestLog_ConfirmsWhenThereIsNoRoom(t *testing.T) {
	o := small()
	var free atomic.Int64
	free.Store(math.MaxInt64)
	o.DiskUse = func(string) (int, int64, error) { return 0, free.Load(), nil }
	l := mustOpen(t, t.TempDir(), o)
	free.Store(1000)
	n := 0
	for ; l.Status().Refusing == nil; n++ {
		if _, err := appendWait(t, l, messages(0, n, 1, 6000)); err != nil {
			break
		}
	}
	if err := l.Status().Refusing; !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v, want ErrNoSpace", err)
	}
	flipInCopy(t, l, fmt.Sprintf("q0-%d ", n-1))
	free.Store(math.MaxInt64)
}

// TestVerify_MissesNoPage: a page that is as it was before a confirmed commit is found
// by Verify if it is found at a start.
func TestVerify_MissesNoPage(t *testing.T) {
	c := newCommits(t)
	found := 0
	for range 16 {
		before := c.file()
		c.commit()
		c.confirm()
		after := c.file()
		for at, s := range c.stale(after, before, changed(before, after, pageSize)) {
			_, _, err := s.read(pages.Newest, nothing)
			if err == nil {
				continue
			}
			dir := t.TempDir()
			m := manifest{Version: formatVersion, StoreID: s.storeID, Segments: []segmentInfo{s.info}}
			if err := errors.Join(m.write(dir), os.Rename(s.path, filepath.Join(dir, s.info.name()))); err != nil {
				t.Fatal(err)
			}
			r := verifyDir(t, dir)[0]
			if found++; r.Err == nil && r.Cut == nil {
				t.Errorf("page %d: nothing was found, a start finds %v", at/pageSize, err)
			}
		}
	}
	if found < 16 {
		t.Errorf("%d pages were missed", found)
	}
}

// TestVerify_SegmentThatIsNotSealedYet, since a crash came first, is sound, and so is
// the one behind it.
func TestVerify_SegmentThatIsNotSealedYet(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	for i := range 60 {
		mustAppend(t, l, messages(0, i, 1, 6000))
	}
	mustClose(t, l)
	m, err := readManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &m.Segments[len(m.Segments)-2]
	*s = segmentInfo{First: s.First, Capacity: s.Capacity, Chain: s.Chain}
	if err := m.write(dir); err != nil {
		t.Fatal(err)
	}
	for _, r := range verifyDir(t, dir) {
		if r.Err != nil || r.Cut != nil {
			t.Errorf("%s: %v, %v", r.Path, r.Err, r.Cut)
		}
	}
}
