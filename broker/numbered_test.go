package broker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// shelf is a state on disk without a broker around it.
type shelf struct {
	*testing.T
	dir   string
	cfg   Config
	state *state
	topic topic.Topic
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	s := &shelf{T: t, dir: t.TempDir()}
	cfg, err := Config{DataDir: s.dir}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Store.FirstSegmentBytes, cfg.Store.SegmentBytes = 64<<10, 64<<10
	s.cfg = cfg
	s.open("views.db")
	s.put(store.Record{Type: store.TopicRecord, Data: topic.EncodePut(protocol.TopicConfig{Name: "t", ReadQueues: 4, WriteQueues: 4, Perm: message.PermReadWrite})})
	var ok bool
	if s.topic, ok = s.state.topics.Lookup("t"); !ok {
		t.Fatal("no topic")
	}
	return s
}

func (s *shelf) open(views string) {
	s.Helper()
	var err error
	if s.state, err = openState(filepath.Join(s.dir, LogDir), filepath.Join(s.dir, views), s.cfg); err != nil {
		s.Fatal(err)
	}
}

func (s *shelf) close() {
	s.Helper()
	if err := s.state.close(); err != nil {
		s.Fatal(err)
	}
}

func (s *shelf) put(r store.Record) {
	s.Helper()
	if err := s.state.append(s.Context(), r); err != nil {
		s.Fatal(err)
	}
}

// send sends a batch as the broker's sender does, and waits for its outcome.
func (s *shelf) send(b []byte) protocol.SendResult {
	s.Helper()
	h, err := batch.Check(b)
	if err != nil {
		s.Fatal(err)
	}
	done := make(chan protocol.SendResult, 1)
	key := store.QueueKey{Topic: s.topic.ID, Queue: uint32(h.Queue)}
	p := &parcel{Header: h, bytes: slices.Clone(b), topic: s.topic, queue: key, done: func(r protocol.SendResult) { done <- r }}
	if err := s.state.once.take(p, (&sender{state: s.state}).append); err != nil {
		return protocol.SendResult{Err: protocol.AsError(err)}
	}
	return <-done
}

func numbered(queue int, q batch.Sequence, count int, key string) []byte {
	b := batch.NewBuilder("t", 0)
	b.Begin(&batch.Lead{Topic: "t", Queue: queue, Sequence: q})
	for i := range count {
		b.Add(&message.Message{ID: message.MakeID(q.Incarnation, q.First+uint64(i)), BornTime: time.UnixMilli(1), DedupKey: key})
	}
	return slices.Clone(b.Finish())
}

// rows is what the two views would write, all of it.
func (s *shelf) rows(batches [][]byte) map[string]string {
	s.Helper()
	all := map[string]string{}
	for i, b := range batches {
		h, err := batch.ParseHeader(b)
		if err != nil {
			s.Fatal(err)
		}
		k := sequence.KeyOf(&h, store.QueueKey{Topic: s.topic.ID, Queue: uint32(h.Queue)})
		at, known, err := s.state.sequences.Judge(k, &h.Sequence, h.Count)
		all[fmt.Sprint("batch ", i)] = fmt.Sprint(at, known, err)
		if batch.HasDedupKey(b) {
			key, _ := dedupKey(s.topic.ID, b)
			all[fmt.Sprint("key ", key)] = fmt.Sprint(s.state.keys.Find(key, time.UnixMilli(0)))
		}
	}
	return all
}

