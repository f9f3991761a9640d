package meter

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func always[K any](K) bool { return true }

func alwaysBoth(string, uint64) bool { return true }

func TestSizePlace_IsTheFirstBoundThatIsNotLess(t *testing.T) {
	bounds := SizeBounds()
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.OneOf(rapid.Int64Range(-1, 5<<20), rapid.Map(rapid.IntRange(0, 5), func(i int) int64 { return int64(bounds[i]) })).Draw(t, "bytes")
		bytes += rapid.Int64Range(-1, 1).Draw(t, "beside")
		want := slices.IndexFunc(bounds, func(b float64) bool { return float64(bytes) <= b })
		if want < 0 {
			want = len(bounds)
		}
		if got := sizePlace(bytes); got != want {
			t.Fatalf("%d bytes: got place %d, want %d", bytes, got, want)
		}
	})
}

func TestStored_CountsByKind(t *testing.T) {
	m := New()
	m.Stored(7, Normal, 2, 3000) // 1,500 each
	m.Stored(7, FIFO, 1, 1024)
	m.Stored(7, Normal, 1, 5<<20)
	m.Stored(7, Priority, 0, 10)
	m.Held(7, 3)
	m.Released(7, 2)
	m.Decided(7, true)
	m.Decided(7, false)
	m.Decided(7, false)
	want := Topic{ID: 7, Held: 3, Released: 2, Committed: 1, RolledBack: 2}
	want.In[Normal], want.In[FIFO] = Traffic{3, 3000 + 5<<20}, Traffic{1, 1024}
	want.Sizes[Normal], want.Sizes[FIFO] = Sizes{1: 2, 6: 1}, Sizes{0: 1}
	if got := m.Topics(always); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTopics_ForgetsTheDeleted(t *testing.T) {
	m := New()
	m.Held(1, 1)
	m.Held(2, 1)
	if got := m.Topics(func(id uint64) bool { return id != 1 }); len(got) != 1 || got[0].ID != 2 {
		t.Errorf("got %+v, want topic 2 alone", got)
	}
	m.Held(1, 5)
	got := m.Topics(always)
	slices.SortFunc(got, func(a, b Topic) int { return cmp.Compare(a.ID, b.ID) })
	if len(got) != 2 || got[0].Held != 5 {
		t.Errorf("got %+v, want what came since", got)
	}
}

// However many topics and groups there are, the number of counters is bounded and
// nothing is lost of the sums.
func TestMeters_AreBounded(t *testing.T) {
	m := New()
	const more = 25
	for i := range Limit + more {
		m.Stored(uint64(i+1), Normal, 1, 10)
		m.Reader("g", uint64(i+1)).Given(1, 10)
		m.Buried(fmt.Sprint(i), "t")
	}
	topics, groups, dead := m.Topics(always), m.Groups(alwaysBoth), m.DeadLetters(always)
	if len(topics) != Limit+1 || len(groups) != Limit+1 || len(dead) != Limit+1 {
		t.Fatalf("got %d, %d and %d, want %d of each", len(topics), len(groups), len(dead), Limit+1)
	}
	if last := topics[Limit]; last.ID != 0 || last.In[Normal] != (Traffic{more, 10 * more}) {
		t.Errorf("got %+v for the rest", last)
	}
	if last := groups[Limit]; last.Name != "" || last.Topic != 0 || last.Out != (Traffic{more, 10 * more}) {
		t.Errorf("got %+v for the rest", last)
	}
	if last := dead[Limit]; last.Group != "" || last.Messages != more {
		t.Errorf("got %+v for the rest", last)
	}
	m.Stored(1, Normal, 1, 10)
	for _, topic := range m.Topics(always) {
		if topic.ID == 1 && topic.In[Normal].Messages != 2 {
			t.Errorf("got %+v: who was there before is counted by itself", topic)
		}
	}
}

func TestReach_IsTheLeaseHolders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, leases := New(), rapid.Uint64Range(0, 4)
		var fence uint64 // the model: the highest lease and how far it has come
		var next int64
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			f, n := leases.Draw(t, "fence"), rapid.Int64Range(0, 50).Draw(t, "next")
			m.Reader("g", 1).Reached(3, f, n)
			if f > fence {
				fence, next = f, n
			} else if f == fence {
				next = max(next, n)
			}
			for asked := range uint64(5) {
				got, ok := m.Reach("g", 1, 3, asked)
				if want := asked == fence && asked != 0; ok != want || ok && got != next {
					t.Fatalf("fence %d: got %d, %v; want %d of fence %d", asked, got, ok, next, fence)
				}
			}
		}
	})
	m := New()
	m.Reader("g", 1).Reached(0, 1, 5)
	for name, ask := range map[string]func() (int64, bool){
		"queue": func() (int64, bool) { return m.Reach("g", 1, 1, 1) },
		"topic": func() (int64, bool) { return m.Reach("g", 2, 0, 1) },
		"group": func() (int64, bool) { return m.Reach("h", 1, 0, 1) },
	} {
		if next, ok := ask(); ok {
			t.Errorf("another %s: got %d", name, next)
		}
	}
	if n := len(m.Groups(alwaysBoth)); n != 1 {
		t.Errorf("asking has made %d counters", n-1)
	}
}

func TestGroups_ForgetsTheDeleted(t *testing.T) {
	m := New()
	m.Reader("g", 1).Given(2, 20)
	m.Reader("", 1).Given(3, 30)
	m.Reader("h", 2).Given(1, 10)
	m.Buried("g", "t")
	m.Buried("h", "t")
	got := m.Groups(func(group string, topic uint64) bool { return topic == 1 })
	slices.SortFunc(got, func(a, b Group) int { return cmp.Compare(a.Name, b.Name) })
	if want := []Group{{"", 1, Traffic{3, 30}}, {"g", 1, Traffic{2, 20}}}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := m.DeadLetters(func(group string) bool { return group == "h" }); !slices.Equal(got, []DeadLetters{{"h", "t", 1}}) {
		t.Errorf("got %+v, want those of h", got)
	}
}

func TestMeters_CountFromAnyGoroutine(t *testing.T) {
	m := New()
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range 1000 {
				m.Stored(uint64(i%3+1), Normal, 1, 1)
				m.Reader("g", 1).Given(1, 1)
				m.Reader("g", 1).Reached(i%5, 1, int64(i))
				m.Topics(always)
			}
		})
	}
	workers.Wait()
	sum := int64(0)
	for _, topic := range m.Topics(always) {
		sum += topic.In[Normal].Messages
	}
	if groups := m.Groups(alwaysBoth); sum != 4000 || groups[0].Out.Messages != 4000 {
		t.Errorf("got %d in and %+v out, want 4000", sum, groups)
	}
}

// Counting is on the way of every batch.
func TestMeters_CountingAllocatesNothing(t *testing.T) {
	m := New()
	count := func() {
		m.Stored(1, Normal, 3, 300)
		r := m.Reader("group", 1)
		r.Given(3, 300)
		r.Reached(4, 7, 10)
		m.Buried("group", "topic")
	}
	count()
	if n := testing.AllocsPerRun(100, count); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
