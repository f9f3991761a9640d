//go:build !linux

package store

import "go.etcd.io/bbolt"

// readAhead leaves it to the system how a file is read.
func readAhead(*bbolt.DB) {}
