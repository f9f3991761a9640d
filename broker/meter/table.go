package meter

import (
	"maps"
	"sync"
)

// table has the counters of each key. Those that come beyond its limit share one.
type table[K comparable, V any] struct {
	limit int
	rest  *V

	mu      sync.RWMutex
	entries map[K]*V
	shared  bool // rest counts for somebody
}

func newTable[K comparable, V any](limit int) table[K, V] {
	return table[K, V]{limit: limit, rest: new(V), entries: map[K]*V{}}
}

// of is the counters of a key, which are made when it has none.
func (t *table[K, V]) of(key K) *V {
	t.mu.RLock()
	v := t.entries[key]
	t.mu.RUnlock()
	if v != nil {
		return v
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.entries[key] != nil:
	case len(t.entries) >= t.limit:
		t.shared = true
		return t.rest
	default:
		t.entries[key] = new(V)
	}
	return t.entries[key]
}

// find is of that makes nothing.
func (t *table[K, V]) find(key K) *V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.entries[key]
}

// each visits all counters, the shared ones last and with the zero key, after those
// are forgotten whose key is not kept.
func (t *table[K, V]) each(keep func(K) bool, visit func(K, *V)) {
	t.mu.Lock()
	maps.DeleteFunc(t.entries, func(key K, _ *V) bool { return !keep(key) })
	entries, shared := maps.Clone(t.entries), t.shared
	t.mu.Unlock()
	for key, v := range entries {
		visit(key, v)
	}
	if shared {
		var zero K
		visit(zero, t.rest)
	}
}
