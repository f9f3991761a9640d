package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rmqio/rmq/internal/machine"
)

// config is what the flags say.
type config struct {
	rmq      string
	dir      string
	profile  string
	rows     string
	pairs    int
	time     time.Duration
	warmup   time.Duration
	bytes    int64 // that a measurement sends at most
	cold     int64
	recover  int64
	topics   int
	peers    bool
	quiet    float64       // share of the machine that others may take
	patience time.Duration // for a measurement to be undisturbed
	markdown string
	json     string
	children string // the program that processes of a measurement run: this one
}

// bench is one run. It measures one thing after another.
type bench struct {
	cfg      config
	alive    map[*process]bool
	dirs     int
	profiles int
	peakRSS  int64   // of rmq servers
	best     float64 // messages of 1 KiB a second, of row 1
	report   report
}

// sample is what one side measured once: a rate, or figures by name.
type sample map[string]float64

// The names of figures that samples have.
const (
	perSecond = "messages/s"
	bytesRate = "bytes/s"
)

// side is one way to do some work.
type side struct {
	name    string
	measure func(context.Context) (sample, error)
}

// pick is a figure of one side of a scenario.
type pick struct {
	side   int
	figure string
}

// row compares two figures that are measured in turn.
type row struct {
	number  string // of the table of goals; a letter behind it: another figure beside
	work    string
	against string
	a, b    pick
	must    float64 // of the ratio of medians; 0: nothing
	aim     float64
	lower   bool // less is better
}

// scenario measures its sides in turn, A B B A, and compares them.
type scenario struct {
	name  string
	sides []side
	rows  []row
	// prepare makes what all measurements share; the function ends it.
	prepare func(context.Context) (done func() error, err error)
}

// wants reports whether something was selected: by its number, by the number of
// the row that it stands beside, or because all is.
func (c config) wants(number string) bool {
	if c.rows == "" || c.rows == "all" {
		return true
	}
	goal := strings.TrimRight(number, "abcdefghijklmnopqrstuvwxyz")
	for _, want := range strings.Split(c.rows, ",") {
		if want = strings.TrimSpace(want); want == number || goal != "" && want == goal {
			return true
		}
	}
	return false
}

// selected are the rows of a scenario that are wanted.
func (b *bench) selected(s scenario) []row {
	var rows []row
	for _, r := range s.rows {
		if b.cfg.wants(r.number) && (b.cfg.peers || r.must > 0 || r.number == rowAA) {
			rows = append(rows, r)
		}
	}
	return rows
}

// run measures everything that is selected.
func (b *bench) run(ctx context.Context) error {
	defer func() { b.report.Ended = time.Now() }()
	b.report = report{Began: time.Now(), Settings: b.cfg.settings(), Machine: machine.Look(), Load: loadAverage()}
	for _, s := range b.scenarios() {
		rows := b.selected(s)
		if len(rows) == 0 {
			continue
		}
		if err := b.compare(ctx, s, rows); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if b.cfg.wants("absolute") {
		if err := b.absolute(ctx); err != nil {
			return fmt.Errorf("absolute figures: %w", err)
		}
	}
	return nil
}

// compare measures the sides that the rows need, in turn.
func (b *bench) compare(ctx context.Context, s scenario, rows []row) (err error) {
	if s.prepare != nil {
		done, err := s.prepare(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
	}
	needed := make([]bool, len(s.sides))
	for _, r := range rows {
		needed[r.a.side], needed[r.b.side] = true, true
	}
	rounds := make([][]sample, b.cfg.pairs)
	for i := range rounds {
		rounds[i] = make([]sample, len(s.sides))
		for _, j := range inTurn(i, needed) {
			side := s.sides[j]
			if rounds[i][j], err = b.undisturbed(ctx, side); err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
			say("%s, %d of %d: %s: %s", s.name, i+1, len(rounds), side.name, rounds[i][j])
		}
	}
	for _, r := range rows {
		c := compared(r, s, rounds)
		say("row %s: %s", c.Row, c.text())
		b.report.Comparisons = append(b.report.Comparisons, c)
	}
	return ctx.Err()
}

// inTurn is the order of the sides in a round: A B, then B A, so that neither has
// the better place.
func inTurn(round int, needed []bool) []int {
	var order []int
	for j, n := range needed {
		if n {
			order = append(order, j)
		}
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

func (s sample) String() string {
	var names, parts []string
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%s %s", figure(s[name]), name))
	}
	return strings.Join(parts, ", ")
}

// freshDir makes a directory for one measurement.
func (b *bench) freshDir() (string, error) {
	b.dirs++
	dir := filepath.Join(b.cfg.dir, fmt.Sprintf("%04d", b.dirs))
	return dir, os.MkdirAll(dir, 0o700)
}

// bounded sets the bounds of a measurement: time, and messages as the bytes
// allow.
func (b *bench) bounded(s spec) spec {
	s.Warmup, s.Time = b.cfg.warmup, b.cfg.time
	s.Count = max(b.cfg.bytes/int64(max(s.Size, 1)), 1)
	return s
}

// rates are the figures of a load that moved messages.
func (s spec) rates(o outcome) sample {
	return sample{perSecond: o.rate(), bytesRate: o.rate() * float64(s.Size)}
}

// onRMQ measures a load against a fresh rmq server.
func (b *bench) onRMQ(s spec, args ...string) func(context.Context) (sample, error) {
	return func(ctx context.Context) (m sample, err error) {
		dir, err := b.freshDir()
		if err != nil {
			return nil, err
		}
		p, err := b.startRMQ(ctx, dir, args...)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.discard()) }()
		return b.onServer(ctx, p, s)
	}
}

// onJetStream measures a load against a fresh JetStream server.
func (b *bench) onJetStream(s spec, always bool) func(context.Context) (sample, error) {
	return func(ctx context.Context) (m sample, err error) {
		dir, err := b.freshDir()
		if err != nil {
			return nil, err
		}
		p, err := b.startJetStream(ctx, dir, always)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.discard()) }()
		return b.onServer(ctx, p, s)
	}
}

func (b *bench) onServer(ctx context.Context, p *process, s spec) (sample, error) {
	s = b.bounded(s)
	s.Addr = p.listen
	o, err := b.load(ctx, s)
	return s.rates(o), err
}

// onDisk measures a load that needs a directory and no server.
func (b *bench) onDisk(s spec) func(context.Context) (sample, error) {
	return func(ctx context.Context) (m sample, err error) {
		if s.Dir, err = b.freshDir(); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.Dir)) }()
		o, err := b.load(ctx, b.bounded(s))
		m = s.rates(o)
		for name, v := range o.Notes {
			m[name] = v
		}
		return m, err
	}
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
