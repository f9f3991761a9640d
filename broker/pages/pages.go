// Package pages proves the structure of a bbolt file before bbolt follows its
// pointers. bbolt trusts what it reads: a damaged pointer or count can send it
// round in a circle for ever, fault the process from a goroutine of its own, or
// let it overwrite live pages at the next commit.
//
// The package owns nothing. It reads the one file that it is given, through a
// memory map, so that it costs what the structure costs: page headers, tables of
// elements, keys and buckets. It does not look at the values of keys, whose
// rightness their owners' checksums prove, never writes, and never locks.
package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
)

// ErrDamaged is returned by Check for a file that is not a whole bbolt file. The
// text says what is wrong with which page, and does not name the file.
var ErrDamaged = errors.New("bad page structure")

// Check proves that following any pointer of the file's current transaction, the
// one that bbolt would open, stays within the file, that no page is used twice,
// free twice, or used and free, and that keys are in order. All that the root
// holds must be buckets. A page that is neither used nor free is only lost space,
// of which bbolt itself makes some. wholeMetas is how many of the two meta pages
// are whole: bbolt uses the later one, so that with one left the file may stand
// where it stood a transaction earlier. pageSize is that of the file, in bytes.
//
// What is wrong with the file is ErrDamaged, a part that cannot be read among
// it. Other errors are those of opening it and say nothing about what is in it.
// Nobody must write to the file meanwhile.
func Check(path string, pageSize int) (wholeMetas int, err error) {
	err = withFile(path, pageSize, func(b []byte) (err error) {
		wholeMetas, err = prove(b, pageSize)
		return err
	})
	return wholeMetas, err
}

// withFile hands the bytes of a file to fn; a part that cannot be read is damage.
func withFile(path string, pageSize int, fn func([]byte) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || pageSize < pageHeader+metaBytes || info.Size() < int64(firstDataPage*pageSize) {
		return fmt.Errorf("%w: %d bytes cannot be two meta pages of %d", ErrDamaged, info.Size(), pageSize)
	}
	b, err := syscall.Mmap(int(file.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", path, err)
	}
	return errors.Join(guard(func() error { return fn(b) }), syscall.Munmap(b))
}

// guard turns a fault in the memory map into an error: the file was cut after
// its size was asked for, or the disk cannot read it.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return fn()
}

// prove does what Check says.
func prove(file []byte, pageSize int) (wholeMetas int, err error) {
	m, whole, err := currentMeta(file, pageSize)
	if err != nil {
		return whole, err
	}
	return whole, proveState(file, pageSize, &m)
}

// proveState proves what a meta page leads to.
func proveState(file []byte, pageSize int, m *meta) error {
	p := &proof{file: file, size: uint64(pageSize), used: make([]bool, m.pages)}
	if _, err := p.tree(m.root, span{}, true); err != nil {
		return err
	}
	return p.freelist(m.freelist)
}

// proof walks the pages of a file without trusting any of them.
type proof struct {
	file []byte
	size uint64 // of a page, in bytes
	used []bool // by page: it was met
}

// take returns a page and marks it, with its overflow, as used.
func (p *proof) take(id uint64) (page, error) {
	count := uint64(len(p.used))
	if id < firstDataPage || id >= count {
		return page{}, fmt.Errorf("%w: pointer to page %d of %d", ErrDamaged, id, count)
	}
	pg := decodePage(p.file[id*p.size : (id+1)*p.size])
	if pg.id != id {
		return page{}, fmt.Errorf("%w: page %d says that it is %d", ErrDamaged, id, pg.id)
	}
	end := id + 1 + pg.overflow
	if end > count {
		return page{}, fmt.Errorf("%w: page %d reaches to %d of %d", ErrDamaged, id, end, count)
	}
	for i := id; i < end; i++ {
		if p.used[i] {
			return page{}, fmt.Errorf("%w: page %d is used twice", ErrDamaged, i)
		}
		p.used[i] = true
	}
	pg.b = p.file[id*p.size : end*p.size]
	return pg, nil
}

// tree proves the pages from one down, and the buckets that are in them. It ends
// whatever the pointers are, because no page is taken twice. All leaves must be
// at the same height: bbolt merges pages that stand side by side, and makes
// pointers of keys when one is a leaf and the other a branch. At the top all
// elements are buckets.
func (p *proof) tree(id uint64, s span, top bool) (height int, err error) {
	pg, err := p.take(id)
	if err != nil {
		return 0, err
	}
	if err := pg.check(s); err != nil {
		return 0, err
	}
	if pg.flags == flagLeaf {
		return 0, p.leaf(&pg, top)
	}
	for i := range pg.count {
		e, _ := pg.element(i)
		h, err := p.tree(e.child, pg.below(i, s), top)
		if err != nil {
			return 0, err
		}
		if i > 0 && h != height {
			return 0, fmt.Errorf("%w: below page %d, page %d has height %d, those before it have %d", ErrDamaged, id, e.child, h, height)
		}
		height = h
	}
	return height + 1, nil
}

// leaf proves the elements of a leaf: buckets with all that is in them, and
// values, which it does not look at.
func (p *proof) leaf(pg *page, top bool) error {
	for i := range pg.count {
		e, _ := pg.element(i)
		if e.flags == 0 && !top {
			continue
		}
		if err := p.bucket(e); err != nil {
			return err
		}
	}
	return nil
}

func (p *proof) bucket(e element) error {
	if e.flags != elementBucket || len(e.value) < bucketHeader {
		return fmt.Errorf("%w: %.32q is no bucket", ErrDamaged, e.key)
	}
	if root := binary.LittleEndian.Uint64(e.value); root != 0 {
		_, err := p.tree(root, span{}, false)
		return err
	}
	if err := inline(e.value[bucketHeader:]); err != nil {
		return fmt.Errorf("bucket %.32q: %w", e.key, err)
	}
	return nil
}

// inline proves a bucket that is within its element. bbolt frees the page that
// it says it is when it grows out of the element, so that it must be none.
func inline(b []byte) error {
	if len(b) < pageHeader {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	pg := decodePage(b)
	if pg.id != 0 || pg.overflow != 0 || pg.flags != flagLeaf {
		return fmt.Errorf("%w: says that it is page %d with flags %#x and overflow %d", ErrDamaged, pg.id, pg.flags, pg.overflow)
	}
	if err := pg.check(span{}); err != nil {
		return err
	}
	for i := range pg.count {
		if e, _ := pg.element(i); e.flags != 0 {
			return fmt.Errorf("%w: %.32q within it has flags %#x", ErrDamaged, e.key, e.flags)
		}
	}
	return nil
}

// freelist proves that no free page is in use, and none is free twice.
func (p *proof) freelist(id uint64) error {
	pg, err := p.take(id)
	if err != nil {
		return err
	}
	free, count := pg.b[pageHeader:], uint64(pg.count)
	if count == manyFree {
		count, free = binary.LittleEndian.Uint64(free), free[8:]
	}
	if pg.flags != flagFreelist || count > uint64(len(free)/8) {
		return fmt.Errorf("%w: page %d has flags %#x and %d free pages", ErrDamaged, id, pg.flags, count)
	}
	for i := range count {
		page := binary.LittleEndian.Uint64(free[8*i:])
		if page < firstDataPage || page >= uint64(len(p.used)) || p.used[page] {
			return fmt.Errorf("%w: page %d is free and in use, or is not there", ErrDamaged, page)
		}
		p.used[page] = true
	}
	return nil
}
