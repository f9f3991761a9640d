package main

import (
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// figures are what a run measures.
type figures struct {
	starts      int          // of the server
	started     time.Time    // of the clients
	sent        atomic.Int64 // Unix nanoseconds of the last receipt; 0: not yet
	received    time.Time    // when the last line was there
	killed      time.Time
	back        time.Time // the server was ready again
	ackedAtKill int64
	rssAtKill   int64
	rssAtEnd    int64
	disk        int64
}

// print writes the table and what failed.
func (f *figures) print(w io.Writer, d *demo, v *verdict) {
	distinct, total, _ := d.ledger.progress()
	var in, out float64
	if ns := f.sent.Load(); ns != 0 {
		in = time.Unix(0, ns).Sub(f.started).Seconds()
	}
	if !f.received.IsZero() {
		out = f.received.Sub(f.started).Seconds()
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("messages", "%d sent, %d acknowledged (%d before the kill), %d received", d.source.lines, d.acknowledged.Load(), f.ackedAtKill, distinct)
	row("by consumer", "%d + %d", v.perConsumer[0], v.perConsumer[1])
	row("files equal", "%d of %d", v.filesEqual, len(d.source.files))
	row("seconds", "%.1f in, %.1f out, %.2f without a server", in, out, f.back.Sub(f.killed).Seconds())
	row("messages/s", "%s in, %s out", rate(d.source.lines, in), rate(total, out))
	row("duplicates", "%d, of these %d around the kill", v.duplicates, v.aroundKill)
	row("on disk", "%s", mebibytes(f.disk))
	row("server RSS", "%s at the kill, %s at the end", mebibytes(f.rssAtKill), mebibytes(f.rssAtEnd))
	result := "every file is what it was"
	if v.failed > 0 || v.filesEqual < len(d.source.files) {
		result = "FAILED"
	}
	row("result", "%s", result)
	t.Flush()
	for _, text := range v.failures {
		fmt.Fprintln(w, " ", text)
	}
	if more := v.failed - len(v.failures); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}

func rate(n int, seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", float64(n)/seconds)
}

func mebibytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
}

// diskBytes is the size of all files under dir.
func diskBytes(dir string) int64 {
	var n int64
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone since
		}
		if info, err := e.Info(); err == nil && !e.IsDir() {
			n += info.Size()
		}
		return nil
	})
	return n
}
