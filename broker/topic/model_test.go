package topic

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/view"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// TestViewAgainstModel runs random records, flushes and restarts, each with the
// replay of the log from the position that was flushed, against a map.
func TestViewAgainstModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{path: filepath.Join(dir, fmt.Sprint(run, ".db")), topics: map[string]Topic{}}
		m.open(t)
		defer func() { m.db.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"put":     m.put,
			"delete":  m.delete,
			"flush":   m.flush,
			"restart": m.restart,
			"":        m.check,
		})
	})
}

type model struct {
	path    string
	db      *view.DB
	view    *View
	log     []func(*View, uint64) error // record i+1
	topics  map[string]Topic
	version uint64
}

func (m *model) append(t *rapid.T, record func(*View, uint64) error) (index uint64) {
	m.log = append(m.log, record)
	index = uint64(len(m.log))
	if err := record(m.view, index); err != nil {
		t.Fatalf("record %d: %v", index, err)
	}
	return index
}

func (m *model) name(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
}

func (m *model) put(t *rapid.T) {
	cfg := protocol.TopicConfig{
		Name:        m.name(t),
		ReadQueues:  rapid.IntRange(1, 3).Draw(t, "read"),
		WriteQueues: rapid.IntRange(1, 3).Draw(t, "write"),
		Perm:        message.Perm(rapid.SampledFrom([]int{0, 2, 4, 6}).Draw(t, "perm")),

		RetentionMillis:   rapid.SampledFrom([]int64{protocol.KeepForever, protocol.KeepByDefault, 1000, maxRetentionMillis}).Draw(t, "retention"),
		KeepUntilConsumed: rapid.Bool().Draw(t, "keep"),

		Type: rapid.SampledFrom(append(message.Kinds(), "")).Draw(t, "type"),
		Quota: protocol.Rates{MessagesPerSecond: rapid.Int64Range(0, MaxRate).Draw(t, "messages"),
			BytesPerSecond: rapid.Int64Range(0, MaxRate).Draw(t, "bytes")},
	}
	index := m.append(t, func(v *View, index uint64) error { return v.ApplyPut(index, EncodePut(cfg)) })
	before, ok := m.topics[cfg.Name]
	if ok && before.TopicConfig == cfg {
		return
	}
	id := index
	if ok {
		id = before.ID
	}
	m.topics[cfg.Name] = Topic{ID: id, TopicConfig: cfg}
	m.version = index
}

func (m *model) delete(t *rapid.T) {
	name := m.name(t)
	index := m.append(t, func(v *View, index uint64) error { return v.ApplyDelete(index, EncodeDelete(name)) })
	if _, ok := m.topics[name]; ok {
		delete(m.topics, name)
		m.version = index
	}
}

func (m *model) flush(t *rapid.T) {
	if err := m.db.Flush(uint64(len(m.log))); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

func (m *model) open(t *rapid.T) {
	m.view = New()
	db, err := view.Open(m.path, m.view)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	m.db = db
	for i := db.Position(); i < uint64(len(m.log)); i++ {
		if err := m.log[i](m.view, i+1); err != nil {
			t.Fatalf("replay of record %d: %v", i+1, err)
		}
	}
}

func (m *model) restart(t *rapid.T) {
	if err := m.db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.open(t)
}

func (m *model) check(t *rapid.T) {
	want := slices.SortedFunc(maps.Values(m.topics), func(a, b Topic) int { return cmp.Compare(a.Name, b.Name) })
	if got := m.view.List(); !slices.Equal(got, want) {
		t.Fatalf("got topics %v, want %v", got, want)
	}
	if m.view.Version() != m.version || m.view.Count() != len(want) {
		t.Fatalf("got version %d and %d topics, want %d and %d", m.view.Version(), m.view.Count(), m.version, len(want))
	}
	for _, topic := range want {
		if got, ok := m.view.ByID(topic.ID); !ok || got != topic {
			t.Fatalf("topic %d: got %v, %v; want %v", topic.ID, got, ok, topic)
		}
		if got, ok := m.view.Lookup(topic.Name); !ok || got != topic {
			t.Fatalf("topic %q: got %v, %v; want %v", topic.Name, got, ok, topic)
		}
	}
}
