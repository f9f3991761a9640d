package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	topic     = "demo"
	group     = "demo"
	queues    = "8"
	consumers = 2
	// recovery is how long after the restart duplicates are put down to the kill:
	// longer than a client's session at the broker, which is 6 s.
	recovery = 10 * time.Second
	// quiet is how long nothing may arrive before the end, so that a late
	// duplicate is seen.
	quiet = 2 * time.Second
)

// demo is one run. Its goroutines are those of its children.
type demo struct {
	cfg      config
	dir      string
	source   *source
	ledger   *ledger
	children sync.WaitGroup

	server       *child
	listen       string // as the server said
	publisher    *child
	subscribers  []*child
	acknowledged atomic.Int64
	figures      figures
}

// run is the demonstration from the start to the table.
func (d *demo) run(ctx context.Context) error {
	say("%d lines in %d files of %s", d.source.lines, len(d.source.files), d.cfg.root)
	err := d.play(ctx)
	if err != nil {
		d.showLogs()
	}
	if d.figures.started.IsZero() {
		return err
	}
	v := d.ledger.judge(span{d.figures.killed.Truncate(time.Millisecond), d.figures.back.Add(recovery)})
	d.figures.print(os.Stdout, d, v)
	if v.failed > 0 {
		err = errors.Join(err, fmt.Errorf("%d failures", v.failed))
	}
	return err
}

