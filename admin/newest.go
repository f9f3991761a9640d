package admin

import (
	"iter"
	"slices"

	"github.com/rmqio/rmq/message"
)

// found is a sequence of which the first was taken.
type found[T any] struct {
	first T
	next  func() (T, error, bool)
}

// advance takes the next one and hands over the errors before it.
func (f *found[T]) advance(yield func(T, error) bool) (ok, wanted bool) {
	for {
		v, err, ok := f.next()
		switch {
		case !ok:
			return false, true
		case err == nil:
			f.first = v
			return true, true
		case !yield(v, err):
			return false, false
		}
	}
}

// merge yields what sequences in an order have, in one that has the order too. It
// takes one of each before it yields the first.
func merge[T any](all []iter.Seq2[T, error], compare func(a, b *T) int, yield func(T, error) bool) {
	var left []*found[T]
	for _, seq := range all {
		next, stop := iter.Pull2(seq)
		defer stop()
		f := &found[T]{next: next}
		ok, wanted := f.advance(yield)
		if !wanted {
			return
		}
		if ok {
			left = append(left, f)
		}
	}
	for len(left) > 0 {
		least := slices.MinFunc(left, func(a, b *found[T]) int { return compare(&a.first, &b.first) })
		if !yield(least.first, nil) {
			return
		}
		ok, wanted := least.advance(yield)
		if !wanted {
			return
		}
		if !ok {
			left = slices.DeleteFunc(left, func(f *found[T]) bool { return f == least })
		}
	}
}

// mergeNewest merges messages that are newest first.
func mergeNewest(all []iter.Seq2[message.Stored, error], yield func(message.Stored, error) bool) {
	merge(all, func(a, b *message.Stored) int { return b.StoreTime.Compare(a.StoreTime) }, yield)
}
