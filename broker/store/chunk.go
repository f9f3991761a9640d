package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
)

// A chunk is one group commit: the records' data one after another, and an index
// with a row for each. docs/storage.md names the fields.
const (
	chunkVersion    = 1
	chunkHeadBytes  = 40
	chunkCRCAt      = 36
	rowBytes        = 44
	chunkMagic      = 0x63716d72 // "rmqc"
	firstEpoch      = 1          // until brokers replicate there is one
	maxRowsPerChunk = 1 << 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chunk is a group commit, encoded or about to be.
type chunk struct {
	first uint64 // log index of the first record
	data  []byte // bbolt value "d"
	index []byte // bbolt value "i"
	crc   uint32 // of this chunk; the next one carries it
}

// row is one record's entry in a chunk's index.
type row struct {
	Committed        // without Data
	pos, len  uint32 // in the chunk's data
}

// next is the log index after the chunk.
func (c *chunk) next() uint64 { return c.first + uint64(c.rows()) }

func (c *chunk) rows() int { return (len(c.index) - chunkHeadBytes) / rowBytes }

// encodeChunk copies the records, which are consecutive and not empty, behind
// the chunk whose checksum is prev. buffer makes room for their data.
func encodeChunk(records []*pending, prev uint32, buffer func(size int) []byte) *chunk {
	size := 0
	for _, p := range records {
		size += len(p.Data)
	}
	c := &chunk{
		first: records[0].Index,
		data:  buffer(size),
		index: make([]byte, chunkHeadBytes, chunkHeadBytes+rowBytes*len(records)),
	}
	base := records[0].StoreMillis
	le := binary.LittleEndian
	le.PutUint32(c.index, chunkMagic)
	le.PutUint32(c.index[4:], chunkVersion)
	le.PutUint64(c.index[8:], c.first)
	le.PutUint64(c.index[16:], uint64(base))
	le.PutUint32(c.index[24:], uint32(len(records)))
	le.PutUint32(c.index[28:], firstEpoch)
	le.PutUint32(c.index[32:], prev)
	at := 0
	for _, p := range records {
		c.index = appendRow(c.index, &p.Committed, at, base)
		at += len(p.Data)
	}
	c.crc = c.fill(records)
	le.PutUint32(c.index[chunkCRCAt:], c.crc)
	return c
}

// fill copies the records' data and returns the chunk's checksum, which is taken of
// what was just copied: all of it is more than fits the processor's cache.
func (c *chunk) fill(records []*pending) uint32 {
	const step = 32 << 10
	crc, done := c.indexChecksum(), 0
	for _, p := range records {
		c.data = append(c.data, p.Data...)
		if len(c.data)-done >= step {
			crc, done = crc32.Update(crc, castagnoli, c.data[done:]), len(c.data)
		}
	}
	return crc32.Update(crc, castagnoli, c.data[done:])
}

func appendRow(b []byte, r *Committed, pos int, base int64) []byte {
	le := binary.LittleEndian
	b = append(b, byte(r.Type), 0, 0, 0)
	b = le.AppendUint32(b, r.Queue.Queue)
	b = le.AppendUint64(b, r.Queue.Topic)
	b = le.AppendUint64(b, uint64(r.BaseOffset))
	b = le.AppendUint32(b, r.Count)
	b = le.AppendUint32(b, r.TagHash)
	b = le.AppendUint32(b, uint32(pos))
	b = le.AppendUint32(b, uint32(len(r.Data)))
	return le.AppendUint32(b, uint32(r.StoreMillis-base))
}

func (c *chunk) checksum() uint32 {
	return crc32.Update(c.indexChecksum(), castagnoli, c.data)
}

func (c *chunk) indexChecksum() uint32 {
	crc := crc32.Update(0, castagnoli, c.index[:chunkCRCAt])
	return crc32.Update(crc, castagnoli, c.index[chunkHeadBytes:])
}

// decodeChunk checks a stored chunk: its checksum, that it follows the chunk
// with the checksum prev, and that its rows lie within its data. It shares the
// memory of data and index.
func decodeChunk(first uint64, data, index []byte, prev uint32) (*chunk, error) {
	c := &chunk{first: first, data: data, index: index}
	le := binary.LittleEndian
	if len(index) < chunkHeadBytes || le.Uint32(index) != chunkMagic {
		return nil, fmt.Errorf("%w: chunk %d has no valid index", ErrDamaged, first)
	}
	if v := le.Uint32(index[4:]); v > chunkVersion {
		return nil, fmt.Errorf("%w: chunk %d is of version %d, known is %d", ErrNewerVersion, first, v, chunkVersion)
	}
	c.crc = le.Uint32(index[chunkCRCAt:])
	if got := c.checksum(); got != c.crc {
		return nil, fmt.Errorf("%w: chunk %d has checksum %#08x, says %#08x", ErrDamaged, first, got, c.crc)
	}
	if got := le.Uint32(index[32:]); got != prev {
		return nil, fmt.Errorf("%w: chunk %d follows checksum %#08x, the one before it has %#08x", ErrDamaged, first, got, prev)
	}
	n := int(le.Uint32(index[24:]))
	if le.Uint64(index[8:]) != first || n == 0 || n > maxRowsPerChunk || len(index) != chunkHeadBytes+n*rowBytes {
		return nil, fmt.Errorf("%w: chunk %d has %d rows from %d in %d bytes", ErrDamaged, first, n, le.Uint64(index[8:]), len(index))
	}
	for i := range n {
		if r := c.row(i); int(r.pos)+int(r.len) > len(data) {
			return nil, fmt.Errorf("%w: record %d reaches beyond its chunk", ErrDamaged, r.Index)
		}
	}
	return c, nil
}

// row decodes the i-th row.
func (c *chunk) row(i int) row {
	b := c.index[chunkHeadBytes+i*rowBytes:]
	le := binary.LittleEndian
	return row{
		Committed: Committed{
			Record: Record{
				Type:    Type(b[0]),
				Queue:   QueueKey{Topic: le.Uint64(b[8:]), Queue: le.Uint32(b[4:])},
				Count:   le.Uint32(b[24:]),
				TagHash: le.Uint32(b[28:]),
			},
			Index:       c.first + uint64(i),
			BaseOffset:  int64(le.Uint64(b[16:])),
			StoreMillis: int64(le.Uint64(c.index[16:])) + int64(le.Uint32(b[40:])),
		},
		pos: le.Uint32(b[32:]),
		len: le.Uint32(b[36:]),
	}
}

// record is the i-th record with its data.
func (c *chunk) record(i int) Committed {
	r := c.row(i)
	r.Data = c.data[r.pos : r.pos+r.len]
	return r.Committed
}

// previousChecksum is the checksum that a chunk says the one before it has; 0
// for an index that is too short, which decodeChunk refuses.
func previousChecksum(index []byte) uint32 {
	if len(index) < chunkHeadBytes {
		return 0
	}
	return binary.LittleEndian.Uint32(index[32:])
}

// clone copies a chunk out of memory that is valid for a while only.
func (c *chunk) clone() *chunk {
	return &chunk{first: c.first, data: slices.Clone(c.data), index: slices.Clone(c.index), crc: c.crc}
}
