package view

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

const (
	temporarySuffix = ".new"
	asideSuffix     = ".bad"
)

// create makes an empty file at position 0 under another name, has it on disk
// and gives it its name: a crash leaves no file or a whole one.
func create(path string, views []View) error {
	temporary := path + temporarySuffix
	if err := removeIfThere(temporary); err != nil {
		return err
	}
	bolt, err := bbolt.Open(temporary, 0o600, options())
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	err = bolt.Update(func(tx *bbolt.Tx) error { return writeEmpty(tx, views) })
	if err := errors.Join(err, bolt.Close()); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	return rename(temporary, path)
}

func writeEmpty(tx *bbolt.Tx, views []View) error {
	if _, err := tx.CreateBucket([]byte(stateBucket)); err != nil {
		return err
	}
	for _, v := range views {
		if _, err := tx.CreateBucket([]byte(v.Name())); err != nil {
			return fmt.Errorf("view %q: %w", v.Name(), err)
		}
	}
	format := binary.LittleEndian.AppendUint32(nil, FormatVersion)
	if err := putState(tx, formatKey, format); err != nil {
		return err
	}
	return writeState(tx, state{})
}

// SetAside moves a file that Open refused out of the way, to its name with the
// suffix ".bad", in place of an earlier one. The next Open begins with an empty
// file. A file that is not there is no error.
func SetAside(path string) error {
	err := rename(path, path+asideSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set %s aside: %w", path, err)
	}
	return nil
}

// rename moves a file within its directory and has the move on disk.
func rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
