package store

import (
	"os"
	"sync"
)

// The next segment is asked for when askShare of the active one is used, and is
// whole when readyShare is.
const (
	askShare   = 1.0 / 8
	readyShare = 3.0 / 4
)

// preparedFile is an empty segment, or why there is none.
type preparedFile struct {
	path     string
	capacity int64
	err      error
}

// prepareNext is the goroutine that prepares the next segment, off the path of
// appends.
func (l *Log) prepareNext() {
	for info := range l.wanted {
		l.prepared <- l.prepare(info.Capacity)
	}
}

func (l *Log) prepare(capacity int64) preparedFile {
	f, old := preparedFile{path: l.path(preparedName), capacity: capacity}, l.path(recycledName)
	if fileBytes(old) < capacity {
		if f.err = l.checkRoom(capacity); f.err != nil {
			return f
		}
	}
	if f.err = prepareFile(f.path, old, capacity, l.pace.wait); f.err != nil {
		os.Remove(f.path) // it may be what fills the disk
	}
	return f
}

// pace lets the next segment be filled with zeros at the rate at which the active
// one is used: all at once would take the disk from the commits for a while. The
// writer moves it, the preparer waits.
type pace struct {
	mu    sync.Mutex
	moved sync.Cond
	used  float64 // share of the active segment
	ended bool
}

func newPace() *pace {
	p := &pace{}
	p.moved.L = &p.mu
	return p
}

// set tells how much of the active segment is used; 1 that the next is waited for.
func (p *pace) set(used float64) {
	p.mu.Lock()
	p.used = used
	p.mu.Unlock()
	p.moved.Signal()
}

// end has the preparer give up.
func (p *pace) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.moved.Signal()
}

// wait returns when the next segment may be filled beyond a share of it. It returns
// ErrClosed when nobody wants it any more.
func (p *pace) wait(filled float64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.ended && p.used < askShare+filled*(readyShare-askShare) {
		p.moved.Wait()
	}
	if p.ended {
		return ErrClosed
	}
	return nil
}
