package view

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// FormatVersion is the version of the file's format that this build writes, and
// the only one that it reads.
const FormatVersion = 1

const (
	stateBucket = "state"
	formatKey   = "format"
	stateKey    = "state"

	checksumBytes = 4
	stateBytes    = 24
)

// seal puts the checksum before a value.
func seal(bucket string, key, value []byte) []byte {
	row := make([]byte, checksumBytes, checksumBytes+len(value))
	row = append(row, value...)
	binary.LittleEndian.PutUint32(row, rowChecksum(bucket, key, value))
	return row
}

// unseal returns the value of a row whose checksum holds.
func unseal(bucket string, key, row []byte) ([]byte, error) {
	if len(row) < checksumBytes {
		return nil, fmt.Errorf("%w: row %x of %q has %d bytes", ErrDamaged, key, bucket, len(row))
	}
	value := row[checksumBytes:]
	if got, want := rowChecksum(bucket, key, value), binary.LittleEndian.Uint32(row); got != want {
		return nil, fmt.Errorf("%w: row %x of %q has checksum %#08x, it says %#08x", ErrDamaged, key, bucket, got, want)
	}
	return value, nil
}

func rowChecksum(bucket string, key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	var size [4]byte
	binary.LittleEndian.PutUint32(size[:], uint32(len(key)))
	sum := crc32.Checksum([]byte(bucket), table)
	sum = crc32.Update(sum, table, size[:])
	sum = crc32.Update(sum, table, key)
	return crc32.Update(sum, table, value)
}

// state is the row "state": where the file stands, and what proves that all rows
// of that position are there and no others.
type state struct {
	position uint64
	rows     uint64
	sum      uint64
}

func (s *state) encode() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, stateBytes), s.position)
	b = binary.LittleEndian.AppendUint64(b, s.rows)
	return binary.LittleEndian.AppendUint64(b, s.sum)
}

func decodeState(b []byte) (state, error) {
	if len(b) != stateBytes {
		return state{}, fmt.Errorf("%w: state of %d bytes", ErrDamaged, len(b))
	}
	le := binary.LittleEndian
	return state{position: le.Uint64(b), rows: le.Uint64(b[8:]), sum: le.Uint64(b[16:])}, nil
}

func (s *state) add(row []byte) {
	s.rows++
	s.sum += uint64(binary.LittleEndian.Uint32(row))
}

func (s *state) remove(row []byte) {
	s.rows--
	s.sum -= uint64(binary.LittleEndian.Uint32(row))
}

// replace writes a sealed row, or deletes it when row is nil.
func (s *state) replace(b *bbolt.Bucket, key, row []byte) error {
	if old := b.Get(key); old != nil {
		s.remove(old)
	}
	if row == nil {
		return b.Delete(key)
	}
	s.add(row)
	return b.Put(key, row)
}

// writeState writes the row "state".
func writeState(tx *bbolt.Tx, s state) error {
	return putState(tx, stateKey, s.encode())
}

func putState(tx *bbolt.Tx, key string, value []byte) error {
	return tx.Bucket([]byte(stateBucket)).Put([]byte(key), seal(stateBucket, []byte(key), value))
}

// readState reads the bucket "state".
func readState(tx *bbolt.Tx) (state, error) {
	format, err := stateRow(tx, formatKey)
	if err != nil {
		return state{}, err
	}
	if len(format) != 4 {
		return state{}, fmt.Errorf("%w: format of %d bytes", ErrDamaged, len(format))
	}
	switch v := binary.LittleEndian.Uint32(format); {
	case v > FormatVersion:
		return state{}, fmt.Errorf("%w: format %d; known is %d", ErrNewer, v, FormatVersion)
	case v < FormatVersion:
		return state{}, fmt.Errorf("%w: format %d was never written", ErrDamaged, v)
	}
	value, err := stateRow(tx, stateKey)
	if err != nil {
		return state{}, err
	}
	return decodeState(value)
}

func stateRow(tx *bbolt.Tx, key string) ([]byte, error) {
	b := tx.Bucket([]byte(stateBucket))
	if b == nil {
		return nil, fmt.Errorf("%w: no bucket %q", ErrDamaged, stateBucket)
	}
	row := b.Get([]byte(key))
	if row == nil {
		return nil, fmt.Errorf("%w: no row %q", ErrDamaged, key)
	}
	return unseal(stateBucket, []byte(key), row)
}
