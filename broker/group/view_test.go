package group

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

const topicID = 77

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, v *View, index uint64, group string, offsets ...Offset) {
	t.Helper()
	must(t, v.ApplyOffsets(index, EncodeOffsets(group, offsets)))
}

func grant(t testing.TB, v *View, index uint64, group, client string, queues ...int) {
	t.Helper()
	must(t, v.ApplyLeases(index, EncodeLeases(group, topicID, client, queues)))
}

func wantLease(t testing.TB, v *View, group string, queue int, client string, fence uint64) {
	t.Helper()
	gotClient, gotFence, ok := v.Lease(group, topicID, queue)
	if gotClient != client || gotFence != fence || ok != (client != "") {
		t.Errorf("lease of queue %d: got %q, %d, %v; want %q, %d", queue, gotClient, gotFence, ok, client, fence)
	}
}

func wantCommitted(t testing.TB, v *View, group string, queue int, want int64) {
	t.Helper()
	if got := v.Committed(group, topicID, queue); got != want {
		t.Errorf("committed offset of queue %d: got %d, want %d", queue, got, want)
	}
}

func TestPutCreatesAndAlters(t *testing.T) {
	v := New()
	if _, ok := v.Config("g"); ok {
		t.Error("a group that nobody created is there")
	}
	for i, enabled := range []bool{true, false, true} {
		cfg := protocol.GroupConfig{Name: "g", ConsumeEnabled: enabled}
		must(t, v.ApplyPut(uint64(i+1), EncodePut(cfg)))
		if got, ok := v.Config("g"); !ok || got != cfg {
			t.Errorf("got %v, %v; want %v", got, ok, cfg)
		}
	}
	must(t, v.ApplyPut(4, EncodePut(Default("a"))))
	if got := v.Groups(); !slices.Equal(got, []string{"a", "g"}) || v.Count() != 2 {
		t.Errorf("got groups %v, count %d", got, v.Count())
	}
}

func TestAlterKeepsOffsetsAndLeases(t *testing.T) {
	v := New()
	commit(t, v, 1, "g", Offset{TopicID: topicID, Offset: 9})
	grant(t, v, 2, "g", "c", 0)
	must(t, v.ApplyPut(3, EncodePut(protocol.GroupConfig{Name: "g"})))
	wantCommitted(t, v, "g", 0, 9)
	wantLease(t, v, "g", 0, "c", 2)
}

func TestDeleteTakesOffsetsAndLeasesAlong(t *testing.T) {
	v := New()
	commit(t, v, 1, "g", Offset{TopicID: topicID, Offset: 9})
	grant(t, v, 2, "g", "c", 0, 1)
	commit(t, v, 3, "other", Offset{TopicID: topicID, Offset: 5})
	must(t, v.ApplyDelete(4, EncodeDelete("g")))
	must(t, v.ApplyDelete(5, EncodeDelete("g")))
	must(t, v.ApplyPut(6, EncodePut(Default("g"))))
	wantCommitted(t, v, "g", 0, -1)
	wantLease(t, v, "g", 1, "", 0)
	wantCommitted(t, v, "other", 0, 5)
}

func TestOffsetsCreateTheGroup(t *testing.T) {
	v := New()
	commit(t, v, 1, "g", Offset{TopicID: topicID, Queue: 3, Offset: 0})
	if cfg, ok := v.Config("g"); !ok || cfg != Default("g") || !cfg.ConsumeEnabled {
		t.Errorf("got %v, %v; want the default", cfg, ok)
	}
	wantCommitted(t, v, "g", 3, 0)
	grant(t, v, 2, "by lease", "c", 1)
	if cfg, ok := v.Config("by lease"); !ok || cfg != Default("by lease") {
		t.Errorf("got %v, %v; want the default", cfg, ok)
	}
}

