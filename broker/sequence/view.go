package sequence

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Config of a view. It decides what is forgotten when, so it should stay as it is
// for the life of a log: a view that is built anew with another one may differ.
type Config struct {
	Expiry time.Duration // at least Grace; 0: DefaultExpiry
	Limit  int           // of tracks; 0: DefaultLimit
}

// View is the set of tracks. Reading methods may be called from any goroutine.
// Apply, DropTopic, Load and Changes belong to the one goroutine that applies the
// log.
type View struct {
	expiry int64 // milliseconds
	limit  int
	// changed holds the keys whose rows differ from those that Changes has handed
	// over; only the applying goroutine uses it.
	changed map[Key]struct{}

	mu       sync.RWMutex
	tracks   map[Key]*entry
	idle     entry // the ends of the list of all: idle.next has been idle for longest
	unsorted bool  // rows were loaded, and the list is not in order yet
}

// entry is a track in the list, which is in the order of the last batches.
type entry struct {
	Key
	Track
	index      uint64 // of the record of the last batch
	millis     int64  // when it was stored
	prev, next *entry
}

// New returns a view without tracks.
func New(cfg Config) *View {
	v := &View{
		expiry: cmp.Or(cfg.Expiry, DefaultExpiry).Milliseconds(), limit: cmp.Or(cfg.Limit, DefaultLimit),
		changed: map[Key]struct{}{}, tracks: map[Key]*entry{},
	}
	v.idle.prev, v.idle.next = &v.idle, &v.idle
	return v
}

// Judge is Track.Judge by what is committed.
func (v *View) Judge(k Key, s *batch.Sequence, count int) (at Place, known bool, err error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.trackLocked(k).Judge(s, count)
}

// Track returns a copy of a track, an empty one when nothing is known.
func (v *View) Track(k Key) *Track {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.trackLocked(k).Clone()
}

func (v *View) trackLocked(k Key) *Track {
	if e := v.tracks[k]; e != nil {
		return &e.Track
	}
	return nil
}

// Count is the number of tracks.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.tracks)
}

// maxLook bounds how far Admit looks down the list.
const maxLook = 1024

// Admit returns nil when there is room for the track, now and with so many others
// that are not committed yet, and a *protocol.Error with Busy when a track would
// be forgotten for it that is not idle for Grace.
func (v *View) Admit(k Key, others int, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tracks[k] != nil {
		return nil
	}
	v.sortLocked()
	victims := len(v.tracks) + others + 1 - v.limit
	e := v.idle.next
	for range min(victims, maxLook) {
		if e == &v.idle || now.UnixMilli()-e.millis < Grace.Milliseconds() {
			return full(v.limit)
		}
		e = e.next
	}
	if victims > maxLook {
		return full(v.limit)
	}
	return nil
}

// fullPause is what a producer is told to wait when there is no room for it.
const fullPause = time.Second

func full(limit int) error {
	err := protocol.Errorf(protocol.Busy, "%d numbered producers and queues are in use, which is the limit", limit)
	err.RetryAfterMillis = fullPause.Milliseconds()
	return err
}

// Apply enters a numbered batch of count messages that is stored at a place, and
// forgets what is too old by then or too much.
func (v *View) Apply(k Key, s *batch.Sequence, count int, at Place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sortLocked()
	e := v.tracks[k]
	if e == nil {
		e = &entry{Key: k}
		v.tracks[k] = e
	} else {
		e.unlink()
	}
	e.Take(s, count, at)
	e.index, e.millis = at.Index, at.Millis
	v.pushLocked(e)
	v.changed[k] = struct{}{}
	for old := v.idle.next; len(v.tracks) > v.limit || old.millis+v.expiry <= at.Millis; old = v.idle.next {
		v.removeLocked(old)
	}
}

// pushLocked makes an entry the newest of the list.
func (v *View) pushLocked(e *entry) {
	e.prev, e.next = v.idle.prev, &v.idle
	e.prev.next, e.next.prev = e, e
}

func (e *entry) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

func (v *View) removeLocked(e *entry) {
	e.unlink()
	delete(v.tracks, e.Key)
	v.changed[e.Key] = struct{}{}
}

// sortLocked brings the list into order after rows were loaded.
func (v *View) sortLocked() {
	if !v.unsorted {
		return
	}
	v.unsorted = false
	all := make([]*entry, 0, len(v.tracks))
	for _, e := range v.tracks {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return cmp.Compare(a.index, b.index) })
	v.idle.prev, v.idle.next = &v.idle, &v.idle
	for _, e := range all {
		v.pushLocked(e)
	}
}

// DropTopic forgets the tracks of a topic, when the record that deletes it is
// applied.
func (v *View) DropTopic(topicID uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, e := range v.tracks {
		if k.Queue.Topic == topicID {
			v.removeLocked(e)
		}
	}
}
