package transaction

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

const ours, side = 5, 6 // topics

func halfRecord(index uint64, topic uint64, millis int64, immunity ...int64) store.Committed {
	r := store.Record{Type: store.HalfRecord, Queue: store.QueueKey{Topic: topic, Queue: 3}}
	r.Data = EncodeHalf(&Half{Group: fmt.Sprint("g", index%2), ImmunityMillis: immunity, Batch: halves(index*100, len(immunity))})
	return store.Committed{Record: r, Index: index, StoreMillis: millis}
}

func releaseRecord(index uint64, origin uint64, topic uint64, millis int64, positions ...int) store.Committed {
	b := batch.NewBuilder("", 0)
	b.Begin(&batch.Lead{Topic: "orders", Queue: 2, Release: batch.Release{Origin: origin, Positions: positions}})
	for range positions {
		b.Add(&message.Message{ID: id(1), BornTime: time.UnixMilli(1)})
	}
	r := store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: topic, Queue: 2}, Data: b.Finish()}
	return store.Committed{Record: r, Index: index, BaseOffset: int64(index) * 10, StoreMillis: millis}
}

func decisionRecord(index uint64, d Decision, millis int64, keys ...Key) store.Committed {
	return store.Committed{Record: store.Record{Type: store.DecisionRecord, Data: EncodeDecision(d, keys...)}, Index: index, StoreMillis: millis}
}

func apply(t testing.TB, v *View, r store.Committed) {
	t.Helper()
	if err := applyTo(v, r); err != nil {
		t.Fatalf("record %d: %v", r.Index, err)
	}
}

func applyTo(v *View, r store.Committed) error {
	switch r.Type {
	case store.HalfRecord:
		return v.ApplyHalf(r)
	case store.BatchRecord:
		return v.ApplyRelease(r)
	case store.DecisionRecord:
		return v.ApplyDecision(r)
	case store.CarryRecord:
		return v.ApplyCarry(r.Index, r.Queue.Topic) // the tests' own notion of a carry record
	default:
		v.DropTopic(r.Queue.Topic)
		return nil
	}
}

func keysOf(list []Message) (keys []Key) {
	for _, m := range list {
		keys = append(keys, m.Key)
	}
	return keys
}

func all(*Message) bool { return true }

func TestFirstDecisionHolds(t *testing.T) {
	k := Key{Origin: 10, Position: 1}
	commit := releaseRecord(11, 10, ours, 2000, 0, 1)
	rollback := decisionRecord(12, RolledBack, 3000, k)
	for _, c := range []struct {
		name string
		do   []store.Committed
		want Verdict
	}{
		{"commit", []store.Committed{commit, rollback}, Verdict{Key: k, ID: id(1001), TopicID: ours, Queue: 2, Offset: 111, StoreMillis: 2000}},
		{"rollback", []store.Committed{rollback, commit}, Verdict{Key: k, ID: id(1001), TopicID: ours, Queue: 3, Offset: -1, StoreMillis: 3000}},
		{"commit after parking", []store.Committed{releaseRecord(11, 10, side, 1500, 1), releaseRecord(11, 10, ours, 2000, 0, 1), rollback},
			Verdict{Key: k, ID: id(1001), TopicID: ours, Queue: 2, Offset: 111, StoreMillis: 2000}},
		{"rollback after parking", []store.Committed{releaseRecord(11, 10, side, 1500, 1), rollback, commit},
			Verdict{Key: k, ID: id(1001), TopicID: ours, Queue: 3, Offset: -1, StoreMillis: 3000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := New()
			apply(t, v, halfRecord(10, ours, 1000, 0, 0, 0))
			for _, r := range c.do {
				apply(t, v, r)
			}
			if got, ok := v.Decided(k); !ok || got != c.want || got.Committed() != (c.want.Offset >= 0) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if m, ok := v.Open(k); ok {
				t.Errorf("it is open: %+v", m)
			}
			if m, ok := v.Open(Key{Origin: 10, Position: 2}); !ok || m.ID != id(1002) || v.Pending() < 1 {
				t.Errorf("another message of the record is not open: %+v", m)
			}
		})
	}
}

