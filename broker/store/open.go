package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Files that are no part of the log: the next segment, while it is prepared, and a
// dropped one that is to become the next.
const (
	preparedName = "next.seg.tmp"
	recycledName = "old.seg.tmp"
)

// Open opens the log in a directory, or makes an empty one in an empty
// directory. It verifies every chunk that is not sealed, brings the views up to
// date through Options.Apply, and seals segments that a crash left unsealed. An
// unacknowledged commit that a crash cut short is not there. Anything else that
// does not pass its checks is damage: with a manifest that is damaged Open fails;
// a log with a damaged segment opens for reading what is left, refuses appends
// with ErrDamaged, and says so in Status. The caller holds the directory: see
// LockDir.
func Open(dir string, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l := &Log{
		dir: dir, opts: o, logger: o.Logger,
		manifest: manifestFile{dir: dir},
		tail:     tail{limit: o.MaxPendingBytes},
		newest:   newNewest(o.TailBytes),
		pace:     newPace(),
		waiters:  waiters{queues: map[QueueKey][]*Waiter{}},
		wake:     make(chan struct{}, 1), closing: make(chan struct{}),
		committed: make(chan commit, 2), full: make(chan sealJob, 4),
		wanted: make(chan segmentInfo, 1), prepared: make(chan preparedFile, 1),
	}
	w, err := l.load()
	if err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	a := &applier{l}
	l.goroutine.Go(w.run)
	l.goroutine.Go(a.run)
	l.goroutine.Go(l.sealFull)
	l.goroutine.Go(l.prepareNext)
	return l, nil
}

// load brings everything to the state that is on disk.
func (l *Log) load() (*writer, error) {
	m, err := readManifest(l.dir)
	if errors.Is(err, os.ErrNotExist) {
		m, err = l.create()
	}
	if err != nil {
		return nil, err
	}
	l.manifest.current = m
	if err := l.removeStrays(m); err != nil {
		return nil, err
	}
	w := &writer{Log: l, unconfirmed: true}
	if err := (&loader{Log: l, writer: w}).run(m); err != nil {
		return nil, err
	}
	l.tail.resume(w.next, l.catalog.copyEnds())
	if l.damage != nil {
		l.tail.refuseNew(fmt.Errorf("the log is read only: %w", l.damage))
	}
	return w, nil
}

// create makes an empty log in a directory that has no manifest. Segments that
// hold records are a log whose manifest is missing, and damage.
func (l *Log) create() (manifest, error) {
	m := manifest{Version: formatVersion, StoreID: newStoreID()}
	if err := l.removeStrays(m); err != nil {
		return m, err
	}
	info := segmentInfo{First: 1, Capacity: l.opts.FirstSegmentBytes}
	if err := prepareFile(l.path(preparedName), l.path(recycledName), info.Capacity, atOnce); err != nil {
		return m, err
	}
	m.Segments = []segmentInfo{info}
	s, err := activate(l.dir, l.path(preparedName), m.StoreID, info)
	if err != nil {
		return m, err
	}
	return m, errors.Join(s.close(), m.write(l.dir))
}

// atOnce waits for nothing.
func atOnce(float64) error { return nil }

func newStoreID() string {
	var id [16]byte
	rand.Read(id[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(id[:])
}

// removeStrays removes what a crash left behind: temporary files, segments before
// the first one of the manifest, and a segment that was activated but never
// written into the manifest. One of the latter that holds records is damage.
func (l *Log) removeStrays(m manifest) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		known := slices.ContainsFunc(m.Segments, func(i segmentInfo) bool { return i.name() == name })
		switch {
		case strings.HasSuffix(name, ".tmp"):
		case len(m.Segments) > 0 && strings.HasSuffix(name, ".seg") && name < m.Segments[0].name():
			// Retention took it out of the manifest and was cut short.
		case !strings.HasSuffix(name, ".seg") || known:
			continue
		default:
			if err := checkStray(l.path(name)); err != nil {
				return err
			}
		}
		l.logger.Info("removing what a crash left", "path", l.path(name))
		if err := os.Remove(l.path(name)); err != nil {
			return err
		}
	}
	return nil
}

// checkStray fails for a segment file that holds records.
func checkStray(path string) error {
	s := &segment{path: path}
	if err := s.openWritable(); err != nil {
		return err
	}
	empty, err := s.isEmpty()
	if err == nil && !empty {
		err = fmt.Errorf("%w: %s holds records and is not in the %s", ErrDamaged, path, manifestName)
	}
	return errors.Join(err, s.close())
}
