package transaction

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/rmqio/rmq/broker/store"
)

// places is where half records stand in the log, in its order. Places that
// nothing is needed from any more stay in the list for a while.
type places struct {
	list     []store.Located
	unsorted bool // rows come in the order of origins
}

func (p *places) add(l store.Located) {
	n := len(p.list)
	p.unsorted = p.unsorted || n > 0 && p.list[n-1].At > l.At
	p.list = append(p.list, l)
}

// from returns the places at or behind a log index.
func (p *places) from(at uint64) []store.Located {
	if p.unsorted {
		slices.SortFunc(p.list, func(a, b store.Located) int { return cmp.Compare(a.At, b.At) })
		p.unsorted = false
	}
	i, _ := slices.BinarySearchFunc(p.list, at, func(l store.Located, at uint64) int { return cmp.Compare(l.At, at) })
	return p.list[i:]
}

func (v *View) neededLocked(l store.Located) bool {
	h, ok := v.halves[l.Origin]
	return ok && h.at == l.At
}

// OldestAt is the log index of the oldest record that has open messages; 0: none.
func (v *View) OldestAt() uint64 {
	if oldest := v.Located(0, ^uint64(0), 1); len(oldest) > 0 {
		return oldest[0].At
	}
	return 0
}

// Located lists records that have open messages and stand at from or behind it
// but before the log index before, in log order, at most limit of them.
func (v *View) Located(from, before uint64, limit int) (list []store.Located) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, l := range v.places.from(from) {
		if l.At >= before || len(list) == limit {
			break
		}
		if v.neededLocked(l) {
			list = append(list, l)
		}
	}
	return list
}

// ApplyCarry notes that the record that was first at origin stands at index now.
// A record without open messages is no error.
func (v *View) ApplyCarry(index, origin uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	h, ok := v.halves[origin]
	switch {
	case !ok:
		return nil
	case index <= h.at:
		return fmt.Errorf("%w: record %d carries %d, which stands at %d", ErrRecord, index, origin, h.at)
	}
	h.at = index
	v.places.add(store.Located{Origin: origin, At: index, Bytes: h.bytes})
	v.changed[row{kind: rowHalf, number: origin}] = struct{}{}
	v.tidyLocked()
	return nil
}

// tidyLocked drops what is not needed from order and places, when that is most
// of them.
func (v *View) tidyLocked() {
	limit := 2*len(v.halves) + 64
	if len(v.order) > limit {
		v.order = slices.DeleteFunc(v.order, func(o uint64) bool { return v.halves[o] == nil })
	}
	if len(v.places.list) > limit {
		v.places.list = slices.DeleteFunc(v.places.list, func(l store.Located) bool { return !v.neededLocked(l) })
	}
}