func TestOpenMessage(t *testing.T) {
	v := New()
	want := Message{
		Key: Key{Origin: 10, Position: 1}, ID: id(1001), TopicID: ours, Queue: 3, Group: "g0", At: 10,
		Bytes: len(halfRecord(10, ours, 1000, 0, 500).Data), StoreMillis: 1000, ImmunityMillis: 500,
	}
	check := func(what string) {
		t.Helper()
		if got, ok := v.Open(want.Key); !ok || got != want {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
	}
	apply(t, v, halfRecord(10, ours, 1000, 0, 500))
	check("new")
	apply(t, v, decisionRecord(11, Asked, 7000, want.Key, Key{Origin: 99}, Key{Origin: 10, Position: 9}))
	want.Checks, want.AskedMillis = 1, 7000
	check("asked")
	apply(t, v, releaseRecord(12, 10, side, 8000, 1))
	want.Parked = true
	check("parked")
	if err := v.ApplyCarry(13, 10); err != nil {
		t.Fatal(err)
	}
	want.At = 13
	check("carried")
	apply(t, v, releaseRecord(14, 99, ours, 8000, 1)) // of a timer, or of nothing
	check("after another release")
	for _, k := range []Key{{Origin: 10, Position: 2}, {Origin: 10, Position: -1}, {Origin: 11}, {}} {
		if m, ok := v.Open(k); ok {
			t.Errorf("%v is open: %+v", k, m)
		}
	}
	if got := v.Pending(); got != 2 {
		t.Errorf("%d are open, want 2", got)
	}
	if err := v.ApplyCarry(14, 99); err != nil {
		t.Errorf("carry of nothing: %v", err)
	}
	if err := v.ApplyCarry(13, 10); !errors.Is(err, ErrRecord) {
		t.Errorf("carry to where it stands: got %v, want ErrRecord", err)
	}
}

func TestList(t *testing.T) {
	v := New()
	for i := range uint64(5) {
		apply(t, v, halfRecord(10+i, ours, 1000, 0, 0))
	}
	apply(t, v, decisionRecord(20, RolledBack, 1000, Key{Origin: 11}, Key{Origin: 12}, Key{Origin: 12, Position: 1}))
	want := []Key{{10, 0}, {10, 1}, {11, 1}, {13, 0}, {13, 1}, {14, 0}, {14, 1}}
	for limit := 1; limit <= 8; limit++ {
		var got []Key
		for more, after := true, (Key{}); more; {
			var page []Message
			if page, more = v.List(after, limit, all); len(page) > limit {
				t.Fatalf("page of %d, the limit is %d", len(page), limit)
			}
			got = append(got, keysOf(page)...)
			after = got[len(got)-1]
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: got %v, want %v", limit, got, want)
		}
	}
	odd, more := v.List(Key{Origin: 12, Position: 7}, 1, func(m *Message) bool { return m.Group == "g0" })
	if len(odd) != 1 || odd[0].Key != (Key{14, 0}) || !more {
		t.Errorf("of group g0 behind 12: got %v, %v", odd, more)
	}
}

func TestDecisionsAreForgotten(t *testing.T) {
	day := DecidedFor.Milliseconds()
	v := New()
	v.decided.limit = 3
	index := uint64(1)
	decide := func(millis int64) Key {
		k := Key{Origin: index}
		apply(t, v, halfRecord(index, ours, millis, 0))
		apply(t, v, decisionRecord(index+1, RolledBack, millis, k))
		index += 2
		return k
	}
	want := func(k Key, remembered bool) {
		t.Helper()
		if _, ok := v.Decided(k); ok != remembered {
			t.Errorf("decision on %v: remembered is %v", k, ok)
		}
	}
	a, b, c := decide(0), decide(1), decide(day)
	want(a, true)
	d := decide(day)
	want(a, false)
	want(b, true)
	e := decide(day + 2)
	want(b, false)
	want(c, true)
	f := decide(2*day + 1)
	want(c, false)
	want(d, false)
	want(e, true)
	want(f, true)
}

func TestDeletedTopicTakesItsMessagesAlong(t *testing.T) {
	v := New()
	told := map[Key]bool{}
	v.Watch(func(m Message, open bool) { told[m.Key] = open })
	apply(t, v, halfRecord(10, ours, 1000, 0, 0))
	apply(t, v, halfRecord(11, side, 1000, 0))
	v.DropTopic(ours)
	if got, _ := v.List(Key{}, 10, all); v.Pending() != 1 || len(got) != 1 || got[0].Origin != 11 {
		t.Errorf("%d are open: %v", v.Pending(), got)
	}
	if want := (map[Key]bool{{10, 0}: false, {10, 1}: false, {11, 0}: true}); !maps.Equal(told, want) {
		t.Errorf("told was %v, want %v", told, want)
	}
}

// TestWatchMayRead: whoever is told may look at the view, which has the change.
func TestWatchMayRead(t *testing.T) {
	v := New()
	apply(t, v, halfRecord(10, ours, 1000, 0))
	calls := 0
	v.Watch(func(m Message, open bool) {
		calls++
		if got, ok := v.Open(m.Key); ok != open || open && got != m {
			t.Errorf("told of %+v (%v), the view has %+v (%v)", m, open, got, ok)
		}
	})
	apply(t, v, decisionRecord(11, Asked, 1000, Key{Origin: 10}))
	apply(t, v, decisionRecord(12, RolledBack, 1000, Key{Origin: 10}))
	if calls != 3 {
		t.Errorf("told %d times, want 3", calls)
	}
}

func TestBadRows(t *testing.T) {
	rows := map[string][]byte{}
	v := New()
	apply(t, v, halfRecord(10, ours, 1000, 0, 7))
	apply(t, v, decisionRecord(11, Asked, 2000, Key{Origin: 10}))
	apply(t, v, halfRecord(12, ours, 1000, 0))
	apply(t, v, decisionRecord(13, RolledBack, 2000, Key{Origin: 12}))
	v.Changes(func(key, value []byte) { rows[string(key)] = bytes.Clone(value) }, func([]byte) {})
	if len(rows) != 2 {
		t.Fatalf("got rows %v", rows)
	}
	for key, value := range rows {
		for n := range value {
			if err := New().Load([]byte(key), value[:n]); !errors.Is(err, ErrRecord) {
				t.Errorf("row %x cut to %d bytes: got %v, want ErrRecord", key, n, err)
			}
		}
		for _, bad := range []struct {
			key   string
			value []byte
		}{{key, append(bytes.Clone(value), 0)}, {key[:8], value}, {key + "x", value}, {"x" + key[1:], value}} {
			if err := New().Load([]byte(bad.key), bad.value); !errors.Is(err, ErrRecord) {
				t.Errorf("row %x with value %x: got %v, want ErrRecord", bad.key, bad.value, err)
			}
		}
		again := New()
		if err := again.Load([]byte(key), value); err != nil {
			t.Errorf("row %x: %v", key, err)
		}
	}
	twice := &half{at: 11, group: "g", open: []open{{position: 1}, {position: 1}}}
	none := &half{at: 11, group: "g"}
	before := &half{at: 10, group: "g", open: []open{{position: 1}}}
	for what, h := range map[string]*half{"a position twice": twice, "nothing open": none, "it stands before its origin": before} {
		if err := New().Load(row{kind: rowHalf, number: 11}.key(), h.value()); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", what, err)
		}
	}
	decided := New()
	for i, number := range []uint64{7, 8, 10} {
		verdict := Verdict{Key: Key{Origin: number}}
		if err := decided.Load(row{kind: rowDecided, number: number}.key(), verdict.value()); (err != nil) != (i == 2) {
			t.Errorf("decision %d: %v", number, err)
		}
	}
}

// TestListsAreTidied: what is not open any more does not stay in memory.
func TestListsAreTidied(t *testing.T) {
	v := New()
	apply(t, v, halfRecord(1, ours, 0, 0))
	for i := range uint64(1000) {
		apply(t, v, halfRecord(10+3*i, ours, 0, 0))
		if err := v.ApplyCarry(11+3*i, 10+3*i); err != nil {
			t.Fatal(err)
		}
		apply(t, v, decisionRecord(12+3*i, RolledBack, 0, Key{Origin: 10 + 3*i}))
	}
	for i := range uint64(1000) {
		if err := v.ApplyCarry(10_000+i, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(v.order) > 100 || len(v.places.list) > 100 {
		t.Errorf("for one open message %d origins and %d places are kept", len(v.order), len(v.places.list))
	}
	if got, _ := v.List(Key{}, 10, all); len(got) != 1 || v.OldestAt() != 10_999 {
		t.Errorf("got %v, the oldest at %d", got, v.OldestAt())
	}
}
