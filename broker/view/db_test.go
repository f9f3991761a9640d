package view

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"
)

// table is the simplest view: rows of text.
type table struct {
	name    string
	rows    map[string]string
	changed map[string]bool
	refuse  error // by Load
}

func newTable(name string) *table {
	return &table{name: name, rows: map[string]string{}, changed: map[string]bool{}}
}

func (t *table) put(key, value string) { t.rows[key], t.changed[key] = value, true }

func (t *table) delete(key string) {
	delete(t.rows, key)
	t.changed[key] = true
}

func (t *table) Name() string { return t.name }

func (t *table) Load(key, value []byte) error {
	t.rows[string(key)] = string(value)
	return t.refuse
}

func (t *table) Changes(put func(key, value []byte), del func(key []byte)) {
	key, value := make([]byte, 0, 64), make([]byte, 0, 4096)
	for k := range t.changed {
		key = append(key[:0], k...) // reused: the callbacks must copy
		if v, ok := t.rows[k]; ok {
			value = append(value[:0], v...)
			put(key, value)
		} else {
			del(key)
		}
	}
	clear(t.changed)
}

func dbPath(t testing.TB) string { return filepath.Join(t.TempDir(), "views.db") }

func mustOpen(t testing.TB, path string, views ...View) *DB {
	t.Helper()
	d, err := Open(path, views...)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func mustFlush(t testing.TB, d *DB, position uint64) {
	t.Helper()
	if err := d.Flush(position); err != nil {
		t.Fatalf("flush at %d: %v", position, err)
	}
}

func mustClose(t testing.TB, d *DB) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func wantRows(t testing.TB, got *table, want map[string]string) {
	t.Helper()
	if !maps.Equal(got.rows, want) {
		t.Fatalf("view %q: got rows %v, want %v", got.name, got.rows, want)
	}
}

// update changes the file behind DB's back.
func update(t testing.TB, path string, fn func(*bbolt.Tx) error) {
	t.Helper()
	bolt, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		t.Fatalf("open with bbolt: %v", err)
	}
	if err := errors.Join(bolt.Update(fn), bolt.Close()); err != nil {
		t.Fatalf("update with bbolt: %v", err)
	}
}

