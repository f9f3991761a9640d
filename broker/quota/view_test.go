package quota

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/view"
	"github.com/rmqio/rmq/transport/protocol"
)

func mustApply(t testing.TB, v *View, index uint64, q protocol.QuotaConfig) {
	t.Helper()
	if err := v.Apply(index, Encode(q)); err != nil {
		t.Fatalf("apply %v: %v", q, err)
	}
}

func TestView_OwnBeforeDefault(t *testing.T) {
	v := New()
	check := func(scope protocol.QuotaScope, name string, messages int64, own bool) {
		t.Helper()
		if r, is := v.Lookup(scope, name); r.MessagesPerSecond != messages || is != own {
			t.Errorf("%s %q: got %v, %v; want %d, %v", scope, name, r, is, messages, own)
		}
	}
	check(protocol.QuotaOfGroup, "a", 0, false)
	if v.Any() {
		t.Error("an empty view has quotas")
	}
	mustApply(t, v, 1, quotaOf(protocol.QuotaOfGroup, "", 10, 0))
	mustApply(t, v, 2, quotaOf(protocol.QuotaOfGroup, "a", 20, 0))
	check(protocol.QuotaOfGroup, "a", 20, true)
	check(protocol.QuotaOfGroup, "b", 10, false)
	check(protocol.QuotaOfGroup, "", 10, false)
	check(protocol.QuotaOfClient, "a", 0, false)
	mustApply(t, v, 3, quotaOf(protocol.QuotaOfGroup, "a", 0, 0))
	check(protocol.QuotaOfGroup, "a", 10, false)
	mustApply(t, v, 4, quotaOf(protocol.QuotaOfGroup, "", 0, 0))
	if v.Any() || len(v.List()) != 0 {
		t.Errorf("got %v after all were removed", v.List())
	}
}

func TestView_IllegibleChangesNothing(t *testing.T) {
	v := New()
	mustApply(t, v, 1, quotaOf(protocol.QuotaOfGroup, "a", 5, 0))
	if err := v.Apply(2, []byte{9}); !errors.Is(err, ErrRecord) || !strings.Contains(err.Error(), "record 2") {
		t.Errorf("got %v", err)
	}
	for key, value := range map[string][]byte{"": {1, 1}, "\x03a": {1, 1}, "\x01a": {0, 0}, "\x01b": {1}, "\x02c": {1, 1, 1}} {
		if err := v.Load([]byte(key), value); !errors.Is(err, ErrRecord) {
			t.Errorf("row %q with %x: got %v", key, value, err)
		}
	}
	if list := v.List(); len(list) != 1 || list[0].MessagesPerSecond != 5 {
		t.Errorf("got %v", list)
	}
}

// TestView_AgainstModel runs random records, flushes and restarts, each with the
// replay of the log from the position that was flushed, against a map.
func TestView_AgainstModel(t *testing.T) {
	dir, run := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{path: filepath.Join(dir, fmt.Sprint(run, ".db")), quotas: map[owner]protocol.QuotaConfig{}}
		m.open(t)
		defer func() { m.db.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"put": m.put, "flush": m.flush, "restart": m.restart, "": m.check,
		})
	})
}

type model struct {
	path   string
	db     *view.DB
	view   *View
	log    []protocol.QuotaConfig // record i+1
	quotas map[owner]protocol.QuotaConfig
}

func (m *model) open(t *rapid.T) {
	m.view = New()
	var err error
	if m.db, err = view.Open(m.path, m.view); err != nil {
		t.Fatal(err)
	}
	for i := m.db.Position(); i < uint64(len(m.log)); i++ {
		if err := m.view.Apply(i+1, Encode(m.log[i])); err != nil {
			t.Fatal(err)
		}
	}
}

func (m *model) put(t *rapid.T) {
	q := drawQuota(t)
	m.log = append(m.log, q)
	if err := m.view.Apply(uint64(len(m.log)), Encode(q)); err != nil {
		t.Fatal(err)
	}
	if q.Rates == (protocol.Rates{}) {
		delete(m.quotas, owner{q.Scope, q.Name})
	} else {
		m.quotas[owner{q.Scope, q.Name}] = q
	}
}

func (m *model) flush(t *rapid.T) {
	if err := m.db.Flush(uint64(len(m.log))); err != nil {
		t.Fatal(err)
	}
}

func (m *model) restart(t *rapid.T) {
	if err := m.db.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
}

func (m *model) check(t *rapid.T) {
	want := slices.SortedFunc(maps.Values(m.quotas), func(a, b protocol.QuotaConfig) int {
		return strings.Compare(string(a.Scope)+"\x00"+a.Name, string(b.Scope)+"\x00"+b.Name)
	})
	if got := m.view.List(); !slices.Equal(got, want) || m.view.Any() != (len(want) > 0) {
		t.Fatalf("got %v, %v; want %v", got, m.view.Any(), want)
	}
	for _, q := range want {
		if r, ok := m.view.Get(q.Scope, q.Name); !ok || r != q.Rates {
			t.Fatalf("%v: got %v, %v", q, r, ok)
		}
	}
}
