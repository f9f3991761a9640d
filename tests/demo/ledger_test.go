package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tree writes files and reads them as a source.
func tree(t *testing.T, files map[string]string) *source {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := readSource(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// records are what writeTo writes.
func records(t *testing.T, s *source) []record {
	t.Helper()
	var b bytes.Buffer
	if err := s.writeTo(&b, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	var all []record
	for lines := bufio.NewScanner(&b); lines.Scan(); {
		var r record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestSource_EveryLineComesBack(t *testing.T) {
	for name, text := range map[string]string{
		"newline at the end":    "package a\n\nfunc A() {}\n",
		"none at the end":       "package a\n// end",
		"one empty line":        "\n",
		"empty lines":           "\n\n\n",
		"no UTF-8":              "a\n\xff\xfe\n<&>\u2028\n",
		"carriage returns, NUL": "a\r\nb\x00\r\n\t\"\\\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := tree(t, map[string]string{"p/a.go": text})
			l := newLedger(s)
			for i, r := range records(t, s) {
				r.Offset, r.StoreTime = int64(i), "2026-01-01T00:00:00.5Z"
				if err := l.enter(0, i, &r, time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			if v := l.judge(span{}); v.failed != 0 || v.filesEqual != 1 || v.duplicates != 0 {
				t.Fatalf("got %+v", v)
			}
			select {
			case <-l.whole:
			default:
				t.Fatal("whole is open, want it closed after the last line")
			}
		})
	}
}

func TestReadSource_TakesGoFilesUntilThereAreEnoughLines(t *testing.T) {
	s := tree(t, map[string]string{"a.go": "1\n2\n", "b.go": "1\n", "c.txt": "1\n", "empty.go": ""})
	if len(s.files) != 1 || s.lines != 2 || s.files[0].path != "a.go" {
		t.Fatalf("got %+v", s)
	}
	if _, err := readSource(s.root, 3); err != nil {
		t.Fatal(err)
	}
	if _, err := readSource(s.root, 4); err == nil {
		t.Fatal("want an error when there are too few lines")
	}
}

func TestLedger_Verdicts(t *testing.T) {
	kill := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	allowed := span{kill, kill.Add(10 * time.Second)}
	early, late := kill.Add(-time.Minute), kill.Add(time.Second)
	// at is an arrival of a consumer: its line and offset, printed and stored at a time.
	at := func(consumer, line int, offset int64, when time.Time) arrival {
		return arrival{consumer: consumer, queue: "b/0", line: line, offset: offset, at: when, stored: when, body: []byte{'0' + byte(line)}}
	}
	changed := at(0, 2, 1, early)
	changed.body = []byte("x")
	elsewhere := at(0, 3, 2, early)
	elsewhere.queue = "b/1"
	stale := at(0, 1, 3, late)
	stale.stored = early
	tests := []struct {
		name       string
		in         []arrival
		duplicates int
		around     int
		want       string // empty: no failure
	}{
		{"as sent", []arrival{at(0, 1, 0, early), at(0, 2, 1, early), at(0, 3, 2, early)}, 0, 0, ""},
		{"the queue moves", []arrival{at(0, 1, 0, early), at(1, 2, 1, early), at(1, 3, 2, early)}, 0, 0, ""},
		{"the new owner is read first", []arrival{at(1, 3, 2, early), at(0, 1, 0, early), at(0, 2, 1, early)}, 0, 0, ""},
		{"missing", []arrival{at(0, 1, 0, early), at(0, 3, 2, early)}, 0, 0, "1 of 3 lines are missing"},
		{"nothing", nil, 0, 0, "3 of 3 lines are missing"},
		{"stored in another order", []arrival{at(0, 2, 0, early), at(0, 1, 1, early), at(0, 3, 2, early)}, 0, 0, "line 1 is stored behind line 2"},
		{"printed in another order", []arrival{at(0, 2, 1, early), at(0, 1, 0, early), at(0, 3, 2, early)}, 0, 0, "printed line 1 after line 2"},
		{"another body", []arrival{at(0, 1, 0, early), changed, at(0, 3, 2, early)}, 0, 0, "differs from the original"},
		{"two queues", []arrival{at(0, 1, 0, early), at(0, 2, 1, early), elsewhere}, 0, 0, "is in queue b/1"},
		{"delivered twice at the kill", []arrival{at(0, 1, 0, early), at(0, 2, 1, early), at(0, 1, 0, late), at(0, 2, 1, late), at(0, 3, 2, late)}, 2, 2, ""},
		{"delivered twice to another", []arrival{at(0, 1, 0, early), at(0, 2, 1, early), at(1, 2, 1, late), at(1, 3, 2, late)}, 1, 1, ""},
		{"delivered twice before", []arrival{at(0, 1, 0, early), at(0, 1, 0, early), at(0, 2, 1, early), at(0, 3, 2, early)}, 1, 0, "not around the kill"},
		{"stored twice at the kill", []arrival{at(0, 1, 0, early), at(0, 2, 1, early), at(0, 1, 2, late), at(0, 2, 3, late), at(0, 3, 4, late)}, 2, 2, ""},
		{"stored twice before", []arrival{at(0, 1, 0, early), at(0, 2, 1, early), at(0, 3, 2, early), stale}, 1, 0, "not around the kill"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger(tree(t, map[string]string{"a.go": "1\n2\n3\n"}))
			for i, a := range tt.in {
				a.seq = i
				l.add("a.go", a)
			}
			v := l.judge(allowed)
			if v.duplicates != tt.duplicates || v.aroundKill != tt.around {
				t.Errorf("got %d duplicates, %d around the kill, want %d and %d", v.duplicates, v.aroundKill, tt.duplicates, tt.around)
			}
			if text := strings.Join(v.failures, "; "); (v.failed == 0) != (tt.want == "") || !strings.Contains(text, tt.want) {
				t.Errorf("got failures %q, want %q", text, tt.want)
			}
			if want := 1; tt.want == "" && v.filesEqual != want {
				t.Errorf("got %d files equal, want %d", v.filesEqual, want)
			}
		})
	}
}

func TestLedger_RefusesWhatWasNeverSent(t *testing.T) {
	s := tree(t, map[string]string{"a.go": "1\n"})
	for name, spoil := range map[string]func(*record){
		"line 0":           func(r *record) { r.Properties = map[string]string{"line": "0"} },
		"line 2":           func(r *record) { r.Properties = map[string]string{"line": "2"} },
		"no line":          func(r *record) { r.Properties = nil },
		"another file":     func(r *record) { r.MessageGroup = "b.go" },
		"no key":           func(r *record) { r.Keys = nil },
		"no store time":    func(r *record) { r.StoreTime = "" },
		"unknown encoding": func(r *record) { r.BodyEncoding = "rot13" },
		"broken base64":    func(r *record) { r.BodyEncoding, r.Body = "base64", "?" },
	} {
		r := records(t, s)[0]
		r.StoreTime = "2026-01-01T00:00:00Z"
		spoil(&r)
		if err := newLedger(s).enter(0, 0, &r, time.Now()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
