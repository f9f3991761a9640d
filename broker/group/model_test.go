package group

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/view"
	"github.com/rmqio/rmq/transport/protocol"
)

// TestViewAgainstModel runs random records, flushes and restarts, each with the
// replay of the log from the position that was flushed, against plain maps.
func TestViewAgainstModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{path: filepath.Join(dir, fmt.Sprint(run, ".db")), configs: map[string]bool{}, subscriptions: map[string]Subscription{}}
		m.clear(func(modelKey) bool { return true })
		m.open(t)
		defer func() { m.db.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"put":       m.put,
			"delete":    m.delete,
			"commit":    m.commit,
			"reset":     m.reset,
			"grant":     m.grant,
			"release":   m.release,
			"subscribe": m.subscribe,
			"dropTopic": m.dropTopic,
			"flush":     m.flush,
			"restart":   m.restart,
			"":          m.check,
		})
	})
}

type modelKey struct {
	group string
	topic uint64
	queue int
}

// model keeps offsets and leases apart, as different maps with one entry each.
type model struct {
	path    string
	db      *view.DB
	view    *View
	log     []func(*View, uint64) error // record i+1
	configs map[string]bool             // enabled
	offsets map[modelKey]int64
	clients map[modelKey]string
	fences  map[modelKey]uint64

	subscriptions map[string]Subscription
}

func (m *model) clear(which func(modelKey) bool) {
	if m.offsets == nil {
		m.offsets, m.clients, m.fences = map[modelKey]int64{}, map[modelKey]string{}, map[modelKey]uint64{}
	}
	maps.DeleteFunc(m.offsets, func(k modelKey, _ int64) bool { return which(k) })
	maps.DeleteFunc(m.clients, func(k modelKey, _ string) bool { return which(k) })
	maps.DeleteFunc(m.fences, func(k modelKey, _ uint64) bool { return which(k) })
}

func (m *model) append(t *rapid.T, record func(*View, uint64) error) (index uint64) {
	m.log = append(m.log, record)
	index = uint64(len(m.log))
	if err := record(m.view, index); err != nil {
		t.Fatalf("record %d: %v", index, err)
	}
	return index
}

func drawGroup(t *rapid.T) string {
	return rapid.SampledFrom([]string{"g", "gg", "h"}).Draw(t, "group")
}
func drawTopic(t *rapid.T) uint64  { return rapid.Uint64Range(1, 2).Draw(t, "topic") }
func drawClient(t *rapid.T) string { return rapid.SampledFrom([]string{"c", "d"}).Draw(t, "client") }

func drawQueues(t *rapid.T) []int {
	return rapid.SliceOfN(rapid.IntRange(0, 2), 1, 4).Draw(t, "queues")
}

func (m *model) create(group string) {
	if _, ok := m.configs[group]; !ok {
		m.configs[group] = true
	}
}

func (m *model) put(t *rapid.T) {
	cfg := protocol.GroupConfig{Name: drawGroup(t), ConsumeEnabled: rapid.Bool().Draw(t, "enabled")}
	m.append(t, func(v *View, index uint64) error { return v.ApplyPut(index, EncodePut(cfg)) })
	m.configs[cfg.Name] = cfg.ConsumeEnabled
}

func (m *model) delete(t *rapid.T) {
	group := drawGroup(t)
	m.append(t, func(v *View, index uint64) error { return v.ApplyDelete(index, EncodeDelete(group)) })
	delete(m.configs, group)
	delete(m.subscriptions, group)
	m.clear(func(k modelKey) bool { return k.group == group })
}

func (m *model) commit(t *rapid.T) {
	group, topic := drawGroup(t), drawTopic(t)
	var rows []Offset
	for _, q := range drawQueues(t) {
		k := modelKey{group, topic, q}
		o := Offset{TopicID: topic, Queue: q, Offset: rapid.Int64Range(0, 9).Draw(t, "offset")}
		o.Fence = rapid.SampledFrom([]uint64{0, m.fences[k], m.fences[k] + 1}).Draw(t, "fence")
		rows = append(rows, o)
		before, ok := m.offsets[k]
		if (o.Fence == 0 || o.Fence == m.fences[k]) && (!ok || o.Offset > before) {
			m.offsets[k] = o.Offset
			m.create(group)
		}
	}
	m.append(t, func(v *View, index uint64) error { return v.ApplyOffsets(index, EncodeOffsets(group, rows)) })
}