func TestRecordsWithoutEffectCreateNoGroup(t *testing.T) {
	v := New()
	commit(t, v, 1, "g", Offset{TopicID: topicID, Offset: 4, Fence: 12}) // of a deleted group's lease
	commit(t, v, 2, "g")
	must(t, v.ApplyLeases(3, EncodeLeases("g", topicID, "", []int{0})))
	must(t, v.ApplyLeases(4, EncodeLeases("g", topicID, "c", nil)))
	if got := v.Groups(); len(got) != 0 {
		t.Errorf("got groups %v, want none", got)
	}
}

func TestOffsetsGoBackOnlyByReset(t *testing.T) {
	v := New()
	commit(t, v, 1, "g", Offset{TopicID: topicID, Offset: 10})
	commit(t, v, 2, "g", Offset{TopicID: topicID, Offset: 4})
	wantCommitted(t, v, "g", 0, 10)
	commit(t, v, 3, "g", Offset{TopicID: topicID, Offset: 4, Reset: true})
	wantCommitted(t, v, "g", 0, 4)
	commit(t, v, 4, "g", Offset{TopicID: topicID, Offset: 6}, Offset{TopicID: topicID, Offset: 5})
	wantCommitted(t, v, "g", 0, 6)
	commit(t, v, 5, "g", Offset{TopicID: topicID, Offset: 0, Reset: true})
	wantCommitted(t, v, "g", 0, 0)
}

func TestResetEndsTheLeaseOfItsQueue(t *testing.T) {
	v := New()
	grant(t, v, 1, "g", "c", 0, 1)
	commit(t, v, 2, "g", Offset{TopicID: topicID, Offset: 10, Reset: true})
	wantLease(t, v, "g", 0, "", 0)
	wantLease(t, v, "g", 1, "c", 1)
	if err := v.Check("g", topicID, 0, "c", 1); !errors.Is(err, protocol.Fenced) {
		t.Errorf("got %v, want Fenced", err)
	}
	grant(t, v, 3, "g", "c", 0, 1)
	wantLease(t, v, "g", 0, "c", 3)
	wantLease(t, v, "g", 1, "c", 1)
}

func TestCommitWithAFenceCountsOnlyWhileItIsHeld(t *testing.T) {
	v := New()
	grant(t, v, 1, "g", "c", 0)
	commit(t, v, 2, "g", Offset{TopicID: topicID, Offset: 10, Fence: 1})
	wantCommitted(t, v, "g", 0, 10)
	commit(t, v, 3, "g", Offset{TopicID: topicID, Offset: 2, Reset: true})
	commit(t, v, 4, "g", Offset{TopicID: topicID, Offset: 11, Fence: 1}) // was on its way
	wantCommitted(t, v, "g", 0, 2)
	grant(t, v, 5, "g", "d", 0)
	commit(t, v, 6, "g", Offset{TopicID: topicID, Offset: 12, Fence: 1})
	wantCommitted(t, v, "g", 0, 2)
	commit(t, v, 7, "g", Offset{TopicID: topicID, Offset: 3, Fence: 5})
	wantCommitted(t, v, "g", 0, 3)
}

func TestGrants(t *testing.T) {
	v := New()
	grant(t, v, 1, "g", "c", 0, 1)
	grant(t, v, 2, "g", "c", 0, 1, 2) // 0 and 1 are held already
	wantLease(t, v, "g", 0, "c", 1)
	wantLease(t, v, "g", 2, "c", 2)
	grant(t, v, 3, "g", "d", 0, 3) // 0 is another's
	wantLease(t, v, "g", 0, "c", 1)
	wantLease(t, v, "g", 3, "d", 3)
	grant(t, v, 4, "other", "d", 0)
	wantLease(t, v, "g", 0, "c", 1)
	wantLease(t, v, "other", 0, "d", 4)
}

func TestReleases(t *testing.T) {
	v := New()
	grant(t, v, 1, "g", "c", 0, 1)
	grant(t, v, 2, "g", "d", 2)
	must(t, v.ApplyLeases(3, EncodeRelease("g", topicID, "c", []int{0, 2})))
	wantLease(t, v, "g", 0, "", 0)
	wantLease(t, v, "g", 2, "d", 2)
	must(t, v.ApplyLeases(4, EncodeLeases("g", topicID, "", []int{1, 2})))
	wantLease(t, v, "g", 1, "", 0)
	wantLease(t, v, "g", 2, "", 0)
	grant(t, v, 5, "g", "c", 0)
	wantLease(t, v, "g", 0, "c", 5)
}

