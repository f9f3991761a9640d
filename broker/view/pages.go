package view

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// What a bbolt file of version 2 looks like (all numbers in the machine's order,
// which is little endian wherever this runs):
//
//	page:     id uint64, flags uint16, count uint16, overflow uint32, then count elements
//	branch:   position uint32 (from the element), key size uint32, page uint64
//	leaf:     flags uint32, position uint32, key size uint32, value size uint32
//	bucket:   root page uint64, sequence uint64; root 0: the page follows inline
//	meta:     magic, version, page size, flags uint32, root bucket, freelist uint64,
//	          pages uint64, transaction uint64, FNV-1a 64 of all before
//	freelist: uint64 each; a count of 0xFFFF says that the first one is the count
const (
	pageHeader    = 16
	pageElement   = 16
	bucketHeader  = 16
	metaBytes     = 64
	metaChecksum  = 56
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	flagBranch    = 0x01
	flagLeaf      = 0x02
	flagFreelist  = 0x10
	elementBucket = 1
	manyFree      = 0xFFFF
	firstDataPage = 2
)

// checkFile proves the structure of the file under a shared lock. Opened for
// reading only, bbolt looks at nothing but its two meta pages.
func checkFile(path string) error {
	o := options()
	o.ReadOnly = true
	bolt, err := bbolt.Open(path, 0, o)
	if err != nil {
		return boltError(err)
	}
	size := bolt.Info().PageSize
	file, err := os.Open(path)
	if err != nil {
		return errors.Join(err, bolt.Close())
	}
	err = checkPages(file, size)
	return errors.Join(err, file.Close(), bolt.Close())
}

// pages walks the pages of a bbolt file without trusting any of them.
type pages struct {
	file io.ReaderAt
	size int    // of a page, in bytes
	used []bool // by page
}

// checkPages proves that following any pointer of the current transaction stays
// within the file, that no page is used twice or used and free, and that keys are
// in order. Whether keys and values are right is left to their checksums.
func checkPages(file io.ReaderAt, size int) error {
	m, err := currentMeta(file, size)
	if err != nil {
		return err
	}
	var last [1]byte
	if _, err := file.ReadAt(last[:], int64(m.pages)*int64(size)-1); err != nil {
		return fmt.Errorf("%w: the file ends before its page %d: %w", ErrDamaged, m.pages-1, err)
	}
	p := &pages{file: file, size: size, used: make([]bool, m.pages)}
	if err := p.walk(m.root, nil, p.bucket); err != nil {
		return err
	}
	return p.freelist(m.freelist)
}

type meta struct{ root, freelist, pages, transaction uint64 }

// maxPages bounds what is allocated for a count that a checksum vouches for: 16
// TiB in pages of 4 KiB.
const maxPages = 1 << 32

// currentMeta is the meta page that bbolt uses: the later one of those that are
// whole.
func currentMeta(file io.ReaderAt, size int) (meta, error) {
	var best meta
	for i := range firstDataPage {
		b := make([]byte, pageHeader+metaBytes)
		if _, err := file.ReadAt(b, int64(i*size)); err != nil {
			return meta{}, fmt.Errorf("%w: meta page %d: %w", ErrDamaged, i, err)
		}
		if m, ok := decodeMeta(b[pageHeader:], size); ok && m.transaction >= best.transaction {
			best = m
		}
	}
	if best.pages < firstDataPage || best.pages > maxPages {
		return meta{}, fmt.Errorf("%w: no meta page that makes sense", ErrDamaged)
	}
	return best, nil
}

func decodeMeta(b []byte, size int) (meta, bool) {
	le := binary.LittleEndian
	sum := fnv.New64a()
	sum.Write(b[:metaChecksum])
	ok := le.Uint32(b) == boltMagic && le.Uint32(b[4:]) == boltVersion &&
		le.Uint32(b[8:]) == uint32(size) && le.Uint64(b[metaChecksum:]) == sum.Sum64()
	return meta{root: le.Uint64(b[16:]), freelist: le.Uint64(b[32:]), pages: le.Uint64(b[40:]), transaction: le.Uint64(b[48:])}, ok
}

// page is a page with its overflow.
type page struct {
	id    uint64
	flags uint16
	count int
	b     []byte
}

