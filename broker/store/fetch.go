package store

import (
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// fetch appends the data at the locations, which are of this segment, to dst.
func (s *segment) fetch(dst []byte, locations []location) ([]byte, error) {
	for i := range locations {
		l := &locations[i]
		data := s.newest.lock(l.chunk)
		if data == nil {
			return s.fetchFromFile(dst, locations[i:])
		}
		dst = append(dst, data[l.pos:l.pos+l.len]...)
		s.newest.unlock()
	}
	return dst, nil
}

func (s *segment) fetchFromFile(dst []byte, locations []location) ([]byte, error) {
	err := s.view(func(tx *bbolt.Tx) (err error) {
		r := s.reader(tx)
		for i := 0; i < len(locations) && err == nil; i++ {
			dst, err = r.append(dst, &locations[i])
		}
		return err
	})
	return dst, err
}

// windowBytes is how much is read at once for the sake of a small batch: those
// of one queue lie near one another.
const windowBytes = 64 << 10

// fileReader reads batches in a transaction. It finds them through the memory map
// and reads them from the file: what was touched in the map counts as memory of the
// process until the segment is closed, and to wait for a page of it holds up other
// goroutines, which to wait for a read does not.
type fileReader struct {
	*segment
	log   *bbolt.Bucket
	chunk uint64 // the one whose data lies at at in the file
	at    int64
	size  int

	window   []byte // a part of the chunk's data
	windowAt int    // within the data
	buffer   []byte // for windows
}

func (s *segment) reader(tx *bbolt.Tx) *fileReader {
	return &fileReader{segment: s, log: tx.Bucket(logBucket)}
}

// append appends a batch to dst.
func (r *fileReader) append(dst []byte, l *location) ([]byte, error) {
	if l.len < windowBytes/2 { // as are all in a chunk that is inline
		b, err := r.read(l)
		return append(dst, b...), err
	}
	if err := r.seek(l); err != nil {
		return dst, err
	}
	n := len(dst)
	dst = slices.Grow(dst, int(l.len))
	return dst[:n+int(l.len)], r.readAt(dst[n:n+int(l.len)], int(l.pos))
}

// read returns a batch, which is valid until the next call.
func (r *fileReader) read(l *location) ([]byte, error) {
	if err := r.seek(l); err != nil {
		return nil, err
	}
	from, to := int(l.pos)-r.windowAt, int(l.pos+l.len)-r.windowAt
	if from < 0 || to > len(r.window) {
		n := min(max(int(l.len), windowBytes), r.size-int(l.pos))
		r.window, r.buffer = nil, slices.Grow(r.buffer[:0], n)[:n]
		if err := r.readAt(r.buffer, int(l.pos)); err != nil {
			return nil, err
		}
		r.window, r.windowAt = r.buffer, int(l.pos)
		from, to = 0, int(l.len)
	}
	return r.window[from:to], nil
}

// seek makes the location's chunk the one to read from.
func (r *fileReader) seek(l *location) error {
	if l.chunk != r.chunk {
		b := r.log.Bucket(indexBytes(l.chunk))
		if b == nil {
			return fmt.Errorf("%w: %s: chunk %d is missing", ErrDamaged, r.path, l.chunk)
		}
		data := b.Get(dataKey)
		r.chunk, r.size = l.chunk, len(data)
		r.window, r.windowAt = nil, 0
		if isInline(data) {
			r.window = data
		} else {
			r.at = r.db.place(data)
		}
	}
	if int(l.pos)+int(l.len) > r.size {
		return fmt.Errorf("%w: %s: chunk %d has %d bytes, a batch lies at %d to %d",
			ErrDamaged, r.path, l.chunk, r.size, l.pos, l.pos+l.len)
	}
	return nil
}

func (r *fileReader) readAt(b []byte, pos int) error { return r.db.readAt(b, r.at+int64(pos)) }

// copyChunk reads a chunk, which nobody has checked, into memory of its own.
func (s *segment) copyChunk(b *bbolt.Bucket) (data, index []byte, err error) {
	stored, index := b.Get(dataKey), slices.Clone(b.Get(indexKey))
	if isInline(stored) {
		return slices.Clone(stored), index, nil
	}
	data = make([]byte, len(stored))
	return data, index, s.db.readAt(data, s.db.place(stored))
}

// each hands the locations, which are of this segment, to visit, one after another
// until it returns false or an error. What load returns is valid during the visit.
func (s *segment) each(locations []location, visit func(l *location, load rowLoader) (more bool, err error)) error {
	for i := range locations {
		l := &locations[i]
		data := s.newest.lock(l.chunk)
		if data == nil {
			return s.eachInFile(locations[i:], visit)
		}
		more, err := visit(l, rowLoader{tail: data})
		s.newest.unlock()
		if !more || err != nil {
			return err
		}
	}
	return nil
}

func (s *segment) eachInFile(locations []location, visit func(l *location, load rowLoader) (more bool, err error)) error {
	return s.view(func(tx *bbolt.Tx) error {
		r := s.reader(tx)
		for i := range locations {
			if more, err := visit(&locations[i], rowLoader{file: r}); !more || err != nil {
				return err
			}
		}
		return nil
	})
}

// rowLoader reads a batch, if it is asked to, and checks it.
type rowLoader struct {
	tail []byte // the chunk's data, if it is in memory
	file *fileReader
}

func (r rowLoader) load(l *location) (b []byte, err error) {
	if r.file == nil {
		b = r.tail[l.pos : l.pos+l.len]
	} else if b, err = r.file.read(l); err != nil {
		return nil, err
	}
	return b, l.verify(b)
}
