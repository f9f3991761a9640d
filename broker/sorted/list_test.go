package sorted

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func newInts() *List[int] {
	l := By(cmp.Compare[int])
	return &l
}

func (l *List[T]) all() (all []T) {
	for _, c := range l.chunks {
		all = append(all, c...)
	}
	return all
}

// TestListAgainstModel runs random changes, of runs of items so that chunks are
// split and merged, against a set.
func TestListAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, model := newInts(), map[int]bool{}
		run := func(t *rapid.T) (from, n, step int) {
			step = rapid.SampledFrom([]int{1, 1, -1, 7}).Draw(t, "step")
			return rapid.IntRange(0, 3000).Draw(t, "from"), rapid.SampledFrom([]int{1, 1, 10, 700}).Draw(t, "n"), step
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				from, n, step := run(t)
				for i := range n {
					if v := from + i*step; l.Insert(v) == model[v] {
						t.Fatalf("insert of %d: it was there: %v", v, model[v])
					}
					model[from+i*step] = true
				}
			},
			"remove": func(t *rapid.T) {
				from, n, step := run(t)
				for i := range n {
					if v := from + i*step; l.Remove(v) != model[v] {
						t.Fatalf("remove of %d: it was there: %v", v, model[v])
					}
					delete(model, from+i*step)
				}
			},
			"removeFunc": func(t *rapid.T) {
				by := rapid.IntRange(2, 5).Draw(t, "by")
				l.RemoveFunc(func(v *int) bool { return *v%by == 0 })
				maps.DeleteFunc(model, func(v int, _ bool) bool { return v%by == 0 })
			},
			"": func(t *rapid.T) { checkList(t, l, model) },
		})
	})
}

func checkList(t *rapid.T, l *List[int], model map[int]bool) {
	want := slices.Sorted(maps.Keys(model))
	if got := l.all(); !slices.Equal(got, want) || l.Len() != len(want) {
		t.Fatalf("got %d items, %d are in the chunks; want %d", l.n, len(got), len(want))
	}
	for i, c := range l.chunks {
		if len(c) == 0 || len(c) > chunkItems || i > 0 && len(c)+len(l.chunks[i-1]) < chunkItems/4 {
			t.Fatalf("chunk %d has %d items", i, len(c))
		}
	}
	from, limit := rapid.IntRange(-10, 4000).Draw(t, "from"), rapid.IntRange(1, 1000).Draw(t, "limit")
	i, found := slices.BinarySearch(want, from)
	if got := l.Get(from); (got != nil) != found || found && *got != from {
		t.Fatalf("get of %d: %v, it is there: %v", from, got, found)
	}
	if got := l.Below(from); got != i {
		t.Fatalf("%d items are below %d, want %d", got, from, i)
	}
	want = want[i:]
	want = want[:min(limit, len(want))]
	var got []int
	l.Ascend(from, func(v *int) bool { got = append(got, *v); return len(got) < limit })
	if !slices.Equal(got, want) {
		t.Fatalf("%d items from %d on: got %v, want %v", limit, from, got, want)
	}
	if first := l.First(); (first == nil) != (len(model) == 0) || first != nil && *first != l.all()[0] {
		t.Fatalf("first is %v", first)
	}
}

// TestListFillsChunksInOrder: what comes in order, as log indexes do, leaves no
// room unused.
func TestListFillsChunksInOrder(t *testing.T) {
	l := newInts()
	for i := range 10 * chunkItems {
		l.Insert(i)
	}
	if len(l.chunks) != 10 {
		t.Errorf("%d chunks for %d items", len(l.chunks), l.n)
	}
}
