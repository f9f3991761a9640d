package quota

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rmqio/rmq/transport/protocol"
)

// View is the set of quotas. Reading methods may be called from any goroutine.
// Apply, Load and Changes belong to the one goroutine that applies the log.
type View struct {
	changed map[owner]struct{} // rows that differ from those that Changes has handed over
	count   atomic.Int64       // of quotas, so that Any needs no lock

	mu     sync.RWMutex
	quotas map[owner]protocol.Rates
}

// owner is whom a quota is for; an empty name is everybody who has none.
type owner struct {
	scope protocol.QuotaScope
	name  string
}

// New returns a view without quotas.
func New() *View {
	return &View{changed: map[owner]struct{}{}, quotas: map[owner]protocol.Rates{}}
}

// Any reports whether there is any quota.
func (v *View) Any() bool { return v.count.Load() > 0 }

// Lookup is the quota that holds for a group or client: its own, else the one
// for those that have none, else no bound.
func (v *View) Lookup(scope protocol.QuotaScope, name string) (r protocol.Rates, own bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if r, own = v.quotas[owner{scope, name}]; own && name != "" {
		return r, true
	}
	return v.quotas[owner{scope, ""}], false
}

// Get is the quota of exactly this name; the empty one is that for those that
// have none of their own.
func (v *View) Get(scope protocol.QuotaScope, name string) (r protocol.Rates, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	r, ok = v.quotas[owner{scope, name}]
	return r, ok
}

// List returns all quotas, sorted by scope and name. The slice is the caller's.
func (v *View) List() []protocol.QuotaConfig {
	v.mu.RLock()
	list := make([]protocol.QuotaConfig, 0, len(v.quotas))
	for o, r := range v.quotas {
		list = append(list, protocol.QuotaConfig{Scope: o.scope, Name: o.name, Rates: r})
	}
	v.mu.RUnlock()
	slices.SortFunc(list, func(a, b protocol.QuotaConfig) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// Apply applies a record with the payload of Encode that stands at index in the
// log. Removing a quota that is not there is no error. Errors: ErrRecord; nothing
// is changed then.
func (v *View) Apply(index uint64, data []byte) error {
	q, err := Decode(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.set(owner{q.Scope, q.Name}, q.Rates)
	v.changed[owner{q.Scope, q.Name}] = struct{}{}
	return nil
}

func (v *View) set(o owner, r protocol.Rates) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r == (protocol.Rates{}) {
		delete(v.quotas, o)
	} else {
		v.quotas[o] = r
	}
	v.count.Store(int64(len(v.quotas)))
}

// Name implements view.View.
func (v *View) Name() string { return "quota" }

// Load implements view.View. Errors: ErrRecord.
func (v *View) Load(key, value []byte) error {
	if len(key) == 0 || len(key) > 1+maxNameBytes {
		return fmt.Errorf("%w: key %x", ErrRecord, key)
	}
	scope, ok := scopeOf(key[0])
	r, err := decodeRates(value)
	switch {
	case err != nil:
		return err
	case !ok || r == (protocol.Rates{}):
		return fmt.Errorf("%w: row %x with value %x", ErrRecord, key, value)
	}
	v.set(owner{scope, string(key[1:])}, r)
	return nil
}

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	for o := range v.changed {
		scope, _ := byteOf(o.scope)
		key := append([]byte{scope}, o.name...)
		if r, ok := v.quotas[o]; ok {
			put(key, appendRates(nil, r))
		} else {
			del(key)
		}
	}
	clear(v.changed)
}
