package sequence

import (
	"cmp"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/aged"
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

	mu     sync.RWMutex
	tracks *aged.Map[Key, entry] // the oldest has been idle for longest
}

// entry is a track with its last batch.
type entry struct {
	Track
	index  uint64 // of its record
	millis int64  // when it was stored
}

// New returns a view without tracks.
func New(cfg Config) *View {
	return &View{
		expiry: cmp.Or(cfg.Expiry, DefaultExpiry).Milliseconds(), limit: cmp.Or(cfg.Limit, DefaultLimit),
		tracks: aged.New[Key](func(a, b *entry) int { return cmp.Compare(a.index, b.index) }),
	}
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
	if e := v.tracks.Get(k); e != nil {
		return &e.Value.Track
	}
	return nil
}

// Count is the number of tracks.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.tracks.Len()
}

// maxLook bounds how far Admit looks down the list.
const maxLook = 1024

// Admit returns nil when there is room for the track, now and with so many others
// that are not committed yet, and a *protocol.Error with Busy when a track would
// be forgotten for it that is not idle for Grace.
func (v *View) Admit(k Key, others int, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tracks.Get(k) != nil {
		return nil
	}
	victims := v.tracks.Len() + others + 1 - v.limit
	e := v.tracks.Oldest()
	for range min(victims, maxLook) {
		if e == nil || now.UnixMilli()-e.Value.millis < Grace.Milliseconds() {
			return full(v.limit)
		}
		e = v.tracks.Younger(e)
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
	e := &v.tracks.Touch(k).Value
	e.Take(s, count, at)
	e.index, e.millis = at.Index, at.Millis
	for old := v.tracks.Oldest(); v.tracks.Len() > v.limit || old.Value.millis+v.expiry <= at.Millis; old = v.tracks.Oldest() {
		v.tracks.Remove(old)
	}
}

// DropTopic forgets the tracks of a topic, when the record that deletes it is
// applied.
func (v *View) DropTopic(topicID uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tracks.RemoveAll(func(k Key) bool { return k.Queue.Topic == topicID })
}