func TestCheck(t *testing.T) {
	v := New()
	grant(t, v, 5, "g", "c", 0)
	if err := v.Check("g", topicID, 0, "c", 5); err != nil {
		t.Errorf("the holder: %v", err)
	}
	for _, c := range []struct {
		group  string
		topic  uint64
		queue  int
		client string
		fence  uint64
	}{
		{"other", topicID, 0, "c", 5},
		{"g", topicID + 1, 0, "c", 5},
		{"g", topicID, 1, "c", 5},
		{"g", topicID, 0, "d", 5},
		{"g", topicID, 0, "c", 4},
		{"g", topicID, 0, "c", 0},
		{"g", topicID, 1, "", 0},
		{"g", topicID, -1, "", 0},
	} {
		err := v.Check(c.group, c.topic, c.queue, c.client, c.fence)
		var e *protocol.Error
		if !errors.Is(err, protocol.Fenced) || !errors.As(err, &e) {
			t.Errorf("%v: got %v, want Fenced", c, err)
		}
	}
}

func TestLists(t *testing.T) {
	v := New()
	grant(t, v, 1, "g", "c", 3, 1)
	grant(t, v, 2, "g", "d", 2)
	grant(t, v, 3, "f", "d", 2)
	commit(t, v, 4, "g", Offset{TopicID: topicID, Queue: 1, Offset: 8}, Offset{TopicID: 5, Queue: 9, Offset: 7})
	want := []Progress{
		{TopicID: 5, Queue: 9, Committed: 7},
		{TopicID: topicID, Queue: 1, Committed: 8, Client: "c", Fence: 1},
		{TopicID: topicID, Queue: 2, Committed: -1, Client: "d", Fence: 2},
		{TopicID: topicID, Queue: 3, Committed: -1, Client: "c", Fence: 1},
	}
	if got := v.Offsets("g"); !slices.Equal(got, want) {
		t.Errorf("offsets: got %v, want %v", got, want)
	}
	if got := v.LeasesOf("g", "c"); !slices.Equal(got, []Progress{want[1], want[3]}) {
		t.Errorf("leases of c: got %v", got)
	}
	if got := v.LeasesOf("g", ""); len(got) != 0 {
		t.Errorf("leases of nobody: got %v", got)
	}
	if got := v.Offsets("unknown"); len(got) != 0 {
		t.Errorf("offsets of an unknown group: got %v", got)
	}
	holders := []Holder{{"d", "f"}, {"c", "g"}, {"d", "g"}}
	if got := v.Holders(); !slices.Equal(got, holders) {
		t.Errorf("holders: got %v, want %v", got, holders)
	}
}