// play is the main job with the kill in the middle.
func (d *demo) play(ctx context.Context) error {
	if err := d.startServer(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	if err := d.createTopic(ctx); err != nil {
		return err
	}
	d.figures.started = time.Now()
	if err := d.startClients(ctx); err != nil {
		return err
	}
	if err := d.wait(ctx, d.ledger.half); err != nil {
		return fmt.Errorf("before the kill: %w", err)
	}
	if err := d.killServer(ctx); err != nil {
		return err
	}
	if err := d.wait(ctx, d.ledger.whole); err != nil {
		return fmt.Errorf("after the kill: %w", err)
	}
	_, _, d.figures.received = d.ledger.progress()
	return d.finish(ctx)
}

// startServer starts the server and waits until it says that it is ready.
func (d *demo) startServer(ctx context.Context, listen string) error {
	d.figures.starts++
	name := fmt.Sprintf("server%d", d.figures.starts)
	ready := make(chan string, 1)
	server, err := d.start(ctx, spec{
		name:   name,
		keep:   true,
		args:   []string{"server", "--data", d.data(), "--listen", listen, "--http", "127.0.0.1:0"},
		onLine: func(line []byte) error { return lookForReady(ready, line) },
	})
	if err != nil {
		return err
	}
	d.server = server
	timeout := time.NewTimer(20 * time.Second)
	defer timeout.Stop()
	select {
	case d.listen = <-ready:
		return nil
	case <-d.server.done:
		return d.server.gone()
	case <-timeout.C:
		return errors.New("the server is not ready after 20 s")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lookForReady looks in the server's log for the line that says where it listens.
func lookForReady(ready chan<- string, line []byte) error {
	var l struct{ Msg, Listen string }
	if json.Unmarshal(line, &l) != nil || l.Msg != "ready" {
		return nil
	}
	if _, _, err := net.SplitHostPort(l.Listen); err != nil {
		return nil // another part of the server
	}
	select {
	case ready <- l.Listen:
	default:
	}
	return nil
}

func (d *demo) data() string { return filepath.Join(d.dir, "data") }

func (d *demo) createTopic(ctx context.Context) error {
	c, err := d.start(ctx, spec{name: "topic", onLine: ignore,
		args: []string{"topic", "create", topic, "--queues", queues, "-n", d.listen}})
	if err != nil {
		return err
	}
	<-c.done
	return c.err
}

func ignore([]byte) error { return nil }

// startClients starts the consumers and the publisher.
func (d *demo) startClients(ctx context.Context) error {
	for i := range consumers {
		seq := 0
		c, err := d.start(ctx, spec{
			name: fmt.Sprintf("sub%d", i+1),
			args: []string{"sub", topic, "--group", group, "--from", "earliest", "-o", "ndjson", "-n", d.listen},
			onLine: func(line []byte) error {
				var r record
				if err := json.Unmarshal(line, &r); err != nil {
					return fmt.Errorf("%q: %w", line, err)
				}
				seq++
				return d.ledger.enter(i, seq, &r, time.Now())
			},
		})
		if err != nil {
			return err
		}
		d.subscribers = append(d.subscribers, c)
	}
	var err error
	d.publisher, err = d.start(ctx, spec{
		name: "pub",
		args: []string{"pub", topic, "--in", "ndjson", "-o", "name", "-n", d.listen},
		feed: func(w io.Writer) error {
			return d.source.writeTo(w, func() error { return d.ledger.pace(ctx) })
		},
		onLine: d.countReceipt,
	})
	return err
}

// countReceipt counts what the server acknowledged.
func (d *demo) countReceipt([]byte) error {
	if d.acknowledged.Add(1) == int64(d.source.lines) {
		d.figures.sent.Store(time.Now().UnixNano())
	}
	return nil
}

// wait waits for a step of the ledger; a child that ends too early is an error.
func (d *demo) wait(ctx context.Context, step <-chan struct{}) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	published := d.publisher.done
	for {
		select {
		case <-step:
			return nil
		case <-published:
			if d.publisher.err != nil {
				return fmt.Errorf("pub: %w", d.publisher.err)
			}
			published = nil
		case <-tick.C:
			for _, c := range append([]*child{d.server}, d.subscribers...) {
				if err := c.gone(); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			distinct, total, _ := d.ledger.progress()
			return fmt.Errorf("%w: %d of %d lines acknowledged, %d received, %d of them different",
				context.Cause(ctx), d.acknowledged.Load(), d.source.lines, total, distinct)
		}
	}
}

// killServer kills the server as it works and starts it again at once on the
// same directory and port.
func (d *demo) killServer(ctx context.Context) error {
	d.figures.rssAtKill = d.server.rss()
	d.figures.ackedAtKill = d.acknowledged.Load()
	d.figures.killed = time.Now()
	if err := d.server.signal(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	distinct, _, _ := d.ledger.progress()
	say("server killed: %d lines acknowledged, %d received", d.figures.ackedAtKill, distinct)
	if err := d.startServer(ctx, d.listen); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	d.figures.back = time.Now()
	say("server ready again after %d ms", d.figures.back.Sub(d.figures.killed).Milliseconds())
	return nil
}

// finish waits until nothing comes any more, and ends everything in good order.
func (d *demo) finish(ctx context.Context) error {
	select {
	case <-d.publisher.done:
		if d.publisher.err != nil {
			return fmt.Errorf("pub: %w", d.publisher.err)
		}
	case <-ctx.Done():
		return fmt.Errorf("pub does not end: %w", context.Cause(ctx))
	}
	for {
		_, _, last := d.ledger.progress()
		if rest := quiet - time.Since(last); rest <= 0 {
			break
		} else if err := after(ctx, rest); err != nil {
			return err
		}
	}
	d.figures.rssAtEnd = d.server.rss()
	d.figures.disk = diskBytes(d.data())
	for _, c := range append(d.subscribers, d.server) {
		if err := c.signal(ctx, syscall.SIGTERM); err != nil {
			return err
		}
		if c.err != nil {
			return fmt.Errorf("%s after SIGTERM: %w", c.name, c.err)
		}
	}
	return nil
}

// showLogs prints what the children said last.
func (d *demo) showLogs() {
	for _, c := range append([]*child{d.server, d.publisher}, d.subscribers...) {
		if c == nil {
			continue
		}
		if lines := c.lastLines(10); len(lines) > 0 {
			fmt.Fprintf(os.Stderr, "--- %s\n%s", c.name, lines)
		}
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...) }
