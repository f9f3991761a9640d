package admin

import (
	"iter"
	"slices"

	"github.com/rmqio/rmq/message"
)

// found is a sequence of messages of which the first was taken.
type found struct {
	first message.Stored
	next  func() (message.Stored, error, bool)
}

// advance takes the next message and hands over the errors before it.
func (f *found) advance(yield func(message.Stored, error) bool) (ok, wanted bool) {
	for {
		m, err, ok := f.next()
		switch {
		case !ok:
			return false, true
		case err == nil:
			f.first = m
			return true, true
		case !yield(message.Stored{}, err):
			return false, false
		}
	}
}

// mergeNewest yields the messages of sequences that are newest first in one that
// is so too. It takes one message of each before it yields the first.
func mergeNewest(all []iter.Seq2[message.Stored, error], yield func(message.Stored, error) bool) {
	var left []*found
	for _, seq := range all {
		next, stop := iter.Pull2(seq)
		defer stop()
		f := &found{next: next}
		ok, wanted := f.advance(yield)
		if !wanted {
			return
		}
		if ok {
			left = append(left, f)
		}
	}
	for len(left) > 0 {
		newest := slices.MaxFunc(left, func(a, b *found) int { return a.first.StoreTime.Compare(b.first.StoreTime) })
		if !yield(newest.first, nil) {
			return
		}
		ok, wanted := newest.advance(yield)
		if !wanted {
			return
		}
		if !ok {
			left = slices.DeleteFunc(left, func(f *found) bool { return f == newest })
		}
	}
}
