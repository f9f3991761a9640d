package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// keyed makes a batch whose messages have ids and keys.
func keyed(queue uint32, ids []message.ID, key func(i int) []string) Record {
	b := batch.NewBuilder("orders", int(queue))
	for i, id := range ids {
		b.Add(&message.Message{Topic: "orders", ID: id, Keys: key(i), BornTime: time.UnixMilli(1), Body: make([]byte, 300)})
	}
	data := b.Finish()
	return Record{Type: BatchRecord, Queue: QueueKey{testTopic, queue}, Count: uint32(len(ids)), Data: data}
}

// TestLog_QueriesFindEverything compares queries by id and key with a model, in
// sealed segments and the active one, before and after reopening.
func TestLog_QueriesFindEverything(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	byKey, byID := map[string][]uint64{}, map[message.ID]uint64{}
	counters := [3]uint64{}
	for range 400 {
		var ids []message.ID
		for range 1 + rand.IntN(5) {
			p := rand.IntN(3)
			counters[p]++
			ids = append(ids, message.MakeID(uint64(p)<<60|7, counters[p]))
		}
		keys := make([][]string, len(ids))
		for i := range keys {
			for range rand.IntN(3) {
				keys[i] = append(keys[i], fmt.Sprintf("key%d", rand.IntN(200)))
			}
		}
		c := mustAppend(t, l, keyed(uint32(rand.IntN(4)), ids, func(i int) []string { return keys[i] }))
		for i, id := range ids {
			byID[id] = c.Index
			for _, k := range keys[i] {
				if !slices.Contains(byKey[k], c.Index) {
					byKey[k] = append(byKey[k], c.Index)
				}
			}
		}
	}
	if n := l.Status().Segments; n < 3 {
		t.Fatalf("%d segments: nothing is sealed", n)
	}
	check := func() {
		t.Helper()
		for k, want := range byKey {
			got, err := l.ByKey(testTopic, k, 0, 0)
			slices.Reverse(got)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("key %s: got %v, want %v: %v", k, got, want, err)
			}
		}
		for id, want := range byID {
			got, err := l.ByID(id)
			if err != nil || !slices.Contains(got, want) {
				t.Fatalf("id %v: got %v, want %d among them: %v", id, got, want, err)
			}
		}
		for _, index := range []uint64{1, 2, 199, 400} {
			if r, err := l.Record(index); err != nil || r.Index != index || len(r.Data) == 0 {
				t.Fatalf("record %d: %+v, %v", index, r, err)
			}
		}
		for _, index := range []uint64{0, 401} {
			if _, err := l.Record(index); !errors.Is(err, ErrOutOfRange) {
				t.Fatalf("record %d: got %v", index, err)
			}
		}
	}
	check()
	mustClose(t, l)
	l = mustOpen(t, dir, small())
	check()

	const k = "key7" // paged
	var pages []uint64
	for before := uint64(0); ; {
		page, err := l.ByKey(testTopic, k, before, 3)
		if err != nil || len(page) > 3 {
			t.Fatalf("page %v: %v", page, err)
		}
		if len(page) == 0 {
			break
		}
		pages = append(pages, page...)
		before = page[len(page)-1]
	}
	slices.Reverse(pages)
	if !slices.Equal(pages, byKey[k]) {
		t.Errorf("pages have %v, want %v", pages, byKey[k])
	}
	for _, c := range []struct {
		topic uint64
		key   string
	}{{testTopic, "no such key"}, {testTopic + 1, k}} {
		if got, err := l.ByKey(c.topic, c.key, 0, 0); err != nil || len(got) != 0 {
			t.Errorf("topic %d key %q: got %v, %v", c.topic, c.key, got, err)
		}
	}
}

// TestLog_KeyOfManyBatches pages through a key that has many blocks of the index of a
// sealed segment, and others between.
func TestLog_KeyOfManyBatches(t *testing.T) {
	const n = 4000
	dir := t.TempDir()
	o := Options{FirstSegmentBytes: 1 << 20, SegmentBytes: 1 << 20}
	l := mustOpen(t, dir, o)
	done := make(chan error, n)
	for i := range n {
		keys := func(int) []string { return []string{"often", fmt.Sprintf("once%d", i)} }
		if err := l.Append(keyed(0, []message.ID{message.MakeID(7, uint64(i))}, keys), func(_ Committed, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for _, limit := range []int{0, 100} {
			want := uint64(n)
			for before := uint64(0); want > 0; before = want + 1 {
				page, err := l.ByKey(testTopic, "often", before, limit)
				if err != nil || len(page) == 0 || limit > 0 && len(page) > limit {
					t.Fatalf("%d batches before %d: %v", len(page), before, err)
				}
				for _, index := range page {
					if index != want {
						t.Fatalf("got %d, want %d", index, want)
					}
					want--
				}
			}
		}
		for _, i := range []int{0, 1, 700, 2000, n - 1} {
			if got, err := l.ByKey(testTopic, fmt.Sprintf("once%d", i), 0, 0); err != nil || !slices.Equal(got, []uint64{uint64(i) + 1}) {
				t.Errorf("once%d: got %v, %v", i, got, err)
			}
		}
		mustClose(t, l)
		l = mustOpen(t, dir, o)
	}
	if l.Status().Segments < 2 {
		t.Fatal("nothing is sealed")
	}
}

func TestBloom_HasAllAndFewOthers(t *testing.T) {
	const n = 10_000
	b := newBloom(n)
	for i := range uint64(n) {
		b.add(keyHash(1, fmt.Sprint(i)))
	}
	wrong := 0
	for i := range uint64(n) {
		if !b.has(keyHash(1, fmt.Sprint(i))) {
			t.Fatalf("hash %d is missing", i)
		}
		if b.has(keyHash(2, fmt.Sprint(i))) {
			wrong++
		}
	}
	if wrong > n/25 {
		t.Errorf("%d of %d others seem to be there; about one in a hundred is expected", wrong, n)
	}
}
