package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rmqio/rmq/internal/machine"
)

// report is all that was measured. The fields are what -json writes.
type report struct {
	Began       time.Time         `json:"began"`
	Ended       time.Time         `json:"ended"`
	Settings    map[string]string `json:"settings"`
	Machine     machine.Facts     `json:"machine"`
	Load        string            `json:"loadAverage"` // at the begin
	Disturbed   int               `json:"disturbed"`   // measurements during which others used the machine
	Comparisons []comparison      `json:"comparisons"`
	Absolutes   []absolute        `json:"absolute"`
}

// spread is a figure that was measured several times.
type spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return spread{}
	}
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + mid) / 2
	}
	return spread{v[0], mid, v[len(v)-1]}
}

// comparison is a row with what was measured.
type comparison struct {
	Row     string `json:"row"`
	Work    string `json:"work"`
	Against string `json:"against"`
	Figure  string `json:"figure"`
	A       spread `json:"a"`
	B       spread `json:"b"`
	// Ratios are those of the pairs; Ratio is that of the medians.
	Ratios spread  `json:"ratios"`
	Ratio  float64 `json:"ratio"`
	Lower  bool    `json:"lowerIsBetter"`
	Must   float64 `json:"must,omitempty"`
	Aim    float64 `json:"aim,omitempty"`
	Result string  `json:"result"`
}

func compared(r row, s scenario, rounds [][]sample) comparison {
	var as, bs, ratios []float64
	for _, round := range rounds {
		a, b := round[r.a.side][r.a.figure], round[r.b.side][r.b.figure]
		as, bs = append(as, a), append(bs, b)
		ratios = append(ratios, ratio(a, b))
	}
	c := comparison{
		Row: r.number, Work: r.work, Against: r.against, Figure: r.a.figure,
		A: spreadOf(as), B: spreadOf(bs), Ratios: spreadOf(ratios), Lower: r.lower, Must: r.must, Aim: r.aim,
	}
	if c.Against == "" {
		c.Against = s.sides[r.b.side].name
	}
	if c.Work == "" {
		c.Work = s.sides[r.a.side].name
	}
	c.Ratio = ratio(c.A.Median, c.B.Median)
	c.Result = c.verdict()
	return c
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// verdict says what the ratio of the medians reaches.
func (c comparison) verdict() string {
	reaches := func(goal float64) bool { return c.Ratio >= goal && !c.Lower || c.Ratio <= goal && c.Lower }
	switch {
	case c.Row == rowAA && (c.Ratios.Min < 0.9 || c.Ratios.Max > 1.1):
		return "too noisy"
	case c.Row == rowAA:
		return "quiet enough"
	case c.Aim > 0 && reaches(c.Aim):
		return "aim"
	case c.Must > 0 && reaches(c.Must):
		return "must"
	case c.Must > 0:
		return "missed"
	}
	return ""
}

func (c comparison) text() string {
	return fmt.Sprintf("%s against %s: %.2f (%.2f to %.2f) %s", c.Work, c.Against, c.Ratio, c.Ratios.Min, c.Ratios.Max, c.Result)
}

// absolute is a figure that is compared with nothing but its goal.
type absolute struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Must   float64 `json:"must,omitempty"` // at most
	Aim    float64 `json:"aim,omitempty"`
	Result string  `json:"result"`
}

func (b *bench) enter(name string, value float64, unit string, must, aim float64) {
	a := absolute{Name: name, Value: value, Unit: unit, Must: must, Aim: aim}
	switch {
	case aim > 0 && value <= aim:
		a.Result = "aim"
	case must > 0 && value <= must:
		a.Result = "must"
	case must > 0:
		a.Result = "missed"
	}
	say("%s: %s %s %s", name, figure(value), unit, a.Result)
	b.report.Absolutes = append(b.report.Absolutes, a)
}

// figure is a number for people: with thousands, or with three digits.
func figure(v float64) string {
	if math.Abs(v) < 1000 {
		return fmt.Sprintf("%.3g", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func goal(v float64, lower bool) string {
	switch {
	case v == 0:
		return ""
	case lower:
		return fmt.Sprintf("<= %.4g", v)
	}
	return fmt.Sprintf(">= %.4g", v)
}

// markdown is the report as tables.
func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %.0f minutes; %d CPUs (%s), %.0f GiB, %s %s; load average at the begin %s; %d measurements disturbed by others.\n\n",
		r.Began.Format("2006-01-02 15:04"), r.Ended.Sub(r.Began).Minutes(), r.Machine.CPUs, r.Machine.CPU,
		float64(r.Machine.MemoryBytes)/(1<<30), r.Machine.Platform, r.Machine.Kernel, r.Load, r.Disturbed)
	b.WriteString("| # | work (A) | against (B) | figure | A | B | A/B | pairs: min, median, max | must | aim | reached |\n")
	b.WriteString("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, c := range r.Comparisons {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %.2f | %.2f, %.2f, %.2f | %s | %s | %s |\n",
			c.Row, c.Work, c.Against, c.Figure, figure(c.A.Median), figure(c.B.Median), c.Ratio,
			c.Ratios.Min, c.Ratios.Median, c.Ratios.Max, goal(c.Must, c.Lower), goal(c.Aim, c.Lower), c.Result)
	}
	if len(r.Absolutes) == 0 {
		return b.String()
	}
	b.WriteString("\n| absolute | measured | must | aim | reached |\n| --- | --- | --- | --- | --- |\n")
	for _, a := range r.Absolutes {
		fmt.Fprintf(&b, "| %s | %s %s | %s | %s | %s |\n", a.Name, figure(a.Value), a.Unit, goal(a.Must, true), goal(a.Aim, true), a.Result)
	}
	return b.String()
}

// write writes the report to the files that were asked for.
func (b *bench) write() error {
	text, err := json.MarshalIndent(b.report, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(writeTo(b.cfg.json, append(text, '\n')), writeTo(b.cfg.markdown, []byte(b.report.markdown())))
}

func writeTo(path string, text []byte) error {
	if path == "" {
		return nil
	}
	return os.WriteFile(path, text, 0o644)
}
