package view

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// positionsOf opens the file with either meta page damaged and says where that
// leads; 0, too, for a file that is then to be built anew.
func positionsOf(t *testing.T, path string) (positions [2]uint64) {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range positions {
		file := bytes.Clone(whole)
		file[i*os.Getpagesize()+pageHeader+metaChecksum] ^= 1
		damaged := dbPath(t)
		if err := os.WriteFile(damaged, file, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(damaged, newTable("a"))
		if errors.Is(err, ErrDamaged) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		positions[i] = d.Position()
		mustClose(t, d)
	}
	return positions
}

func TestCertainIsWhereEitherMetaPageLeads(t *testing.T) {
	path := dbPath(t)
	a := newTable("a")
	d := mustOpen(t, path, a)
	steps := []struct {
		position, certain uint64
		do                func() error
	}{
		{0, 0, d.Settle},
		{1, 0, func() error { a.put("k", "1"); return d.Flush(1) }},
		{3, 1, func() error { return d.Flush(3) }},
		{3, 1, func() error { return d.Flush(3) }}, // which writes nothing
		{3, 3, d.Settle},
		{3, 3, d.Settle},
		{5, 3, func() error { a.put("k", "5"); return d.Flush(5) }},
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if d.Position() != s.position || d.Certain() != s.certain {
			t.Errorf("step %d: position %d, certain %d; want %d and %d", i, d.Position(), d.Certain(), s.position, s.certain)
		}
		for page, got := range positionsOf(t, path) {
			if got < s.certain {
				t.Errorf("step %d: without meta page %d the file is at %d, certain is %d", i, page, got, s.certain)
			}
		}
	}
	mustClose(t, d)
	d = mustOpen(t, path, newTable("a"))
	if d.Position() != 5 || d.Certain() != 0 {
		t.Errorf("opened: position %d, certain %d; want 5 and 0", d.Position(), d.Certain())
	}
	if err := d.Settle(); err != nil || d.Certain() != 5 {
		t.Errorf("settled: certain %d, want 5: %v", d.Certain(), err)
	}
}

// TestSettleWritesNoRows: what a view changed since the last flush belongs to a
// later position.
func TestSettleWritesNoRows(t *testing.T) {
	path := dbPath(t)
	a := newTable("a")
	d := mustOpen(t, path, a)
	a.put("k", "old")
	mustFlush(t, d, 1)
	a.put("k", "new")
	if err := d.Settle(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	again := newTable("a")
	d = mustOpen(t, path, again)
	wantRows(t, again, map[string]string{"k": "old"})
	if d.Position() != 1 {
		t.Errorf("got position %d, want 1", d.Position())
	}
}