func (m *model) reset(t *rapid.T) {
	group, topic := drawGroup(t), drawTopic(t)
	var rows []Offset
	for _, q := range drawQueues(t) {
		k := modelKey{group, topic, q}
		o := Offset{TopicID: topic, Queue: q, Offset: rapid.Int64Range(0, 9).Draw(t, "offset"), Reset: true}
		rows = append(rows, o)
		m.offsets[k] = o.Offset
		delete(m.clients, k)
		delete(m.fences, k)
		m.create(group)
	}
	m.append(t, func(v *View, index uint64) error { return v.ApplyOffsets(index, EncodeOffsets(group, rows)) })
}

func (m *model) grant(t *rapid.T) {
	group, topic, client, queues := drawGroup(t), drawTopic(t), drawClient(t), drawQueues(t)
	index := m.append(t, func(v *View, index uint64) error {
		return v.ApplyLeases(index, EncodeLeases(group, topic, client, queues))
	})
	for _, q := range queues {
		k := modelKey{group, topic, q}
		if _, held := m.clients[k]; !held {
			m.clients[k], m.fences[k] = client, index
			m.create(group)
		}
	}
}

func (m *model) release(t *rapid.T) {
	group, topic, queues := drawGroup(t), drawTopic(t), drawQueues(t)
	client := rapid.SampledFrom([]string{"", "c", "d"}).Draw(t, "client")
	m.append(t, func(v *View, index uint64) error {
		if client == "" {
			return v.ApplyLeases(index, EncodeLeases(group, topic, "", queues))
		}
		return v.ApplyLeases(index, EncodeRelease(group, topic, client, queues))
	})
	for _, q := range queues {
		k := modelKey{group, topic, q}
		if client == "" || m.clients[k] == client {
			delete(m.clients, k)
			delete(m.fences, k)
		}
	}
}

func (m *model) subscribe(t *rapid.T) {
	group := drawGroup(t)
	s := subscriptionOf(group + ":" + rapid.SampledFrom([]string{"a", "b", "a,b", "a=x", "a=x,b", "b=y"}).Draw(t, "subscription"))
	m.append(t, func(v *View, index uint64) error { return v.ApplySubscription(index, EncodeSubscription(group, s)) })
	m.subscriptions[group] = s
	m.create(group)
}

func (m *model) dropTopic(t *rapid.T) {
	topic := drawTopic(t)
	m.append(t, func(v *View, _ uint64) error { v.DropTopic(topic); return nil })
	m.clear(func(k modelKey) bool { return k.topic == topic })
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
	if got, want := m.view.Groups(), slices.Sorted(maps.Keys(m.configs)); !slices.Equal(got, want) {
		t.Fatalf("got groups %v, want %v", got, want)
	}
	for _, group := range []string{"g", "gg", "h"} {
		enabled, want := m.configs[group]
		if cfg, ok := m.view.Config(group); ok != want || cfg.ConsumeEnabled != enabled {
			t.Fatalf("group %q: got %v, %v", group, cfg, ok)
		}
		s, subscribed := m.subscriptions[group]
		if got, ok := m.view.Subscription(group); ok != subscribed || !got.Equal(s) {
			t.Fatalf("group %q: got subscription %v, %v, want %v", group, got, ok, s)
		}
		m.checkQueues(t, group)
	}
}

func (m *model) checkQueues(t *rapid.T, group string) {
	var want []Progress
	for topic := uint64(1); topic <= 2; topic++ {
		for q := range 3 {
			k := modelKey{group, topic, q}
			committed, ok := m.offsets[k]
			if !ok {
				committed = -1
			}
			p := Progress{TopicID: topic, Queue: q, Committed: committed, Client: m.clients[k], Fence: m.fences[k]}
			if ok || p.Client != "" {
				want = append(want, p)
			}
			client, fence, held := m.view.Lease(group, topic, q)
			if client != p.Client || fence != p.Fence || held != (p.Client != "") || m.view.Committed(group, topic, q) != committed {
				t.Fatalf("%v: got %q, %d, %d; want %v", k, client, fence, m.view.Committed(group, topic, q), p)
			}
			if err := m.view.Check(group, topic, q, p.Client, p.Fence); (err == nil) != held {
				t.Fatalf("%v: check of the holder: %v", k, err)
			}
		}
	}
	if got := m.view.Offsets(group); !slices.Equal(got, want) {
		t.Fatalf("group %q: got %v, want %v", group, got, want)
	}
}