func TestOpenCreatesAnEmptyFile(t *testing.T) {
	path := dbPath(t)
	if err := os.WriteFile(path+temporarySuffix, []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := mustOpen(t, path, newTable("a"))
	if d.Position() != 0 {
		t.Errorf("got position %d, want 0", d.Position())
	}
	if _, err := os.Stat(path + temporarySuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file: got %v, want that it is gone", err)
	}
}

func TestFlushedRowsAreThereAfterOpen(t *testing.T) {
	path := dbPath(t)
	a, b := newTable("a"), newTable("b")
	d := mustOpen(t, path, a, b)
	a.put("k1", "v1")
	a.put("k2", "v2")
	b.put("k1", "")
	mustFlush(t, d, 7)
	a.delete("k1")
	a.put("k2", "v2'")
	a.put("unborn", "")
	a.delete("unborn")
	mustFlush(t, d, 9)
	mustClose(t, d)

	a2, b2 := newTable("a"), newTable("b")
	d = mustOpen(t, path, a2, b2)
	if d.Position() != 9 {
		t.Errorf("got position %d, want 9", d.Position())
	}
	wantRows(t, a2, map[string]string{"k2": "v2'"})
	wantRows(t, b2, map[string]string{"k1": ""})
}

func TestCloseWritesNothing(t *testing.T) {
	path := dbPath(t)
	a := newTable("a")
	d := mustOpen(t, path, a)
	a.put("k", "flushed")
	mustFlush(t, d, 1)
	a.put("k", "not flushed")
	mustClose(t, d)
	a = newTable("a")
	mustOpen(t, path, a)
	wantRows(t, a, map[string]string{"k": "flushed"})
}

func TestFlushOfNothingIsNoTransaction(t *testing.T) {
	d := mustOpen(t, dbPath(t), newTable("a"))
	mustFlush(t, d, 5)
	before := transaction(t, d)
	mustFlush(t, d, 5)
	if now := transaction(t, d); now != before {
		t.Errorf("got transaction %d, want %d", now, before)
	}
}

func transaction(t *testing.T, d *DB) (id int) {
	t.Helper()
	if err := d.bolt.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestFlushRefusesToGoBack(t *testing.T) {
	d := mustOpen(t, dbPath(t), newTable("a"))
	mustFlush(t, d, 5)
	if err := d.Flush(4); err == nil {
		t.Fatal("flush at 4 after 5 succeeded")
	}
	mustFlush(t, d, 6)
}

func TestFailedFlushLosesNoChange(t *testing.T) {
	path := dbPath(t)
	a := newTable("a")
	d := mustOpen(t, path, a)
	a.put("old", "1")
	mustFlush(t, d, 1)

	d.bolt.MaxSize = 1 // the file is full
	for i := range 200 {
		a.put(fmt.Sprint("big", i), strings.Repeat("x", 4000))
	}
	a.delete("old")
	if err := d.Flush(2); err == nil {
		t.Fatal("flush to a full file succeeded")
	}
	a.put("big0", "small") // replaces what the failed flush handed over
	if err := d.Flush(3); err == nil {
		t.Fatal("flush to a full file succeeded")
	}
	if d.Position() != 1 {
		t.Errorf("got position %d after failed flushes, want 1", d.Position())
	}
	d.bolt.MaxSize = 0
	mustFlush(t, d, 4)
	want := maps.Clone(a.rows)
	mustClose(t, d)

	a = newTable("a")
	d = mustOpen(t, path, a)
	if d.Position() != 4 {
		t.Errorf("got position %d, want 4", d.Position())
	}
	wantRows(t, a, want)
}

func TestFlushAfterAnUnknownOutcomeFailsForEver(t *testing.T) {
	a := newTable("a")
	d := mustOpen(t, dbPath(t), a)
	if err := d.bolt.Close(); err != nil { // stands for a failing disk
		t.Fatal(err)
	}
	first := d.Flush(1)
	if first == nil {
		t.Fatal("flush succeeded")
	}
	a.put("k", "v")
	if err := d.Flush(2); err != first {
		t.Errorf("got %v, want %v", err, first)
	}
}

func TestFlushSurvivesAFileThatWasCut(t *testing.T) {
	path := dbPath(t)
	a := newTable("a")
	d := mustOpen(t, path, a)
	for i := range 500 {
		a.put(fmt.Sprint("key", i), strings.Repeat("x", 100))
	}
	mustFlush(t, d, 1)
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	a.put("key1", "y")
	if err := d.Flush(2); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
	if err := d.Flush(3); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v, want ErrDamaged", err)
	}
	mustClose(t, d)
	if err := SetAside(path); err != nil {
		t.Fatal(err)
	}
	if d := mustOpen(t, path, newTable("a")); d.Position() != 0 {
		t.Errorf("got position %d of a new file", d.Position())
	}
}

func TestOpenWhileOpenIsInUse(t *testing.T) {
	path := dbPath(t)
	mustOpen(t, path, newTable("a"))
	if _, err := Open(path, newTable("a")); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
}

func TestOpenRefusesNames(t *testing.T) {
	for _, views := range [][]View{
		{newTable("")},
		{newTable("state")},
		{newTable("a"), newTable("b"), newTable("a")},
	} {
		path := dbPath(t)
		if _, err := Open(path, views...); err == nil {
			t.Errorf("open with %v succeeded", views)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("open with %v made a file", views)
		}
	}
}

func TestOpenIOErrorIsNoDamage(t *testing.T) {
	notADirectory := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notADirectory, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{t.TempDir(), filepath.Join(notADirectory, "views.db"), filepath.Join(t.TempDir(), "no", "views.db")} {
		_, err := Open(path, newTable("a"))
		if err == nil || errors.Is(err, ErrDamaged) {
			t.Errorf("open %s: got %v, want an I/O error", path, err)
		}
	}
}

func TestSetAside(t *testing.T) {
	path := dbPath(t)
	if err := SetAside(path); err != nil {
		t.Fatalf("of no file: %v", err)
	}
	for _, content := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, newTable("a")); !errors.Is(err, ErrDamaged) {
			t.Fatalf("open: got %v, want ErrDamaged", err)
		}
		if err := SetAside(path); err != nil {
			t.Fatal(err)
		}
		if kept, err := os.ReadFile(path + asideSuffix); err != nil || string(kept) != content {
			t.Fatalf("kept %q (%v), want %q", kept, err, content)
		}
	}
	mustOpen(t, path, newTable("a"))
}

