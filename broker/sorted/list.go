// Package sorted keeps items in order: a part of views that have a million of
// something. It does no I/O and knows no record.
package sorted

import (
	"slices"
	"sort"
)

// chunkItems is how many items one piece of a list has at most: a change moves
// half of them, and a list of a million has a few thousand pieces.
const chunkItems = 512

// List keeps items in order, without duplicates. It is made for a million of
// them: it has no pointers but one for each chunk, and items that come in order
// fill their chunks. Make one with By. It is not safe for concurrent use.
type List[T any] struct {
	compare func(a, b T) int
	chunks  [][]T // none is empty
	n       int
}

// By returns an empty list in the order that compare says.
func By[T any](compare func(a, b T) int) List[T] { return List[T]{compare: compare} }

// Len is how many items there are.
func (l *List[T]) Len() int { return l.n }

// chunkOf is the chunk that has the item, or would have it; there is one.
func (l *List[T]) chunkOf(v T) int {
	after := sort.Search(len(l.chunks), func(i int) bool { return l.compare(l.chunks[i][0], v) > 0 })
	return max(after-1, 0)
}

// Get returns the item that compares as v does; nil when there is none. It is
// valid until the list changes, and may be changed but in what it is ordered by.
func (l *List[T]) Get(v T) *T {
	if l.n == 0 {
		return nil
	}
	c := l.chunks[l.chunkOf(v)]
	if i, ok := slices.BinarySearchFunc(c, v, l.compare); ok {
		return &c[i]
	}
	return nil
}

// First is the lowest item; nil for an empty list.
func (l *List[T]) First() *T {
	if l.n == 0 {
		return nil
	}
	return &l.chunks[0][0]
}

// Insert reports whether the item was not there yet.
func (l *List[T]) Insert(v T) bool {
	if l.n == 0 {
		l.chunks = [][]T{{v}} // it grows: most lists have few items
		l.n = 1
		return true
	}
	at := l.chunkOf(v)
	i, found := slices.BinarySearchFunc(l.chunks[at], v, l.compare)
	if found {
		return false
	}
	if len(l.chunks[at]) == chunkItems {
		at, i = l.split(at, i)
	}
	l.chunks[at] = slices.Insert(l.chunks[at], i, v)
	l.n++
	return true
}

// split makes room in a full chunk, and returns where its i-th place is now.
// Behind the last item of all a new chunk begins, so that items that come in
// order fill theirs.
func (l *List[T]) split(at, i int) (int, int) {
	keep := chunkItems / 2
	if at == len(l.chunks)-1 && i == chunkItems {
		keep = chunkItems
	}
	c := l.chunks[at]
	l.chunks = slices.Insert(l.chunks, at+1, append(make([]T, 0, chunkItems), c[keep:]...))
	clear(c[keep:])
	l.chunks[at] = c[:keep]
	if i > keep || keep == chunkItems {
		return at + 1, i - keep
	}
	return at, i
}

// Remove reports whether the item was there.
func (l *List[T]) Remove(v T) bool {
	if l.n == 0 {
		return false
	}
	at := l.chunkOf(v)
	i, found := slices.BinarySearchFunc(l.chunks[at], v, l.compare)
	if !found {
		return false
	}
	l.chunks[at] = slices.Delete(l.chunks[at], i, i+1)
	l.n--
	l.merge(max(at-1, 0))
	l.merge(at)
	return true
}

// merge joins a chunk with the next one if both are small, so that what is left
// of many items takes little room.
func (l *List[T]) merge(at int) {
	switch {
	case at >= len(l.chunks):
	case len(l.chunks[at]) == 0:
		l.chunks = slices.Delete(l.chunks, at, at+1)
	case at+1 < len(l.chunks) && len(l.chunks[at])+len(l.chunks[at+1]) <= chunkItems/2:
		l.chunks[at] = append(l.chunks[at], l.chunks[at+1]...)
		l.chunks = slices.Delete(l.chunks, at+1, at+2)
	}
}

// Ascend hands over the items from v on, in order, while visit wants more.
func (l *List[T]) Ascend(v T, visit func(*T) bool) {
	if l.n == 0 {
		return
	}
	at := l.chunkOf(v)
	i, _ := slices.BinarySearchFunc(l.chunks[at], v, l.compare)
	for ; at < len(l.chunks); at, i = at+1, 0 {
		for c := l.chunks[at]; i < len(c); i++ {
			if !visit(&c[i]) {
				return
			}
		}
	}
}

// RemoveFunc removes what matches.
func (l *List[T]) RemoveFunc(match func(*T) bool) {
	kept := By(l.compare)
	for _, c := range l.chunks {
		for i := range c {
			if !match(&c[i]) {
				kept.Insert(c[i])
			}
		}
	}
	*l = kept
}

// Below is how many items come before v.
func (l *List[T]) Below(v T) (n int) {
	if l.n == 0 {
		return 0
	}
	at := l.chunkOf(v)
	for _, c := range l.chunks[:at] {
		n += len(c)
	}
	i, _ := slices.BinarySearchFunc(l.chunks[at], v, l.compare)
	return n + i
}