// Views that are loaded from any position and get the rest of the log know what
// those know that saw it all.
func TestNumbered_ViewsAreReplayedFromEveryPosition(t *testing.T) {
	s := newShelf(t)
	random := rand.New(rand.NewPCG(1, 2))
	var batches [][]byte
	var saved []string
	next := map[[2]int]uint64{}
	for i := range 60 {
		producer, queue := 1+random.IntN(2), random.IntN(3)
		at := [2]int{producer, queue}
		q := batch.Sequence{Producer: uint64(producer), Incarnation: uint64(1 + i/25), First: next[at], Begin: true, Again: i%7 == 0}
		count, key := 1+random.IntN(5), ""
		if i%5 == 0 {
			count, key = 1, fmt.Sprint("key", i%15)
		}
		if i%9 == 8 {
			q.First -= min(q.First, 3) // an overlap, or something old
		}
		b := numbered(queue, q, count, key)
		if r := s.send(b); r.Err == nil && !r.Duplicate {
			next[at] = q.First + uint64(count) + uint64(random.IntN(2))
		}
		batches = append(batches, b)
		s.state.mu.Lock()
		err := s.state.flush()
		s.state.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 0 {
			saved = append(saved, fmt.Sprint("views", i, ".db"))
			copyFile(t, filepath.Join(s.dir, "views.db"), filepath.Join(s.dir, saved[len(saved)-1]))
		}
	}
	want := s.rows(batches)
	s.close()
	for _, views := range append(saved, "nothing.db", "views.db") {
		s.open(views)
		if got := s.rows(batches); !maps.Equal(got, want) {
			for k, v := range want {
				if got[k] != v {
					t.Errorf("%s: %s is %s, want %s", views, k, got[k], v)
				}
			}
		}
		s.close()
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A duplicate is answered with the first receipt also after a restart, and by
// views that were built anew.
func TestNumbered_DuplicatesAcrossRestarts(t *testing.T) {
	s := newShelf(t)
	q := batch.Sequence{Producer: 7, Incarnation: 8, Begin: true}
	plain, keyed := numbered(1, q, 3, ""), numbered(2, q, 1, "order-1")
	first, firstKeyed := s.send(plain), s.send(keyed)
	want := func(b []byte, queue int, first protocol.SendResult) {
		t.Helper()
		first.Duplicate, first.Queue = true, queue
		if got := s.send(b); got != first {
			t.Errorf("got %+v, want %+v", got, first)
		}
	}
	for _, views := range []string{"views.db", "views.db", "nothing.db"} {
		want(plain, 1, first)
		want(keyed, 2, firstKeyed)
		want(numbered(3, batch.Sequence{}, 1, "order-1"), 2, firstKeyed)
		s.close()
		s.open(views)
	}
	if end := s.end(1) + s.end(2) + s.end(3); end != 4 {
		t.Errorf("got %d messages, want 4", end)
	}
	s.close()
}

func (s *shelf) end(queue uint32) int64 {
	_, end := s.state.log.Bounds(store.QueueKey{Topic: s.topic.ID, Queue: queue})
	return end
}

// A topic that is deleted takes along what is known of it, also of a batch that
// was on its way meanwhile.
func TestNumbered_DeletedTopic(t *testing.T) {
	s := newShelf(t)
	q := batch.Sequence{Producer: 7, Incarnation: 8, Begin: true}
	s.send(numbered(1, q, 3, ""))
	s.send(numbered(1, batch.Sequence{Producer: 7, Incarnation: 8, First: 3}, 1, "k"))
	if s.state.sequences.Count() != 1 || s.state.keys.Count() != 1 {
		t.Fatalf("got %d tracks and %d keys", s.state.sequences.Count(), s.state.keys.Count())
	}
	s.put(store.Record{Type: store.TopicDeleteRecord, Queue: store.QueueKey{Topic: s.topic.ID}, Data: topic.EncodeDelete("t")})
	s.send(numbered(2, q, 1, "late"))
	if s.state.sequences.Count() != 0 || s.state.keys.Count() != 0 {
		t.Errorf("got %d tracks and %d keys of a topic that is gone", s.state.sequences.Count(), s.state.keys.Count())
	}
	s.close()
}

func TestIdempotence_Defaults(t *testing.T) {
	got, err := Idempotence{}.withDefaults()
	want := Idempotence{ProducerExpiry: 24 * time.Hour, MaxProducers: 500_000, DedupWindow: 24 * time.Hour, MaxDedupKeys: 1_000_000}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []Idempotence{
		{ProducerExpiry: sequence.Grace - 1}, {MaxProducers: -1}, {DedupWindow: -1}, {MaxDedupKeys: -1}, {DedupWindow: time.Microsecond},
	} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// What failed on the way to the disk may be there, unless there was no room for
// it or the log was closed.
func TestOutcome(t *testing.T) {
	for err, want := range map[error]protocol.ErrorCode{
		store.ErrPoisoned: protocol.UnknownOutcome, os.ErrClosed: protocol.UnknownOutcome,
		store.ErrNoSpace: protocol.Unavailable, store.ErrClosed: protocol.Unavailable,
	} {
		wrapped := fmt.Errorf("%w: why", err)
		if got := stored(store.Committed{}, wrapped).Err; got.Code != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
		if got := heldBack(store.Committed{}, wrapped).Err; got.Code != want {
			t.Errorf("held back, %v: got %v, want %v", err, got, want)
		}
	}
	if got := stored(store.Committed{BaseOffset: 5, StoreMillis: 6}, nil); got != (protocol.SendResult{BaseOffset: 5, StoreMillis: 6}) {
		t.Errorf("got %+v", got)
	}
}

// Numbers alone do not have the views written more often than messages do; keys
// do, because there may be many of them.
func TestNumbered_ViewsAreWrittenInTime(t *testing.T) {
	for _, tc := range []struct {
		key   string
		after time.Duration
		want  bool
	}{
		{"", flushChanged, false}, {"", flushIdle, true}, {"k", flushChanged, true},
	} {
		s := newShelf(t)
		clock := time.UnixMilli(1_700_000_000_000)
		s.state.mu.Lock()
		s.state.now = func() time.Time { return clock }
		err := s.state.flush()
		s.state.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		before := s.state.rows.Position()
		q := batch.Sequence{Producer: 7, Incarnation: 8, Begin: true}
		s.send(numbered(1, q, 1, tc.key))
		s.state.mu.Lock()
		clock = clock.Add(tc.after)
		s.state.mu.Unlock()
		q.First, q.Begin = 1, false
		s.send(numbered(1, q, 1, ""))
		s.state.mu.Lock()
		if written := s.state.rows.Position() > before; written != tc.want {
			t.Errorf("key %q, after %v: got %v, want %v", tc.key, tc.after, written, tc.want)
		}
		s.state.mu.Unlock()
		s.close()
	}
}
