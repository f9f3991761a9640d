package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"sync"
	"time"
)

// childEnv holds, in a child, what it is to do. Servers and clients are
// processes of their own: this program again, and the rmq command.
const childEnv = "RMQ_BENCH_CHILD"

// spec is what a child is to do. Zero fields have no meaning in its role.
type spec struct {
	Role    string `json:"role"`
	Addr    string `json:"addr,omitempty"`
	Dir     string `json:"dir,omitempty"`
	Profile string `json:"profile,omitempty"` // file for a CPU profile

	// Servers.
	Args       []string `json:"args,omitempty"` // of rmq server
	SyncAlways bool     `json:"syncAlways,omitempty"`

	// Loads.
	Size    int    `json:"size,omitempty"`    // of a body or a frame
	Clients int    `json:"clients,omitempty"` // connections or, when Shared, callers of one
	Shared  bool   `json:"shared,omitempty"`
	Window  int    `json:"window,omitempty"` // messages or requests under way at most
	Batch   int    `json:"batch,omitempty"`
	Topics  int    `json:"topics,omitempty"`
	Groups  int    `json:"groups,omitempty"`
	Group   string `json:"group,omitempty"`
	Latest  bool   `json:"latest,omitempty"` // consume what comes, not what is there
	Ack     bool   `json:"ack,omitempty"`
	Way     string `json:"way,omitempty"`    // to consume
	Tag     string `json:"tag,omitempty"`    // to consume
	Rare    bool   `json:"rare,omitempty"`   // send some messages with rareTag
	Retain  int64  `json:"retain,omitempty"` // bytes that the store keeps

	// What is measured begins after Warmup, or with FromFirst at the last look
	// before the first message, and ends after Time or Count messages.
	Warmup    time.Duration `json:"warmup,omitempty"`
	Time      time.Duration `json:"time,omitempty"`
	Count     int64         `json:"count,omitempty"`
	FromFirst bool          `json:"fromFirst,omitempty"`
}

// outcome is what a load measured.
type outcome struct {
	Messages int64              `json:"messages"`
	Seconds  float64            `json:"seconds"`
	Total    int64              `json:"total"` // with what was before and after
	Notes    map[string]float64 `json:"notes,omitempty"`
	Error    string             `json:"error,omitempty"`
}

// rate is messages a second.
func (o outcome) rate() float64 {
	if o.Seconds <= 0 {
		return 0
	}
	return float64(o.Messages) / o.Seconds
}

// loads are the roles that measure and end.
var loads = map[string]func(context.Context, spec) (outcome, error){
	"rmq-produce": produceRMQ, "rmq-sync": syncRMQ, "rmq-single": singleRMQ, "rmq-consume": consumeRMQ, "rmq-way": consumeWay,
	"js-produce": produceJetStream, "js-sync": syncJetStream, "js-atomic": atomicJetStream, "js-fast": fastJetStream,
	"js-fetch": fetchJetStream, "js-consume": consumeJetStream,
	"echo": echo, "echo-sync": echoSync, "store": appendToStore, "chunks": commitChunks, "read": readFiles, "sync-probe": probeSync, "sync-rate": rateSync,
}

// servers are the roles that serve until stdin ends.
var servers = map[string]func(context.Context, spec) error{
	"jetstream-server": serveJetStream, "echo-server": serveEcho, "rmq-server": serveRMQ,
}

// runChild does what the environment says, and returns the exit code.
func runChild(ctx context.Context, text string) int {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	stop, err := s.profile()
	if err == nil {
		err = s.run(ctx)
		stop()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", s.Role, err)
		return 1
	}
	return 0
}

func (s spec) run(ctx context.Context) error {
	if serve, ok := servers[s.Role]; ok {
		return serve(ctx, s)
	}
	load, ok := loads[s.Role]
	if !ok {
		return errors.New("no such role")
	}
	o, err := load(ctx, s)
	if err != nil {
		o.Error = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(o)
}

// profile writes a CPU profile of the child until stop is called.
func (s spec) profile() (stop func(), err error) {
	if s.Profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(s.Profile)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// ready tells the parent where a server listens, in the form that rmq server
// has.
func ready(addr string) {
	fmt.Printf("{\"msg\":\"ready\",\"listen\":%q}\n", addr)
}

// untilStdinEnds keeps a server until its parent lets it go or is gone.
func untilStdinEnds(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	<-ctx.Done()
}

// measured runs a load and takes what progress says between the end of the
// warm-up and the end of the measurement, which is when the load's context ends.
func (s spec) measured(ctx context.Context, progress func() int64, load func(context.Context) error) (outcome, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	begun := time.Now()
	var o outcome
	var wg sync.WaitGroup
	wg.Go(func() {
		o = s.watch(ctx, progress)
		stop()
	})
	err := load(ctx)
	stop()
	wg.Wait()
	o.Total = progress()
	// The answers may take longer than the measurement; and what counts those under
	// way may be a message ahead of what counts those sent.
	if o.Messages <= 0 {
		o.Messages, o.Seconds = o.Total, time.Since(begun).Seconds()
	}
	return o, err
}

// look is how often the progress of a load is looked at.
const look = 2 * time.Millisecond

func (s spec) watch(ctx context.Context, progress func() int64) outcome {
	tick := time.NewTicker(look)
	defer tick.Stop()
	wait := func(until func() bool) {
		for !until() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
	begun := time.Now()
	wait(func() bool { return time.Since(begun) >= s.Warmup })
	n, from := progress(), time.Now()
	if s.FromFirst {
		n = 0
		wait(func() bool {
			before := time.Now()
			some := progress() > 0
			if !some {
				from = before
			}
			return some
		})
	}
	wait(func() bool { return s.Time > 0 && time.Since(from) >= s.Time || s.Count > 0 && progress()-n >= s.Count })
	return outcome{Messages: progress() - n, Seconds: time.Since(from).Seconds()}
}

// body is what messages hold: bytes that do not repeat within a message.
func (s spec) body() []byte {
	b := make([]byte, s.Size)
	x := uint32(2463534242)
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
	return b
}

// fault keeps the first error of many goroutines.
type fault struct {
	mu  sync.Mutex
	err error
}

func (f *fault) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *fault) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}
