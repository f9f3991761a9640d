package topic

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

const (
	rowTopic   = 't'
	rowVersion = 'v'
)

// View is the set of topics. Reading methods may be called from any goroutine.
// Apply methods, Load and Changes belong to the one goroutine that applies the
// log.
type View struct {
	// changed holds the IDs whose rows differ from those that Changes has handed
	// over; only the applying goroutine uses it.
	changed map[uint64]struct{}

	mu      sync.RWMutex
	byName  map[string]Topic
	byID    map[uint64]Topic
	version uint64
}

// New returns a view without topics.
func New() *View {
	return &View{changed: map[uint64]struct{}{}, byName: map[string]Topic{}, byID: map[uint64]Topic{}}
}

// Lookup finds a topic by its name.
func (v *View) Lookup(name string) (Topic, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t, ok := v.byName[name]
	return t, ok
}

// ByID finds a topic by its ID.
func (v *View) ByID(id uint64) (Topic, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t, ok := v.byID[id]
	return t, ok
}

// List returns all topics, sorted by name. The slice is the caller's.
func (v *View) List() []Topic {
	v.mu.RLock()
	list := make([]Topic, 0, len(v.byName))
	for _, t := range v.byName {
		list = append(list, t)
	}
	v.mu.RUnlock()
	slices.SortFunc(list, func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// Count is the number of topics.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.byName)
}

// Version is the index of the record that made the last change: it grows with
// each. 0: there never was a topic. A record that changes nothing leaves it.
func (v *View) Version() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.version
}

// ApplyPut applies a record with the payload of EncodePut that stands at index
// in the log. A topic that is there already is changed and keeps its ID. Errors:
// ErrRecord; nothing is changed then.
func (v *View) ApplyPut(index uint64, data []byte) error {
	cfg, err := DecodePut(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	t, ok := v.byName[cfg.Name]
	if ok && t.TopicConfig == cfg {
		return nil
	}
	if !ok {
		t.ID = index
	}
	t.TopicConfig = cfg
	v.setLocked(t)
	v.version = index
	v.changed[t.ID] = struct{}{}
	return nil
}

func (v *View) setLocked(t Topic) {
	v.byName[t.Name] = t
	v.byID[t.ID] = t
}

// ApplyDelete applies a record with the payload of EncodeDelete that stands at
// index in the log. A topic that is not there is no error. Errors: ErrRecord;
// nothing is changed then.
func (v *View) ApplyDelete(index uint64, data []byte) error {
	name, err := DecodeDelete(data)
	if err != nil {
		return fmt.Errorf("record %d: %w", index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	t, ok := v.byName[name]
	if !ok {
		return nil
	}
	delete(v.byName, name)
	delete(v.byID, t.ID)
	v.version = index
	v.changed[t.ID] = struct{}{}
	return nil
}

// Name implements view.View.
func (v *View) Name() string { return "topic" }

// Load implements view.View. Errors: ErrRecord.
func (v *View) Load(key, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case len(key) == 9 && key[0] == rowTopic:
		cfg, err := DecodePut(value)
		if err != nil {
			return err
		}
		v.setLocked(Topic{ID: binary.BigEndian.Uint64(key[1:]), TopicConfig: cfg})
		return nil
	case len(key) == 1 && key[0] == rowVersion:
		version, n := binary.Uvarint(value)
		if n <= 0 || n != len(value) {
			return fmt.Errorf("%w: version %x", ErrRecord, value)
		}
		v.version = version
		return nil
	default:
		return fmt.Errorf("%w: key %x", ErrRecord, key)
	}
}

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	if len(v.changed) == 0 {
		return
	}
	for id := range v.changed {
		key := binary.BigEndian.AppendUint64([]byte{rowTopic}, id)
		if t, ok := v.byID[id]; ok {
			put(key, EncodePut(t.TopicConfig))
		} else {
			del(key)
		}
	}
	put([]byte{rowVersion}, binary.AppendUvarint(nil, v.version))
	clear(v.changed)
}
