package pages

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
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
	pageHeader      = 16
	pageElement     = 16
	bucketHeader    = 16
	metaBytes       = 64
	metaTransaction = 48
	metaChecksum    = 56
	boltMagic       = 0xED0CDAED
	boltVersion     = 2
	flagBranch      = 0x01
	flagLeaf        = 0x02
	flagFreelist    = 0x10
	elementBucket   = 1
	manyFree        = 0xFFFF
	firstDataPage   = 2
)

type meta struct {
	pageSize                           uint32
	root, freelist, pages, transaction uint64
}

// currentMeta is the meta page that bbolt uses, the later one of those that are
// whole, and how many are whole. Two of the same transaction are one and its
// copy in the place of the other.
func currentMeta(file []byte, pageSize int) (current meta, whole int, err error) {
	for i := range firstDataPage {
		m, ok := decodeMeta(file[i*pageSize+pageHeader:])
		if !ok || whole > 0 && m.transaction == current.transaction {
			continue
		}
		if whole == 0 || m.transaction > current.transaction {
			current = m
		}
		whole++
	}
	if whole == 0 {
		return current, whole, fmt.Errorf("%w: no meta page is whole", ErrDamaged)
	}
	return current, whole, current.check(file, pageSize)
}

// previousMeta is the meta page of the transaction before the current one.
func previousMeta(file []byte, pageSize int) (meta, error) {
	current, _, err := currentMeta(file, pageSize)
	if err != nil {
		return meta{}, err
	}
	m, whole := decodeMeta(file[place(current.transaction-1)*pageSize+pageHeader:])
	if !whole || m.transaction != current.transaction-1 {
		return m, fmt.Errorf("%w: the meta page before transaction %d is not there", ErrDamaged, current.transaction)
	}
	return m, m.check(file, pageSize)
}

// place is which of the two meta pages a transaction writes.
func place(transaction uint64) int { return int(transaction % firstDataPage) }

// check proves that the file can have the pages that a meta page says it has.
func (m *meta) check(file []byte, pageSize int) error {
	switch {
	case m.pageSize != uint32(pageSize):
		return fmt.Errorf("%w: pages of %d bytes, not of %d", ErrDamaged, m.pageSize, pageSize)
	case m.pages < firstDataPage || m.pages > uint64(len(file)/pageSize):
		return fmt.Errorf("%w: %d pages in a file of %d bytes", ErrDamaged, m.pages, len(file))
	}
	return nil
}

func decodeMeta(b []byte) (m meta, whole bool) {
	le := binary.LittleEndian
	whole = le.Uint32(b) == boltMagic && le.Uint32(b[4:]) == boltVersion && le.Uint64(b[metaChecksum:]) == metaSum(b)
	return meta{
		pageSize: le.Uint32(b[8:]),
		root:     le.Uint64(b[16:]), freelist: le.Uint64(b[32:]),
		pages: le.Uint64(b[40:]), transaction: le.Uint64(b[metaTransaction:]),
	}, whole
}

// metaSum is the checksum that a meta page must have.
func metaSum(b []byte) uint64 {
	sum := fnv.New64a()
	sum.Write(b[:metaChecksum]) // a hash never fails
	return sum.Sum64()
}

// page is a page with its overflow.
type page struct {
	id       uint64
	flags    uint16
	count    int
	overflow uint64 // pages behind this one that belong to it
	b        []byte
}

// decodePage reads the header.
func decodePage(b []byte) page {
	le := binary.LittleEndian
	return page{
		id: le.Uint64(b), flags: le.Uint16(b[8:]), count: int(le.Uint16(b[10:])),
		overflow: uint64(le.Uint32(b[12:])), b: b,
	}
}

// span is what the branch above says of a page's keys: which is the first, and
// which one they are all below. nil is any. The first must be so: when bbolt
// writes it looks for a page in its branch by that key, and another one there
// would leave a pointer to a page that is freed.
type span struct{ first, limit []byte }

// below is the span of the page that a branch's element points to.
func (pg *page) below(i int, s span) span {
	e, _ := pg.element(i)
	if next, ok := pg.element(i + 1); ok {
		return span{first: e.key, limit: next.key}
	}
	return span{first: e.key, limit: s.limit}
}

// check proves that a branch's or a leaf's elements lie within it, one behind
// the other, with keys in order and within the span.
func (pg *page) check(s span) error {
	if pg.flags != flagLeaf && (pg.flags != flagBranch || pg.count == 0) {
		return fmt.Errorf("%w: page %d has flags %#x and %d elements", ErrDamaged, pg.id, pg.flags, pg.count)
	}
	end := pageHeader + pg.count*pageElement
	var first, last []byte // no key is empty
	for i := range pg.count {
		e, ok := pg.element(i)
		if !ok || e.begin < end || bytes.Compare(e.key, last) <= 0 {
			return fmt.Errorf("%w: element %d of page %d reaches out of it, or is out of order", ErrDamaged, i, pg.id)
		}
		if i == 0 {
			first = e.key
		}
		end, last = e.begin+len(e.key)+len(e.value), e.key
	}
	if s.first != nil && !bytes.Equal(first, s.first) {
		return fmt.Errorf("%w: page %d does not begin with key %.32x", ErrDamaged, pg.id, s.first)
	}
	if s.limit != nil && bytes.Compare(last, s.limit) >= 0 {
		return fmt.Errorf("%w: page %d has keys from %.32x on, where the next page begins", ErrDamaged, pg.id, s.limit)
	}
	return nil
}

// element is one of a branch (child) or of a leaf (flags and value).
type element struct {
	begin      int // of the key, in the page
	key, value []byte
	flags      uint32
	child      uint64
}

// element decodes the i-th; it is false when there is none or it reaches out of
// the page.
func (pg *page) element(i int) (element, bool) {
	at := pageHeader + i*pageElement
	if i >= pg.count || at+pageElement > len(pg.b) {
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
	e.begin = at + int(position)
	e.key = b[position : position+keySize]
	e.value = b[position+keySize : position+keySize+valueSize]
	return e, true
}