// take reads a page and marks it, with its overflow, as used.
func (p *pages) take(id uint64) (page, error) {
	if id < firstDataPage || id >= uint64(len(p.used)) {
		return page{}, fmt.Errorf("%w: pointer to page %d of %d", ErrDamaged, id, len(p.used))
	}
	header := make([]byte, pageHeader)
	if _, err := p.file.ReadAt(header, int64(id)*int64(p.size)); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	le := binary.LittleEndian
	if own := le.Uint64(header); own != id {
		return page{}, fmt.Errorf("%w: page %d says that it is %d", ErrDamaged, id, own)
	}
	end := id + 1 + uint64(le.Uint32(header[12:]))
	if end > uint64(len(p.used)) {
		return page{}, fmt.Errorf("%w: page %d reaches to %d of %d", ErrDamaged, id, end, len(p.used))
	}
	for i := id; i < end; i++ {
		if p.used[i] {
			return page{}, fmt.Errorf("%w: page %d is used twice", ErrDamaged, i)
		}
		p.used[i] = true
	}
	b := make([]byte, int(end-id)*p.size)
	if _, err := p.file.ReadAt(b, int64(id)*int64(p.size)); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	return page{id: id, flags: le.Uint16(header[8:]), count: int(le.Uint16(header[10:])), b: b}, nil
}

// walk proves the tree below a page and calls leaf, if there is one, for each
// element of a leaf. first is what the branch above says that the page's first
// key is, nil at the root. It must be so: when bbolt writes it looks for a page
// in its branch by that key, and another one there would leave a pointer to a
// page that is freed.
func (p *pages) walk(id uint64, first []byte, leaf func(element) error) error {
	pg, err := p.take(id)
	if err != nil {
		return err
	}
	elements, err := pg.elements()
	if err != nil {
		return err
	}
	if first != nil && (len(elements) == 0 || !bytes.Equal(elements[0].key, first)) {
		return fmt.Errorf("%w: page %d does not begin with key %x", ErrDamaged, id, first)
	}
	for _, e := range elements {
		switch {
		case pg.flags == flagBranch:
			err = p.walk(e.child, e.key, leaf)
		case leaf != nil:
			err = leaf(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket proves an element of the root: all of them are buckets.
func (p *pages) bucket(e element) error {
	if e.flags != elementBucket || len(e.value) < bucketHeader {
		return fmt.Errorf("%w: %q is not a bucket", ErrDamaged, e.key)
	}
	if root := binary.LittleEndian.Uint64(e.value); root != 0 {
		return p.walk(root, nil, nil)
	}
	b := e.value[bucketHeader:]
	if len(b) < pageHeader {
		return fmt.Errorf("%w: bucket %q has %d bytes", ErrDamaged, e.key, len(b))
	}
	inline := page{flags: binary.LittleEndian.Uint16(b[8:]), count: int(binary.LittleEndian.Uint16(b[10:])), b: b}
	if inline.flags != flagLeaf {
		return fmt.Errorf("%w: bucket %q has flags %#x", ErrDamaged, e.key, inline.flags)
	}
	if _, err := inline.elements(); err != nil {
		return fmt.Errorf("bucket %q: %w", e.key, err)
	}
	return nil
}

// element is one of a branch (child) or of a leaf (flags and value).
type element struct {
	key, value []byte
	flags      uint32
	child      uint64
}

// elements decodes those of a branch or a leaf and proves their order.
func (pg *page) elements() ([]element, error) {
	if pg.flags != flagLeaf && (pg.flags != flagBranch || pg.count == 0) {
		return nil, fmt.Errorf("%w: page %d has flags %#x and %d elements", ErrDamaged, pg.id, pg.flags, pg.count)
	}
	elements := make([]element, pg.count)
	var before []byte // no key is empty
	for i := range elements {
		e, ok := pg.element(i)
		if !ok || bytes.Compare(e.key, before) <= 0 {
			return nil, fmt.Errorf("%w: element %d of page %d reaches out of it, or is out of order", ErrDamaged, i, pg.id)
		}
		elements[i], before = e, e.key
	}
	return elements, nil
}

func (pg *page) element(i int) (element, bool) {
	at := pageHeader + i*pageElement
	if at+pageElement > len(pg.b) {
		return element{}, false
	}
	b := pg.b[at:]
	le := binary.LittleEndian
	var e element
	var position, keySize, valueSize uint64
	if pg.flags == flagBranch {
		position, keySize = uint64(le.Uint32(b)), uint64(le.Uint32(b[4:]))
		e.child = le.Uint64(b[8:])
	} else {
		e.flags = le.Uint32(b)
		position, keySize, valueSize = uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	}
	if position+keySize+valueSize > uint64(len(b)) {
		return element{}, false
	}
	e.key = b[position : position+keySize]
	e.value = b[position+keySize : position+keySize+valueSize]
	return e, true
}

// freelist proves that no free page is in use, and none is free twice.
func (p *pages) freelist(id uint64) error {
	pg, err := p.take(id)
	if err != nil {
		return err
	}
	free := pg.b[pageHeader:]
	count := uint64(pg.count)
	if count == manyFree {
		count = binary.LittleEndian.Uint64(free)
		free = free[8:]
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
