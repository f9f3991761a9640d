//go:build !linux

package store

// dropCache cannot be asked for here: a file that could not be written is checked
// as the kernel remembers it.
func dropCache(string) error { return nil }
