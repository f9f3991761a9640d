//go:build !linux

package store

import "os"

func writeOut(*os.File, int64, int64) error { return nil }
