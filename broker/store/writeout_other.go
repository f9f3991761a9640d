//go:build !linux

package store

import "os"

func writeOut(*os.File, int64, int64) error { return nil }

func openDirect(string) *os.File { return nil }

func refusesDirect(error) bool { return false }

func reserve(*os.File, int64, int64) error { return nil }
