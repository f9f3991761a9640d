// Package view keeps the rows of the broker's views in one bbolt file. A view is
// what the broker answers from (topics, groups, offsets, leases); it is built
// from the records of the log, and this file only saves the replay of the whole
// log at each start. Rows and the log position that they have applied are
// written in the same transaction, so that recovery is: Open, then apply the
// records behind Position.
//
// The package owns the file. It never reads the log, never interprets a row, and
// starts no goroutine. It is used by the broker's applier.
//
// # The file
//
// There is a bucket for each view, named by it, and the bucket "state". The key
// of a row is the view's own; its value is (little endian):
//
//	0  4  CRC32C over: the bucket's name, the length of the key as uint32, the key, the rest of the value
//	4  n  the view's value
//
// The bucket "state" has two rows of the same form. "format" is written once:
//
//	0  4  version of the format, 1
//
// "state" is written by each flush:
//
//	0   8  position in the log
//	8   8  number of rows of all views
//	16  8  sum of the CRC32C of all rows of all views, modulo 2^64
//
// # Damage
//
// Open proves the file before it serves from it: first the structure of all
// pages (bbolt trusts pointers and counts that it reads, and a damaged one can
// send it round in a circle or let it overwrite live pages later), then the
// checksum of each row, then number and sum of the rows, so that rows that are
// missing, or that come from an older transaction, are found too. Anything wrong
// is ErrDamaged. The file holds nothing that the log does not have: SetAside
// moves it out of the way and the next Open begins with an empty one at position
// 0. That needs a log that reaches back to its beginning.
//
// One kind of damage is repaired silently: when one of bbolt's two meta pages is
// bad, the other takes the file back to the flush before the last. The log must
// therefore keep what lies behind the position of the flush before the last:
// DB.Certain.
package view

import "errors"

// View is a view of the log as this package sees it: a named set of rows. Its
// methods are called from Open, and then from the goroutine that calls Flush.
type View interface {
	// Name is the name of the view's bucket. It is never empty, never changes
	// and is not "state".
	Name() string
	// Load takes a row that an earlier Changes put, in the order of the keys. Both
	// slices are valid during the call only. An error means that the row makes no
	// sense, and Open fails with ErrDamaged.
	Load(key, value []byte) error
	// Changes hands over each row that was put or deleted since the last call,
	// and then forgets that it was. It does so once only: what it has handed over
	// is kept by DB until a transaction holds it, however many flushes fail. The
	// callbacks copy what they are given. Keys are not empty.
	Changes(put func(key, value []byte), del func(key []byte))
}

// Errors of Open and Flush.
var (
	// ErrDamaged is returned when the file is not one that this package wrote, or
	// is no longer as it was written.
	ErrDamaged = errors.New("views are damaged")
	// ErrNewer is returned for a file whose format this build does not know.
	ErrNewer = errors.New("views were written by a newer version")
	// ErrInUse is returned when another process has the file open.
	ErrInUse = errors.New("views are in use by another process")
)
