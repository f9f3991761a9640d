package store

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
)

// Log is the log of one broker. All methods are safe for concurrent use. Close
// ends it and joins its goroutines: writer, applier, preparer and sealer.
type Log struct {
	dir      string
	opts     Options
	logger   *slog.Logger
	manifest manifestFile
	tail     tail
	catalog  catalog
	newest   *newestChunks
	pace     *pace
	damage   error // what Open found; the log is then for reading only
	waiters  waiters
	level    DiskLevel // as CheckDisk found it last

	wake      chan struct{}     // tells the writer that something waits
	closing   chan struct{}     // closed by Close
	committed chan commit       // from the writer to the applier
	full      chan sealJob      // from the applier to the sealer
	wanted    chan segmentInfo  // from the writer to the preparer
	prepared  chan preparedFile // back
	goroutine sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Append queues a record. When it returns nil, done is called exactly once: after
// the record is on disk and applied, or, for a batch with AsyncFlush, at once.
// done must not block. With an error from Append nothing was done; an error
// given to done means that the outcome is not known, unless it is ErrNoSpace or
// ErrClosed.
func (l *Log) Append(r Record, done func(Committed, error)) error {
	if len(r.Data) > MaxRecordBytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(r.Data), MaxRecordBytes)
	}
	p := &pending{Committed: Committed{Record: r}}
	early := l.opts.Flush == AsyncFlush && r.Type == BatchRecord && !r.Waits
	if !early {
		p.done = done
	}
	if err := l.tail.push(p, l.opts.Now()); err != nil {
		return err
	}
	if early {
		done(p.Committed, nil)
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close commits what is waiting and stops.
func (l *Log) Close() error {
	l.closeOnce.Do(func() {
		l.tail.close()
		close(l.closing)
		l.goroutine.Wait()
		l.closeErr = l.closeFiles()
	})
	return l.closeErr
}

func (l *Log) closeFiles() error {
	var errs []error
	for _, s := range l.catalog.segments() {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// Status is how a log is.
type Status struct {
	StoreID    string
	Flush      FlushMode
	FirstIndex uint64
	LastIndex  uint64 // on disk and applied
	Segments   int
	DiskBytes  int64 // of the segments' files
	// PendingBytes is of what was appended and is not on disk and applied.
	PendingBytes int64
	Refusing     error // why appends are refused; nil: they are not
	// Damaged is what the scrubber found in sealed segments.
	Damaged []error
}

// Status looks at the log now.
func (l *Log) Status() Status {
	segments := l.catalog.segments()
	s := Status{StoreID: l.manifest.storeID(), Flush: l.opts.Flush, LastIndex: l.catalog.lastIndex(), Segments: len(segments), PendingBytes: l.tail.pending(), Refusing: l.tail.refusing(), Damaged: l.catalog.damaged()}
	if len(segments) > 0 {
		s.FirstIndex = segments[0].info.First
	}
	for _, seg := range segments {
		s.DiskBytes += fileBytes(seg.path)
	}
	return s
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }
