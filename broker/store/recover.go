package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"go.etcd.io/bbolt"

	"github.com/rmqio/rmq/broker/pages"
)

// This file is about commits with one sync. bbolt syncs the pages of a transaction
// before it writes the meta page that makes them count; that is a second wait for
// the disk. Here both are written and synced together. A crash in between may leave
// the meta page and only some of the pages, but nothing of the state before is
// overwritten: recover finds that the newest state is not whole, and goes back.
// What comes after a commit, be it only confirm, says that its sync had ended:
// from then on what is not whole is damage.

// syncOnce is a transaction that is on disk when it returns nil. After an error,
// which is ErrPoisoned, nobody knows, until the segment is reopened.
func (s *segment) syncOnce(fn func(*bbolt.Tx) error) error {
	err := guard(s.path, func() error {
		s.db.NoSync = true
		err := s.update(fn)
		s.db.NoSync = false
		if err != nil {
			return err
		}
		return s.db.Sync()
	})
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrPoisoned, s.path, err)
	}
	return nil
}

// update is a transaction as bbolt does it.
func (s *segment) update(fn func(*bbolt.Tx) error) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		if err := stamp(tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// stamp writes the number of a transaction into the page that the meta page leads
// to, so that an older one in its place is found out.
func stamp(tx *bbolt.Tx) error {
	return tx.Bucket(metaBucket).SetSequence(uint64(tx.ID()))
}

// confirm says that the last commit is whole, by another transaction.
func (s *segment) confirm() error {
	return s.syncOnce(func(*bbolt.Tx) error { return nil })
}

// recover has the file of a segment that is not sealed, and not open, stand in its
// last whole state. If that is the one before the last commit, cut says what is
// missing of that commit, which a crash must have cut short: it is taken back. Not
// so if records below atLeast are known to have been committed; what is missing is
// damage then.
func (s *segment) recover(atLeast uint64) (cut, err error) {
	if err := dropCache(s.path); err != nil {
		return nil, s.named(err)
	}
	_, _, err = s.read(pages.Newest, nothing)
	if !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	if next, _, before := s.read(pages.Previous, nothing); before != nil || next < atLeast {
		return nil, err
	}
	return err, takeBack(s.path)
}

// tellCut logs what recover found, if anything.
func (l *Log) tellCut(s *segment, cut error) {
	if cut != nil {
		l.logger.Warn("a crash cut the last commit short: it was taken back", "path", s.path, "missing", cut)
	}
}

func nothing(*chunk) error { return nil }

func takeBack(path string) error {
	page, offset, err := pages.TakenBack(path, pageSize)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(page, offset)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// read proves a state of a segment's file and hands all of its chunks to fn, in
// order and checked, with the checksum of the last one. What fn gets is valid during
// the call. It fails when a chunk is missing between two or at the end. Nobody must
// write to the file meanwhile.
func (s *segment) read(state pages.State, fn func(*chunk) error) (next uint64, chain uint32, err error) {
	next, chain = s.info.First, s.info.Chain
	err = pages.Read(s.path, pageSize, state, func(root pages.Bucket, transaction uint64) error {
		about, log := root.Get(metaBucket).Bucket, root.Get(logBucket).Bucket
		if about == nil || log == nil || about.Sequence() != transaction {
			return fmt.Errorf("%w: the root is not of transaction %d", ErrDamaged, transaction)
		}
		if err := s.checkEntry(about.Get(segmentKey).Value, log.Sequence()); err != nil {
			return err
		}
		for key, e := range log.All() {
			if len(key) != 8 || e.Bucket == nil || binary.BigEndian.Uint64(key) != next {
				return fmt.Errorf("%w: chunk %x where %d was expected", ErrDamaged, key, next)
			}
			c, err := decodeChunk(next, e.Bucket.Get(dataKey).Value, e.Bucket.Get(indexKey).Value, chain)
			if err != nil {
				return err
			}
			if err := fn(c); err != nil {
				return err
			}
			next, chain = c.next(), c.crc
		}
		if last := log.Sequence(); last != next-1 {
			return fmt.Errorf("%w: records end at %d, the log was committed up to %d", ErrDamaged, next-1, last)
		}
		return nil
	})
	return next, chain, s.named(err)
}

// named says which file an error is about, and that what package pages finds is
// damage.
func (s *segment) named(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %s is missing", ErrDamaged, s.path)
	case errors.Is(err, pages.ErrDamaged):
		return fmt.Errorf("%w: %s: %w", ErrDamaged, s.path, err)
	}
	return fmt.Errorf("%s: %w", s.path, err)
}
