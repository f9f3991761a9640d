//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rmqio/rmq/transport/protocol"
)

// fullDisk is one server on a small disk.
type fullDisk struct {
	*site
	disk   *disk
	result *result
	data   string
	env    []string
	server *rmqServer
	load   *load
}

// diskFull fills the disk under a running server again and again: by turns until
// there is no byte left, and with the watermarks that keep it from coming to
// that. Every other pair of cycles the server is killed and started again while
// the disk is full.
func diskFull(ctx context.Context, b *site, r *result) error {
	d, err := newDisk(ctx, b, "small", 400<<20)
	if err != nil {
		return err
	}
	for n := 0; n < b.cycles && b.more(ctx) && !r.hopeless(); n++ {
		f := &fullDisk{site: b, disk: d, result: r, data: filepath.Join(d.path, fmt.Sprint("data-", n)), env: []string{"RMQ_BROKER_DISK_PLENTY=1"}}
		what := "not a byte left"
		if n%2 == 1 {
			f.env, what = nil, "watermarks"
		}
		restart := n/2%2 == 1
		if restart {
			what += ", killed and started meanwhile"
		}
		if err := f.cycle(ctx, restart); err != nil {
			r.violate("%s: %v", what, err)
		}
		r.point("disk full: " + what + "\t")
		if err := os.RemoveAll(f.data); err != nil {
			return err
		}
	}
	return nil
}

func (f *fullDisk) cycle(ctx context.Context, restart bool) (err error) {
	if err := f.start(ctx, "127.0.0.1:0"); err != nil {
		return err
	}
	defer func() { f.server.stop(syscall.SIGTERM); err = errors.Join(err, f.server.panicked()) }()
	if f.load, err = startLoad(ctx, f.server.listen, 2*time.Second); err != nil {
		return err
	}
	err = f.fillAndFree(ctx, restart)
	if err := errors.Join(err, f.load.stop(ctx)); err != nil {
		return fmt.Errorf("%w\n%s", err, lastLines(f.server.text(), 12))
	}
	lost, dropped, err := checkStored(ctx, f.server.listen, f.load.acked)
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("%d messages that were acknowledged are lost", lost))
	}
	if dropped > 0 {
		f.result.note("%d messages were dropped by retention, which the watermarks call for", dropped)
	}
	acked, refused := f.load.count()
	f.result.cycle(1, int64(acked), lost)
	f.result.note("%d sends acknowledged, %d refused: %v", acked, refused, f.load.refused)
	return err
}

func (f *fullDisk) start(ctx context.Context, listen string) (err error) {
	f.server, err = startServer(ctx, f.cfg, f.data, listen, f.env...)
	if errors.Is(err, errNotReady) {
		err = fmt.Errorf("%w\n%s", err, lastLines(f.server.text(), 12))
	}
	return err
}

// fillAndFree fills the disk until sends are refused, and frees it until they are
// taken again.
func (f *fullDisk) fillAndFree(ctx context.Context, restart bool) error {
	const patience = 60 * time.Second
	if err := f.load.awaitAcks(ctx, patience, 500); err != nil {
		return err
	}
	filler := filepath.Join(f.disk.path, "filler")
	defer os.Remove(filler)
	if err := fill(f.disk.path, filler); err != nil {
		return err
	}
	refusals := func(n int) error {
		return until(ctx, patience, "sends are refused with a typed error", func() bool {
			_, refused := f.load.count()
			return refused >= n
		})
	}
	if err := refusals(1); err != nil {
		return err
	}
	if restart {
		f.server.stop(syscall.SIGKILL)
		if err := errors.Join(f.server.panicked(), f.start(ctx, f.server.listen)); err != nil {
			return fmt.Errorf("start on a full disk: %w", err)
		}
	}
	_, before := f.load.count()
	if err := errors.Join(refusals(before+100), f.typed()); err != nil {
		return err
	}
	if err := os.Remove(filler); err != nil {
		return err
	}
	freed := time.Now()
	if err := f.load.awaitAcks(ctx, patience, 1); err != nil {
		return fmt.Errorf("after the disk was freed: %w", err)
	}
	f.result.note("took messages again %.1f s after the disk was freed", time.Since(freed).Seconds())
	return f.load.awaitAcks(ctx, patience, 500)
}

// typed looks at how sends were refused.
func (f *fullDisk) typed() error {
	f.load.mu.Lock()
	defer f.load.mu.Unlock()
	if f.load.untyped != nil {
		return fmt.Errorf("not a typed error: %w", f.load.untyped)
	}
	for code := range f.load.refused {
		switch code {
		case protocol.Unavailable, protocol.UnknownOutcome, protocol.Unreachable, protocol.Busy:
		default:
			return fmt.Errorf("a full disk was answered with %v", code)
		}
	}
	if f.load.refused[protocol.Unavailable] == 0 {
		return fmt.Errorf("no send was told that the store refuses: %v", f.load.refused)
	}
	return nil
}

// fill writes a file until the disk has no room for another byte.
func fill(dir, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := int64(64 << 20); size >= 4096; {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		err = unix.Fallocate(int(f.Fd()), 0, info.Size(), size)
		if errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			return fmt.Errorf("fill %s: %w", dir, err)
		}
	}
	return nil
}

// lastLines are the last lines of a server's log that matter.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, `"level":"INFO"`) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