func TestDropTopic(t *testing.T) {
	v := New()
	grant(t, v, 1, "g", "c", 0, 1)
	commit(t, v, 2, "g", Offset{TopicID: topicID, Offset: 8}, Offset{TopicID: 5, Offset: 7})
	commit(t, v, 3, "f", Offset{TopicID: topicID, Offset: 8})
	v.DropTopic(topicID)
	v.DropTopic(topicID)
	if got, want := v.Offsets("g"), []Progress{{TopicID: 5, Committed: 7}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := v.Offsets("f"); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
	if _, ok := v.Config("f"); !ok {
		t.Error("the group went with the topic")
	}
}

func TestIllegibleRecordChangesNothing(t *testing.T) {
	v := New()
	for name, apply := range map[string]func(uint64, []byte) error{
		"put": v.ApplyPut, "delete": v.ApplyDelete, "offsets": v.ApplyOffsets, "leases": v.ApplyLeases,
	} {
		for _, data := range [][]byte{nil, {0}, {1}, {2, 1, 'g', 1}, {1, 0}, {1, 1, 'g', 200}} {
			if err := apply(1, data); !errors.Is(err, ErrRecord) {
				t.Errorf("%s %x: got %v, want ErrRecord", name, data, err)
			}
		}
	}
	if len(v.Groups()) != 0 {
		t.Errorf("got groups %v", v.Groups())
	}
}

// TestRowBytes pins the rows that the package comment shows.
func TestRowBytes(t *testing.T) {
	v := New()
	commit(t, v, 1, "g", Offset{TopicID: 0x0102, Queue: 3, Offset: 100})
	must(t, v.ApplyLeases(300, EncodeLeases("g", 0x0102, "c1", []int{3, 4})))
	grant(t, v, 301, "g", "d", 0)
	grant(t, v, 302, "g", "", 0)
	must(t, v.ApplyPut(303, EncodePut(protocol.GroupConfig{Name: "off"})))
	got := map[string]string{}
	v.Changes(
		func(key, value []byte) { got[fmt.Sprintf("%x", key)] = fmt.Sprintf("%x", value) },
		func(key []byte) { got[fmt.Sprintf("%x", key)] = "deleted" },
	)
	want := map[string]string{
		"6767":                           "01",
		"676f6666":                       "00",
		"710167000000000000010200000003": "c801ac026331",
		"710167000000000000010200000004": "01ac026331",
		"710167000000000000004d00000000": "deleted",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	v.Changes(
		func(key, _ []byte) { t.Errorf("key %x was handed over twice", key) },
		func(key []byte) { t.Errorf("key %x was deleted twice", key) },
	)
}

func TestLoadRefusesIllegibleRows(t *testing.T) {
	queue := row{group: "g", place: place{topic: 1, queue: 2}}.key()
	good := progress{committed: 1, fence: 2, client: "c"}.value()
	for _, r := range []struct{ key, value []byte }{
		{nil, good},
		{[]byte{'x', 1}, good},
		{[]byte{rowGroup}, []byte{1}},
		{[]byte("gg"), nil},
		{[]byte("gg"), []byte{4}},
		{[]byte("gg"), []byte{1, 1}},
		{append([]byte("g"), make([]byte, 256)...), []byte{1}},
		{queue[:len(queue)-1], good},
		{append(slices.Clone(queue), 0), good},
		{row{group: "unknown"}.key(), good},
		{queue, nil},
		{queue, []byte{2}},
		{queue, []byte{3, 0}},      // offset -2
		{queue, []byte{2, 0, 'c'}}, // a client without a fence
		{queue, []byte{2, 1}},      // a fence without a client
		{queue, []byte{1, 0}},      // nothing at all
	} {
		v := New()
		must(t, v.Load([]byte("gg"), []byte{1}))
		if err := v.Load(r.key, r.value); !errors.Is(err, ErrRecord) {
			t.Errorf("row %x = %x: got %v, want ErrRecord", r.key, r.value, err)
		}
	}
}

func TestReadersRunBesideTheApplier(t *testing.T) {
	v := New()
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for last := int64(none); ; {
				select {
				case <-done:
					return
				default:
				}
				if now := v.Committed("g", topicID, 0); now < last {
					t.Errorf("the offset went from %d to %d", last, now)
				} else {
					last = now
				}
				for _, h := range v.Holders() {
					v.LeasesOf(h.Group, h.Client)
				}
				v.Offsets("g")
				v.Check("g", topicID, 1, "c", 1)
				v.Config("g")
				v.Groups()
			}
		})
	}
	for i := range 2000 {
		index := uint64(i + 1)
		commit(t, v, index, "g", Offset{TopicID: topicID, Offset: int64(i)})
		client := []string{"c", "d", ""}[i%3]
		grant(t, v, index, "g", client, i%5)
		if i%100 == 0 {
			v.DropTopic(5)
			must(t, v.ApplyPut(index, EncodePut(protocol.GroupConfig{Name: "g", ConsumeEnabled: i%200 == 0})))
			v.Changes(func(_, _ []byte) {}, func(_ []byte) {})
		}
	}
	close(done)
	readers.Wait()
}