// TestDBAgainstModel runs random changes, flushes, failing flushes and restarts
// against maps.
func TestDBAgainstModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &dbModel{path: filepath.Join(dir, fmt.Sprint(run, ".db"))}
		m.open(t)
		defer func() { m.db.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"put":         m.put,
			"delete":      m.delete,
			"flush":       m.flush,
			"failedFlush": m.failedFlush,
			"restart":     m.restart,
		})
	})
}

type dbModel struct {
	path     string
	db       *DB
	views    [2]*table
	durable  [2]map[string]string
	position uint64
	flushed  uint64
}

func (m *dbModel) open(t *rapid.T) {
	m.views = [2]*table{newTable("a"), newTable("b")}
	d, err := Open(m.path, m.views[0], m.views[1])
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	d.bolt.NoSync, d.bolt.NoGrowSync = true, true
	m.db, m.position = d, m.flushed
	if d.Position() != m.flushed {
		t.Fatalf("got position %d, want %d", d.Position(), m.flushed)
	}
	for i, v := range m.views {
		if !maps.Equal(v.rows, m.durable[i]) {
			t.Fatalf("view %d: got rows %v, want %v", i, v.rows, m.durable[i])
		}
	}
}

func (m *dbModel) draw(t *rapid.T) (*table, string) {
	m.position++
	return m.views[rapid.IntRange(0, 1).Draw(t, "view")], fmt.Sprint("key", rapid.IntRange(0, 60).Draw(t, "key"))
}

func (m *dbModel) put(t *rapid.T) {
	v, key := m.draw(t)
	v.put(key, strings.Repeat("v", rapid.IntRange(0, 3000).Draw(t, "size")))
}

func (m *dbModel) delete(t *rapid.T) {
	v, key := m.draw(t)
	v.delete(key)
}

func (m *dbModel) flush(t *rapid.T) {
	if err := m.db.Flush(m.position); err != nil {
		t.Fatalf("flush: %v", err)
	}
	m.flushed = m.position
	for i, v := range m.views {
		m.durable[i] = maps.Clone(v.rows)
	}
}

// failedFlush fails when the transaction needs the file to grow.
func (m *dbModel) failedFlush(t *rapid.T) {
	m.db.bolt.MaxSize = 1
	err := m.db.Flush(m.position)
	m.db.bolt.MaxSize = 0
	if err == nil {
		m.flush(t)
	}
}

func (m *dbModel) restart(t *rapid.T) {
	if err := m.db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.open(t)
}

func TestRowRoundTrip(t *testing.T) {
	row := seal("bucket", []byte("key"), []byte("value"))
	want := []byte{0x14, 0xe1, 0x04, 0xf7, 'v', 'a', 'l', 'u', 'e'}
	if !bytes.Equal(row, want) {
		t.Errorf("got %x, want %x", row, want)
	}
	for i, other := range []struct{ bucket, key string }{{"bucke", "tkey"}, {"bucket", "ke"}, {"bucketk", "ey"}} {
		if _, err := unseal(other.bucket, []byte(other.key), row); !errors.Is(err, ErrDamaged) {
			t.Errorf("case %d: got %v, want ErrDamaged", i, err)
		}
	}
	if value, err := unseal("bucket", []byte("key"), row); err != nil || string(value) != "value" {
		t.Errorf("got %q, %v", value, err)
	}
	s := state{position: 0x0102030405060708, rows: 2, sum: 3}
	if got, err := decodeState(s.encode()); err != nil || got != s {
		t.Errorf("got %v, %v; want %v", got, err, s)
	}
}
