package consumer

import (
	"testing"

	"pgregory.net/rapid"
)

func TestWindowLowestIsTheLowestUnfinishedOffset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 5).Draw(t, "start")
		w, next := window{next: start}, start
		unfinished := map[int64]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				offset := next + rapid.Int64Range(0, 3).Draw(t, "gap")
				w.add(offset)
				unfinished[offset], next = true, offset+1
			},
			"skip": func(t *rapid.T) {
				to := next + rapid.Int64Range(-2, 3).Draw(t, "by")
				w.skip(to)
				next = max(next, to)
			},
			"finish": func(t *rapid.T) {
				offset := rapid.Int64Range(start, next+1).Draw(t, "offset")
				w.finish(offset)
				delete(unfinished, offset)
			},
			"": func(t *rapid.T) {
				want := next
				for offset := range unfinished {
					want = min(want, offset)
				}
				if got := w.lowest(); got != want {
					t.Fatalf("lowest: got %d, want %d of %v", got, want, unfinished)
				}
				if w.next != next || w.span() < len(unfinished) {
					t.Fatalf("next and span: got %d and %d, want %d and at least %d", w.next, w.span(), next, len(unfinished))
				}
			},
		})
	})
}

func TestFifoAgainstASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var f fifo[int]
		var model []int
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"push": func(*rapid.T) { n++; f.push(n); model = append(model, n) },
			"pop": func(t *rapid.T) {
				want := 0
				if len(model) > 0 {
					want, model = model[0], model[1:]
				}
				if got := f.pop(); got != want {
					t.Fatalf("pop: got %d, want %d", got, want)
				}
			},
			"keep": func(t *rapid.T) {
				by := rapid.IntRange(2, 5).Draw(t, "by")
				f.keep(func(v int) bool { return v%by != 0 })
				var kept []int
				for _, v := range model {
					if v%by != 0 {
						kept = append(kept, v)
					}
				}
				model = kept
			},
			"": func(t *rapid.T) {
				if f.len() != len(model) {
					t.Fatalf("len: got %d, want %d", f.len(), len(model))
				}
				for i, want := range model {
					if got := *f.at(i); got != want {
						t.Fatalf("item %d: got %d, want %d", i, got, want)
					}
				}
			},
		})
	})
}
