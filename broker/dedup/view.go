package dedup

import (
	"cmp"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/aged"
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

	mu   sync.RWMutex
	keys *aged.Map[Key, Place]
}

// New returns a view without keys.
func New(cfg Config) *View {
	return &View{
		name:   cmp.Or(cfg.Name, "dedup"),
		window: cmp.Or(cfg.Window, DefaultWindow).Milliseconds(), limit: cmp.Or(cfg.Limit, DefaultLimit),
		keys: aged.New[Key](func(a, b *Place) int { return cmp.Compare(a.Index, b.Index) }),
	}
}

// Find says where the message of a key is, if it was stored within the window
// that ends now.
func (v *View) Find(k Key, now time.Time) (Place, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	e := v.keys.Get(k)
	if e == nil || v.isOver(&e.Value, now.UnixMilli()) {
		return Place{}, false
	}
	return e.Value, true
}

func (v *View) isOver(p *Place, millis int64) bool { return p.Millis+v.window <= millis }

// Count is the number of keys.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.keys.Len()
}

// maxLook bounds how far Admit looks down the list.
const maxLook = 1024

// Admit returns nil when there is room for one more key, now and with so many
// others that are not committed yet, and a *protocol.Error with FlowControl when
// a key within its window would be forgotten for it.
func (v *View) Admit(others int, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	victims := v.keys.Len() + others + 1 - v.limit
	e := v.keys.Oldest()
	for range min(victims, maxLook) {
		if e == nil || !v.isOver(&e.Value, now.UnixMilli()) {
			return v.full()
		}
		e = v.keys.Younger(e)
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
	v.keys.Touch(k).Value = at
	for old := v.keys.Oldest(); v.keys.Len() > v.limit || v.isOver(&old.Value, at.Millis); old = v.keys.Oldest() {
		v.keys.Remove(old)
	}
}

// DropTopic forgets the keys of a topic, when the record that deletes it is
// applied.
func (v *View) DropTopic(topicID uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys.RemoveAll(func(k Key) bool { return k.Topic == topicID })
}
