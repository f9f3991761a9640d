//go:build linux

package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// harm is one way to damage a data directory.
type harm struct {
	kind string
	do   func(random *rand.Rand, path string) (where string, err error)
}

func harms() []harm {
	return []harm{
		{"flipped bits", flipBits},
		{"flipped bits", flipBits}, // the likeliest one
		{"cut", cutFile},
		{"zeroed range", zeroRange},
		{"missing file", func(_ *rand.Rand, path string) (string, error) { return "", os.Remove(path) }},
	}
}

// inflict damages one file of a directory.
func inflict(random *rand.Rand, dir string) (kind, what string, err error) {
	files, err := filesIn(dir)
	if err != nil {
		return "", "", err
	}
	h, name := harms()[random.IntN(len(harms()))], files[random.IntN(len(files))]
	where, err := h.do(random, filepath.Join(dir, name))
	return h.kind, fmt.Sprintf("%s of %s %s", h.kind, name, where), err
}

func filesIn(dir string) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			name, _ := filepath.Rel(dir, path) // it is below dir
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// flipBits flips up to four bits. Half of the times they are looked for where the
// file holds something.
func flipBits(random *rand.Rand, path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return "(empty)", err
	}
	var where []int
	for range 1 + random.IntN(4) {
		at := random.IntN(len(b))
		for k := 0; random.IntN(2) == 0 && k < len(b) && b[at] == 0; k++ {
			at = (at + 1) % len(b)
		}
		b[at] ^= 1 << random.IntN(8)
		where = append(where, at)
	}
	return fmt.Sprint("at ", where), rewrite(path, b)
}

func cutFile(random *rand.Rand, path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	size := random.Int64N(info.Size() + 1)
	if random.IntN(3) == 0 {
		size = size * size / max(info.Size(), 1) / 64 // near the start
	}
	return fmt.Sprint("to ", size), os.Truncate(path, size)
}

func zeroRange(random *rand.Rand, path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return "(empty)", err
	}
	from := random.IntN(len(b))
	if random.IntN(2) == 0 {
		from = from / 4096 * 4096
	}
	to := min(len(b), from+1+random.IntN(64<<10))
	clear(b[from:to])
	return fmt.Sprintf("from %d to %d", from, to), rewrite(path, b)
}

// rewrite writes a file in its place, without the pages that are empty.
func rewrite(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const page = 64 << 10
	empty := string(make([]byte, page))
	for at := 0; at < len(b); at += page {
		part := b[at:min(at+page, len(b))]
		if string(part) == empty[:len(part)] {
			continue
		}
		if _, err := f.WriteAt(part, int64(at)); err != nil {
			return err
		}
	}
	return f.Truncate(int64(len(b)))
}

// copyDir copies a directory, without the empty pages of its files.
func copyDir(to, from string) error {
	names, err := filesIn(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		if err := rewrite(target, b); err != nil {
			return err
		}
	}
	return nil
}
