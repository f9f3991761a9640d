package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/tests/harness"
)

func shortConfig(t *testing.T, args ...string) config {
	t.Helper()
	dir := t.TempDir()
	cfg, err := parse(append([]string{
		"-short", "-rmq", harness.Binary(t), "-dir", dir,
		"-json", filepath.Join(dir, "bench.json"), "-markdown", filepath.Join(dir, "bench.md"),
	}, args...))
	if err != nil {
		t.Fatal(err)
	}
	// Some hundred processes start: without the race detector they do so quickly.
	cfg.children = filepath.Join(dir, "bench")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", cfg.children, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return cfg
}

// Every row is measured with a few messages. What comes out is not looked at,
// but that it is there.
func TestRun_EveryRowInShort(t *testing.T) {
	cfg := shortConfig(t)
	if err := run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cfg.json)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	goals := map[string]int{}
	for _, c := range r.Comparisons {
		goals[c.Row]++
		for _, v := range []float64{c.A.Median, c.B.Median, c.Ratio, c.Ratios.Min, c.Ratios.Median, c.Ratios.Max} {
			if math.IsNaN(v) || math.IsInf(v, 0) || v <= 0 && c.Row != "12a" { // no new segment may be needed
				t.Errorf("row %s has a figure of %v: %+v", c.Row, v, c)
				break
			}
		}
		if c.Must > 0 && c.Result == "" || c.Work == "" || c.Against == "" || c.Figure == "" {
			t.Errorf("row %s is not complete: %+v", c.Row, c)
		}
	}
	for row, n := range map[string]int{rowAA: 2, "1": 1, "2": 1, "3": 2, "4": 1, "5": 1, "6": 1, "7": 2, "8": 1, "9": 1, "10": 1, "11": 1, "12": 2, "13": 2, "14": 1, "14a": 1, "14b": 1, "14c": 1, "14d": 1} {
		if goals[row] != n {
			t.Errorf("row %s is there %d times, want %d", row, goals[row], n)
		}
	}
	for _, a := range r.Absolutes {
		if a.Name == "" || math.IsNaN(a.Value) || math.IsInf(a.Value, 0) {
			t.Errorf("got %+v", a)
		}
	}
	if r.Machine.CPUs == 0 || r.Began.IsZero() || r.Ended.Before(r.Began) {
		t.Errorf("the report does not say when and where: %+v", r)
	}
	checkTables(t, cfg.markdown)
	if left, err := filepath.Glob(filepath.Join(cfg.dir, "bench-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// checkTables wants as many cells in each line as in the one before.
func checkTables(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cells, tables := 0, 0
	for l := range strings.Lines(string(text)) {
		n := strings.Count(l, "|")
		if n > 0 && cells == 0 {
			tables++
		} else if n > 0 && n != cells {
			t.Errorf("%d cells after lines of %d: %s", n, cells, l)
		}
		cells = n
	}
	if tables != 2 {
		t.Errorf("%d tables, want 2", tables)
	}
}

func TestRun_OnlyTheRowsAskedFor(t *testing.T) {
	cfg := shortConfig(t, "-rows", "5", "-peers=false", "-pairs", "2")
	b := &bench{cfg: cfg, alive: map[*process]bool{}}
	var rows []string
	for _, s := range b.scenarios() {
		for _, r := range b.selected(s) {
			rows = append(rows, r.number)
		}
	}
	if strings.Join(rows, " ") != "5" {
		t.Errorf("got %v", rows)
	}
}

func TestConfig_Wants(t *testing.T) {
	for _, c := range []struct {
		rows, number string
		want         bool
	}{
		{"all", "7", true}, {"", "aa", true}, {"1,2", "1", true}, {"1,2", "1a", true}, {"1, 2", "2c", true}, {"1", "10", false},
		{"1", "12a", false}, {"3a", "3a", true}, {"3a", "3", false}, {"aa", "aa", true}, {"1", "aa", false}, {"absolute", "absolute", true}, {"1", "absolute", false},
	} {
		if got := (config{rows: c.rows}).wants(c.number); got != c.want {
			t.Errorf("-rows %s, row %s: %v", c.rows, c.number, got)
		}
	}
}

func TestParse_Mistakes(t *testing.T) {
	for _, args := range [][]string{{"-pairs", "0"}, {"-time", "0s"}, {"-bytes", "0"}, {"extra"}, {"-nonsense"}, {"-rmq", "/nowhere/rmq"}} {
		if _, err := parse(append([]string{"-rmq", os.Args[0]}, args...)); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	c, err := parse([]string{"-short", "-rmq", os.Args[0], "-pairs", "7"})
	if err != nil || c.pairs != 7 || c.time != 50*time.Millisecond {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestCompared_RatioOfTheMedians(t *testing.T) {
	s := scenario{sides: []side{{name: "A"}, {name: "B"}}}
	rounds := [][]sample{{{"x": 10}, {"x": 5}}, {{"x": 40}, {"x": 10}}, {{"x": 20}, {"x": 20}}}
	r := row{number: "1", a: pick{0, "x"}, b: pick{1, "x"}, must: 1.5, aim: 2}
	c := compared(r, s, rounds)
	if c.Ratio != 2 || c.Ratios != (spread{1, 2, 4}) || c.Result != "aim" || c.Work != "A" || c.Against != "B" {
		t.Errorf("got %+v", c)
	}
	for _, v := range []struct {
		must, aim float64
		lower     bool
		want      string
	}{{1.5, 3, false, "must"}, {2.5, 3, false, "missed"}, {3, 1, true, "must"}, {1, 0.5, true, "missed"}, {3, 2, true, "aim"}, {0, 0, false, ""}} {
		r.must, r.aim, r.lower = v.must, v.aim, v.lower
		if c := compared(r, s, rounds); c.Result != v.want {
			t.Errorf("%+v: got %s", v, c.Result)
		}
	}
	r.number = rowAA
	if c := compared(r, s, rounds); c.Result != "too noisy" {
		t.Errorf("got %+v", c)
	}
}

func TestInTurn_NeitherSideHasTheBetterPlace(t *testing.T) {
	needed := []bool{true, false, true, true}
	if got := fmt.Sprint(inTurn(0, needed), inTurn(1, needed), inTurn(2, needed)); got != "[0 2 3] [3 2 0] [0 2 3]" {
		t.Errorf("got %s", got)
	}
}

func TestUsage_Others(t *testing.T) {
	before := usage{total: 10 * time.Second, busy: 4 * time.Second, own: time.Second}
	for _, c := range []struct {
		later usage
		want  float64
	}{
		{usage{total: 20 * time.Second, busy: 9 * time.Second, own: 4 * time.Second}, 0.2},
		{usage{total: 20 * time.Second, busy: 9 * time.Second, own: 7 * time.Second}, 0}, // the clocks differ
		{before, 0},
	} {
		if got := before.others(c.later); got != c.want {
			t.Errorf("%+v: got %v, want %v", c.later, got, c.want)
		}
	}
	b := &bench{alive: map[*process]bool{}}
	if u := b.usage(); u.total > 0 && (u.busy <= 0 || u.busy > u.total || u.own <= 0) {
		t.Errorf("got %+v", u)
	}
}

func TestSpreadOf(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{{nil, spread{}}, {[]float64{3}, spread{3, 3, 3}}, {[]float64{4, 1}, spread{1, 2.5, 4}}, {[]float64{5, 1, 2}, spread{1, 2, 5}}} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v: got %v", c.values, got)
		}
	}
}

func TestFigure(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.1234: "0.123", 12.34: "12.3", 999: "999", 1000: "1,000", 1234567.8: "1,234,568", -12345: "-12,345"} {
		if got := figure(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}

// A load that gets no answer in its time is measured by what came in the end.
func TestMeasured_LateAnswers(t *testing.T) {
	var n int64
	o, err := spec{Time: time.Millisecond}.measured(t.Context(), func() int64 { return n }, func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	})
	if err != nil || o.Messages != 0 {
		t.Errorf("got %+v, %v", o, err)
	}
}
