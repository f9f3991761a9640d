// Package aged keeps values by key, and in the order in which records of the log
// last touched them, so that a view can forget the oldest. It is a part of a view:
// it does no I/O, knows no record, and is not safe for concurrent use.
package aged

import "slices"

// Map is such values. Make one with New.
type Map[K comparable, V any] struct {
	order    func(a, b *V) int
	entries  map[K]*Entry[K, V]
	ends     Entry[K, V] // of the list of all: ends.next is the oldest
	unsorted bool        // values were loaded, and the list is not in order yet
	changed  map[K]struct{}
}

// Entry is a value in the list. Key is not to be changed.
type Entry[K comparable, V any] struct {
	Key        K
	Value      V
	prev, next *Entry[K, V]
}

// New returns an empty map. Order compares values that were loaded by the records
// that last touched them; it is not asked about others.
func New[K comparable, V any](order func(a, b *V) int) *Map[K, V] {
	m := &Map[K, V]{order: order, entries: map[K]*Entry[K, V]{}, changed: map[K]struct{}{}}
	m.ends.prev, m.ends.next = &m.ends, &m.ends
	return m
}

// Len is the number of values.
func (m *Map[K, V]) Len() int { return len(m.entries) }

// Get returns what a key has; nil: nothing. It changes nothing.
func (m *Map[K, V]) Get(k K) *Entry[K, V] { return m.entries[k] }

// Touch makes a key's value, which is zero if there was none, the newest.
func (m *Map[K, V]) Touch(k K) *Entry[K, V] {
	m.sort()
	e := m.entries[k]
	if e == nil {
		e = &Entry[K, V]{Key: k}
		m.entries[k] = e
	} else {
		e.unlink()
	}
	m.push(e)
	m.changed[k] = struct{}{}
	return e
}

// Load takes in a value from a row, in any order.
func (m *Map[K, V]) Load(k K, v V) {
	e := &Entry[K, V]{Key: k, Value: v}
	m.entries[k] = e
	m.unsorted = true
	m.push(e)
}

// Oldest returns the value that was touched longest ago; nil: there is none.
func (m *Map[K, V]) Oldest() *Entry[K, V] {
	m.sort()
	return m.Younger(&m.ends)
}

// Younger returns the one that was touched next after e; nil: e is the newest.
func (m *Map[K, V]) Younger(e *Entry[K, V]) *Entry[K, V] {
	if e.next == &m.ends {
		return nil
	}
	return e.next
}

// Remove forgets a value.
func (m *Map[K, V]) Remove(e *Entry[K, V]) {
	e.unlink()
	delete(m.entries, e.Key)
	m.changed[e.Key] = struct{}{}
}

// RemoveAll forgets the values of the keys that are picked.
func (m *Map[K, V]) RemoveAll(pick func(K) bool) {
	for k, e := range m.entries {
		if pick(k) {
			m.Remove(e)
		}
	}
}

// Changes hands over each key that was touched or removed since the last call,
// with what it has now; nil: nothing.
func (m *Map[K, V]) Changes(visit func(K, *Entry[K, V])) {
	for k := range m.changed {
		visit(k, m.entries[k])
	}
	m.changed = map[K]struct{}{} // not cleared: it may have been large once
}

// push makes an entry the newest of the list.
func (m *Map[K, V]) push(e *Entry[K, V]) {
	e.prev, e.next = m.ends.prev, &m.ends
	e.prev.next, e.next.prev = e, e
}

func (e *Entry[K, V]) unlink() { e.prev.next, e.next.prev = e.next, e.prev }

// sort brings the list into order after values were loaded.
func (m *Map[K, V]) sort() {
	if !m.unsorted {
		return
	}
	m.unsorted = false
	all := make([]*Entry[K, V], 0, len(m.entries))
	for _, e := range m.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *Entry[K, V]) int { return m.order(&a.Value, &b.Value) })
	m.ends.prev, m.ends.next = &m.ends, &m.ends
	for _, e := range all {
		m.push(e)
	}
}
