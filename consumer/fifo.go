package consumer

import "slices"

// fifo is a queue in memory. The zero value is empty.
type fifo[T any] struct {
	items []T // items[head:] are there
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

// front is the item that pop would give; there must be one.
func (f *fifo[T]) front() *T { return &f.items[f.head] }

// at is the item with i items before it.
func (f *fifo[T]) at(i int) *T { return &f.items[f.head+i] }

// pop takes the front item; the zero value when there is none.
func (f *fifo[T]) pop() T {
	var zero T
	if f.len() == 0 {
		return zero
	}
	v := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	f.compact()
	return v
}

// compact gives back the room in front once it is half of the slice, so that a
// fifo that is never empty does not grow.
func (f *fifo[T]) compact() {
	if f.head*2 < len(f.items) {
		return
	}
	n := copy(f.items, f.items[f.head:])
	clear(f.items[n:])
	f.items, f.head = f.items[:n], 0
}

// keep drops the items that ok does not hold for.
func (f *fifo[T]) keep(ok func(T) bool) {
	kept := f.items[:0]
	for _, v := range f.items[f.head:] {
		if ok(v) {
			kept = append(kept, v)
		}
	}
	clear(f.items[len(kept):])
	f.items, f.head = kept, 0
}

// pushFront puts items before all others, in their order.
func (f *fifo[T]) pushFront(items ...T) {
	f.items, f.head = append(slices.Clone(items), f.items[f.head:]...), 0
}
