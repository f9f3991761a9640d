package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
)

// endToEnd compares latencies with what two disk syncs allow: bounds that are
// made of f, one fdatasync, measured next to them.
func (b *bench) endToEnd() scenario {
	return scenario{
		name:  "end to end at half load",
		sides: []side{{"rmq", b.halfLoad}, {"f, one fdatasync", b.syncBounds}},
		rows: []row{
			{number: "13", work: "end to end at half load, 1 KiB, p50", against: "2.5 x 2f + 1 ms", a: pick{0, "p50 ms"}, b: pick{1, "p50 must"}, must: 1, lower: true},
			{number: "13", work: "end to end at half load, 1 KiB, p99", against: "4 x 2f + 3 ms", a: pick{0, "p99 ms"}, b: pick{1, "p99 must"}, must: 1, lower: true},
			{number: "13a", work: "end to end at half load, 1 KiB, p50 (the aim)", against: "1.6 x 2f + 0.5 ms", a: pick{0, "p50 ms"}, b: pick{1, "p50 aim"}, aim: 1, lower: true},
		},
	}
}

// halfLoad runs `rmq bench e2e` at half of what row 1 reached.
func (b *bench) halfLoad(ctx context.Context) (m sample, err error) {
	if b.best == 0 {
		if _, err := b.keepingBest(1024, b.onRMQ(rmqAsync(1024)))(ctx); err != nil {
			return nil, err
		}
	}
	dir, err := b.freshDir()
	if err != nil {
		return nil, err
	}
	p, err := b.startRMQ(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	out, err := exec.CommandContext(ctx, b.cfg.rmq, "bench", "e2e", "-n", p.listen, "-o", "json", "--size", "1024",
		"--rate", strconv.Itoa(int(b.best/2)), "--duration", b.cfg.time.String(), "--warmup", b.cfg.warmup.String()).Output()
	if err != nil {
		return nil, fmt.Errorf("rmq bench: %w", err)
	}
	var r struct {
		MessagesPerSecond float64
		LatencyMillis     struct{ P50, P99 float64 }
		Rate              struct{ Held bool }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, err
	}
	m = sample{perSecond: r.MessagesPerSecond, "p50 ms": r.LatencyMillis.P50, "p99 ms": r.LatencyMillis.P99, "rate held": 1}
	if !r.Rate.Held {
		m["rate held"] = 0
	}
	return m, nil
}

func (b *bench) syncBounds(ctx context.Context) (sample, error) {
	m, err := b.onDisk(spec{Role: "sync-probe", Size: probeBytes})(ctx)
	f := m["overwriteP50"]
	return sample{"f ms": f, "p50 must": 2.5*2*f + 1, "p99 must": 4*2*f + 3, "p50 aim": 1.6*2*f + 0.5}, err
}
