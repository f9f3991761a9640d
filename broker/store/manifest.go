package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// formatVersion is the version of everything in a data directory.
const formatVersion = 1

const manifestName = "MANIFEST"

// manifest says which segments make up the log. What it does not name is not
// part of the log, and what it names and is not there is damage.
type manifest struct {
	Version  int           `json:"version"`
	StoreID  string        `json:"storeId"`
	Segments []segmentInfo `json:"segments"` // in log order; the last one is written to
}

// following is the segment behind the i-th; behind the last one, where that one begins.
func (m *manifest) following(i int) segmentInfo {
	return m.Segments[min(i+1, len(m.Segments)-1)]
}

// manifestFile owns the manifest on disk.
type manifestFile struct {
	dir string

	mu      sync.Mutex
	current manifest
}

// update changes the manifest and writes it: when it returns nil the change is
// on disk; when it fails nothing has changed.
func (f *manifestFile) update(change func(*manifest)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.current
	next.Segments = slices.Clone(next.Segments)
	change(&next)
	if err := next.write(f.dir); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	f.current = next
	return nil
}

// write replaces the file: one line of JSON, and one with its CRC32C.
func (m *manifest) write(dir string) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, manifestName)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s\n%08x\n", line, crc32.Checksum(line, castagnoli))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return rename(path+".tmp", path)
}

// readManifest returns os.ErrNotExist for a directory without one.
func readManifest(dir string) (manifest, error) {
	path := filepath.Join(dir, manifestName)
	b, err := os.ReadFile(path)
	if err != nil {
		return manifest{}, err
	}
	line, sum, ok := bytes.Cut(b, []byte("\n"))
	if want := fmt.Sprintf("%08x\n", crc32.Checksum(line, castagnoli)); !ok || string(sum) != want {
		return manifest{}, fmt.Errorf("%w: %s does not pass its checksum", ErrDamaged, path)
	}
	var m manifest
	if err := json.Unmarshal(line, &m); err != nil {
		return manifest{}, fmt.Errorf("%w: %s: %v", ErrDamaged, path, err)
	}
	if m.Version > formatVersion {
		return manifest{}, fmt.Errorf("%w: %s is of version %d, known is %d", ErrNewerVersion, dir, m.Version, formatVersion)
	}
	if len(m.Segments) == 0 {
		return manifest{}, fmt.Errorf("%w: %s names no segment", ErrDamaged, path)
	}
	return m, nil
}

// canSpareOldest reports whether the segment after the oldest one is sealed, so
// that the log has the queues' ends without the oldest.
func (f *manifestFile) canSpareOldest() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.current.Segments) > 1 && f.current.Segments[1].Sealed
}

func (f *manifestFile) storeID() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.StoreID
}

// FirstIndex is the index of the first record that the log in a directory still
// has; 1 for a directory without a log. It opens nothing. Errors: ErrDamaged,
// ErrNewerVersion.
func FirstIndex(dir string) (uint64, error) {
	m, err := readManifest(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 1, nil
	}
	if err == nil && len(m.Segments) == 0 {
		err = fmt.Errorf("%w: the %s in %s names no segment", ErrDamaged, manifestName, dir)
	}
	if err != nil {
		return 0, err
	}
	return m.Segments[0].First, nil
}
