package dedup

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// Config of a view. It decides what is forgotten when, so it should stay as it is
// for the life of a log: a view that is built anew with another one may differ.
type Config struct {
	Name   string        // of the view; empty: dedup
	Window time.Duration // 0: DefaultWindow
	Limit  int           // of keys; 0: DefaultLimit
}

// View is the set of keys. Reading methods may be called from any goroutine.
// Apply, DropTopic, Load and Changes belong to the one goroutine that applies the
// log.
type View struct {
	name   string
	window int64 // milliseconds
	limit  int
	// changed holds the keys whose rows differ from those that Changes has handed
	// over; only the applying goroutine uses it.
	changed map[Key]struct{}

	mu       sync.RWMutex
	keys     map[Key]*entry
	ends     entry // of the list of all, in the order of the log: ends.next is the oldest
	unsorted bool  // rows were loaded, and the list is not in order yet
}

type entry struct {
	Key
	Place
	prev, next *entry
}

// New returns a view without keys.
func New(cfg Config) *View {
	v := &View{
		name:   cmp.Or(cfg.Name, "dedup"),
		window: cmp.Or(cfg.Window, DefaultWindow).Milliseconds(), limit: cmp.Or(cfg.Limit, DefaultLimit),
		changed: map[Key]struct{}{}, keys: map[Key]*entry{},
	}
	v.ends.prev, v.ends.next = &v.ends, &v.ends
	return v
}

// Find says where the message of a key is, if it was stored within the window
// that ends now.
func (v *View) Find(k Key, now time.Time) (Place, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	e := v.keys[k]
	if e == nil || v.isOver(e, now.UnixMilli()) {
		return Place{}, false
	}
	return e.Place, true
}

func (v *View) isOver(e *entry, millis int64) bool { return e.Millis+v.window <= millis }

// Count is the number of keys.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.keys)
}

// maxLook bounds how far Admit looks down the list.
const maxLook = 1024

// Admit returns nil when there is room for one more key, now and with so many
// others that are not committed yet, and a *protocol.Error with FlowControl when
// a key within its window would be forgotten for it.
func (v *View) Admit(others int, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sortLocked()
	victims := len(v.keys) + others + 1 - v.limit
	e := v.ends.next
	for range min(victims, maxLook) {
		if e == &v.ends || !v.isOver(e, now.UnixMilli()) {
			return v.full()
		}
		e = e.next
	}
	if victims > maxLook {
		return v.full()
	}
	return nil
}

// fullPause is what a producer is told to wait when there is no room for a key.
const fullPause = time.Second

func (v *View) full() error {
	err := protocol.Errorf(protocol.FlowControl, "%d deduplication keys are within their window of %v, which is the limit",
		v.limit, time.Duration(v.window)*time.Millisecond)
	err.RetryAfterMillis = fullPause.Milliseconds()
	return err
}

// Apply enters the message of a key, which is stored at a place, and forgets what
// is out of its window by then or too much. A key that is there moves.
func (v *View) Apply(k Key, at Place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sortLocked()
	e := v.keys[k]
	if e == nil {
		e = &entry{Key: k}
		v.keys[k] = e
	} else {
		e.unlink()
	}
	e.Place = at
	v.pushLocked(e)
	v.changed[k] = struct{}{}
	for old := v.ends.next; len(v.keys) > v.limit || v.isOver(old, at.Millis); old = v.ends.next {
		v.removeLocked(old)
	}
}

// pushLocked makes an entry the newest of the list.
func (v *View) pushLocked(e *entry) {
	e.prev, e.next = v.ends.prev, &v.ends
	e.prev.next, e.next.prev = e, e
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (v *View) removeLocked(e *entry) {
	e.unlink()
	delete(v.keys, e.Key)
	v.changed[e.Key] = struct{}{}
}

// sortLocked brings the list into order after rows were loaded.
func (v *View) sortLocked() {
	if !v.unsorted {
		return
	}
	v.unsorted = false
	all := make([]*entry, 0, len(v.keys))
	for _, e := range v.keys {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.Index, b.Index) })
	v.ends.prev, v.ends.next = &v.ends, &v.ends
	for _, e := range all {
		v.pushLocked(e)
	}
}

// DropTopic forgets the keys of a topic, when the record that deletes it is
// applied.
func (v *View) DropTopic(topicID uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, e := range v.keys {
		if k.Topic == topicID {
			v.removeLocked(e)
		}
	}
}
