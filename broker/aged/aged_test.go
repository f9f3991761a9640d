package aged

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// stamped is a value that knows the record that touched it last.
type stamped struct{ index int }

// TestMap_AgainstModel holds it to a slice of keys, oldest first.
func TestMap_AgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var order []int
		values, changed := map[int]int{}, map[int]bool{}
		m := New[int](func(a, b *stamped) int { return cmp.Compare(a.index, b.index) })
		forget := func(k int) {
			order = slices.DeleteFunc(order, func(o int) bool { return o == k })
		}
		key := rapid.IntRange(0, 7)
		index := 0
		t.Repeat(map[string]func(*rapid.T){
			"touch": func(t *rapid.T) {
				k := key.Draw(t, "key")
				index++
				m.Touch(k).Value.index = index
				forget(k)
				order, values[k], changed[k] = append(order, k), index, true
			},
			"remove": func(t *rapid.T) {
				if e := m.Oldest(); e != nil {
					m.Remove(e)
					changed[order[0]] = true
					forget(order[0])
				}
			},
			"remove all": func(t *rapid.T) {
				odd := func(k int) bool { return k%2 == 1 }
				m.RemoveAll(odd)
				for _, k := range order {
					changed[k] = changed[k] || odd(k)
				}
				order = slices.DeleteFunc(order, odd)
			},
			"changes": func(t *rapid.T) {
				m.Changes(func(k int, e *Entry[int, stamped]) {
					if !changed[k] || (e != nil) != slices.Contains(order, k) || e != nil && e.Value.index != values[k] {
						t.Fatalf("key %d: %v", k, e)
					}
					delete(changed, k)
				})
				for k, is := range changed {
					if is {
						t.Fatalf("the change of key %d is not handed over", k)
					}
				}
			},
			"load anew": func(t *rapid.T) {
				rows := rapid.Permutation(order).Draw(t, "rows")
				m = New[int](func(a, b *stamped) int { return cmp.Compare(a.index, b.index) })
				changed = map[int]bool{}
				for _, k := range rows {
					m.Load(k, stamped{values[k]})
				}
			},
			"": func(t *rapid.T) {
				var got []int
				for e := m.Oldest(); e != nil; e = m.Younger(e) {
					if m.Get(e.Key) != e || e.Value.index != values[e.Key] {
						t.Fatalf("key %d is not what Get returns", e.Key)
					}
					got = append(got, e.Key)
				}
				if !slices.Equal(got, order) || m.Len() != len(order) {
					t.Fatalf("got %v and length %d, want %v", got, m.Len(), order)
				}
			},
		})
	})
}

// A value that is touched while rows are not in order yet is the newest all the
// same.
func TestMap_TouchAfterLoad(t *testing.T) {
	m := New[string](func(a, b *stamped) int { return cmp.Compare(a.index, b.index) })
	m.Load("young", stamped{2})
	m.Load("old", stamped{1})
	m.Touch("old").Value.index = 3
	if m.Oldest().Key != "young" || m.Younger(m.Oldest()).Key != "old" {
		t.Error("the order is not that of the records")
	}
}
