package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	streamName     = "BENCH"
	streamSubject  = "bench"
	serverPatience = 20 * time.Second
)

// startNATS starts a NATS server at a free port, with JetStream when there is a
// directory for it.
func startNATS(s spec) (*server.Server, error) {
	o := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, MaxPayload: 8 << 20,
		JetStream: s.Dir != "", StoreDir: s.Dir, SyncAlways: s.SyncAlways,
	}
	n, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	go n.Start() // it ends with Shutdown
	if !n.ReadyForConnections(serverPatience) {
		return nil, errors.New("the NATS server does not become ready")
	}
	return n, nil
}

// serveJetStream is a NATS server with one stream: R1, on disk, no limits.
func serveJetStream(ctx context.Context, s spec) error {
	n, err := startNATS(s)
	if err != nil {
		return err
	}
	if err := createStream(ctx, n.ClientURL()); err != nil {
		return err
	}
	ready(n.ClientURL())
	untilStdinEnds(ctx)
	n.Shutdown()
	n.WaitForShutdown()
	return nil
}

func createStream(ctx context.Context, url string) error {
	nc, js, err := dialJetStream(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{streamSubject}, Storage: jetstream.FileStorage, Replicas: 1,
		AllowAtomicPublish: true, AllowBatchPublish: true,
	})
	return err
}

func dialJetStream(url string, opts ...jetstream.JetStreamOpt) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc, opts...)
	return nc, js, err
}

// produceJetStream is one asynchronous publisher with a window.
func produceJetStream(ctx context.Context, s spec) (o outcome, err error) {
	var failed fault
	nc, js, err := dialJetStream(s.Addr, jetstream.WithPublishAsyncMaxPending(s.Window),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { failed.set(err) }))
	if err != nil {
		return o, err
	}
	defer nc.Close()
	var published atomic.Int64
	body := s.body()
	acked := func() int64 { return published.Load() - int64(js.PublishAsyncPending()) }
	o, err = s.measured(ctx, acked, func(ctx context.Context) error {
		for ctx.Err() == nil {
			if _, err := js.PublishAsync(streamSubject, body, jetstream.WithStallWait(time.Minute)); err != nil {
				return err
			}
			published.Add(1)
		}
		<-js.PublishAsyncComplete()
		return nil
	})
	return o, errors.Join(err, failed.get())
}

// syncJetStream is publishers that each wait for every answer.
func syncJetStream(ctx context.Context, s spec) (o outcome, err error) {
	publishers := make([]jetstream.JetStream, s.Clients)
	for i := range publishers {
		if s.Shared && i > 0 {
			publishers[i] = publishers[0]
			continue
		}
		nc, js, err := dialJetStream(s.Addr)
		if err != nil {
			return o, err
		}
		defer nc.Close()
		publishers[i] = js
	}
	body := s.body()
	return s.callers(ctx, func(i int) error {
		_, err := publishers[i].Publish(context.WithoutCancel(ctx), streamSubject, body)
		return err
	})
}

// atomicJetStream publishes atomic batches (NATS ADR-50), a window of messages
// under way.
func atomicJetStream(ctx context.Context, s spec) (o outcome, err error) {
	p, err := dialPublisher(s)
	if err != nil {
		return o, err
	}
	defer p.nc.Close()
	slots := make(chan struct{}, max(1, s.Window/s.Batch))
	var running sync.WaitGroup
	p.onReply = func(m *nats.Msg) {
		p.acked.Add(int64(s.Batch))
		p.check(m)
		<-slots
		running.Done()
	}
	body := s.body()
	o, err = s.measured(ctx, p.acked.Load, func(ctx context.Context) error {
		for i := 0; ctx.Err() == nil && p.failed.get() == nil; i++ {
			slots <- struct{}{}
			running.Add(1)
			if err := p.publishBatch(strconv.Itoa(i), body); err != nil {
				return err
			}
		}
		running.Wait()
		return nil
	})
	return o, errors.Join(err, p.failed.get())
}

// publisher is a client of the batch protocols, which nats.go does not have.
type publisher struct {
	nc      *nats.Conn
	spec    spec
	inbox   string
	onReply func(*nats.Msg)
	acked   atomic.Int64
	failed  fault
}

func dialPublisher(s spec) (*publisher, error) {
	nc, err := nats.Connect(s.Addr)
	if err != nil {
		return nil, err
	}
	p := &publisher{nc: nc, spec: s, inbox: nats.NewInbox()}
	_, err = nc.Subscribe(p.inbox+".>", func(m *nats.Msg) { p.onReply(m) })
	return p, err
}

// reply is what the server answers: to an atomic batch an acknowledgement, to a
// fast one how far it came.
type reply struct {
	Type     string          `json:"type"`
	Sequence int64           `json:"seq"`
	Count    int64           `json:"count"` // at the end of a batch: its messages
	Error    json.RawMessage `json:"error"`
}

// check remembers a refusal.
func (p *publisher) check(m *nats.Msg) (r reply) {
	err := json.Unmarshal(m.Data, &r)
	switch {
	case err != nil:
		p.failed.set(fmt.Errorf("answer %q: %w", m.Data, err))
	case len(r.Error) > 0:
		p.failed.set(fmt.Errorf("refused: %s", r.Error))
	}
	return r
}

// publishBatch sends one atomic batch; only its last message is answered.
func (p *publisher) publishBatch(id string, body []byte) error {
	for i := range p.spec.Batch {
		m := &nats.Msg{Subject: streamSubject, Data: body, Header: nats.Header{
			"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)},
		}}
		if i == p.spec.Batch-1 {
			m.Header["Nats-Batch-Commit"] = []string{"1"}
			m.Reply = p.inbox + "." + id
		}
		if err := p.nc.PublishMsg(m); err != nil {
			return err
		}
	}
	return nil
}

// Operations of a fast batch, in the reply subject
// PREFIX.ID.FLOW.GAP.SEQUENCE.OPERATION.$FI (NATS ADR-50).
const (
	fastStart = iota
	fastAppend
	fastCommit
)

// fastJetStream publishes one long fast batch: answers say every so often how
// far it is stored.
func fastJetStream(ctx context.Context, s spec) (o outcome, err error) {
	p, err := dialPublisher(s)
	if err != nil {
		return o, err
	}
	defer p.nc.Close()
	moved := make(chan struct{}, 1)
	p.onReply = func(m *nats.Msg) {
		switch r := p.check(m); {
		case r.Type == "ack":
			p.acked.Store(r.Sequence)
		case r.Count > 0:
			p.acked.Store(r.Count)
		}
		select {
		case moved <- struct{}{}:
		default:
		}
	}
	o, err = s.measured(ctx, p.acked.Load, func(ctx context.Context) error { return p.publishFast(ctx, moved) })
	return o, errors.Join(err, p.failed.get())
}

func (p *publisher) publishFast(ctx context.Context, moved <-chan struct{}) error {
	flow := min(p.spec.Batch, p.spec.Window/2)
	prefix := fmt.Sprintf("%s.fast.%d.fail.", p.inbox, max(flow, 1))
	body, op := p.spec.body(), fastStart
	for seq := int64(1); p.failed.get() == nil; seq++ {
		for seq-p.acked.Load() > int64(p.spec.Window) && ctx.Err() == nil {
			select {
			case <-moved:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			op = fastCommit
		}
		reply := prefix + strconv.FormatInt(seq, 10) + "." + strconv.Itoa(op) + ".$FI"
		if err := p.nc.PublishRequest(streamSubject, reply, body); err != nil {
			return err
		}
		if op == fastCommit {
			return p.committed(seq, moved)
		}
		op = fastAppend
	}
	return nil
}

// committed waits for the answer to the last message of a fast batch.
func (p *publisher) committed(last int64, moved <-chan struct{}) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for p.acked.Load() < last && p.failed.get() == nil {
		select {
		case <-moved:
		case <-late.C:
			return fmt.Errorf("%d of %d messages of the fast batch are acknowledged", p.acked.Load(), last)
		}
	}
	return nil
}

func (s spec) consumer(ctx context.Context) (*nats.Conn, jetstream.Consumer, error) {
	nc, js, err := dialJetStream(s.Addr)
	if err != nil {
		return nil, nil, err
	}
	cfg := jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy}
	if s.Ack {
		cfg.AckPolicy, cfg.MaxAckPending = jetstream.AckExplicitPolicy, -1
	}
	c, err := js.CreateConsumer(ctx, streamName, cfg)
	return nc, c, err
}

// fetchJetStream asks for one batch after another.
func fetchJetStream(ctx context.Context, s spec) (o outcome, err error) {
	nc, c, err := s.consumer(ctx)
	if err != nil {
		return o, err
	}
	defer nc.Close()
	var received atomic.Int64
	return s.measured(ctx, received.Load, func(ctx context.Context) error {
		for ctx.Err() == nil {
			b, err := c.Fetch(s.Batch, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				return err
			}
			for m := range b.Messages() {
				if s.Ack {
					if err := m.Ack(); err != nil {
						return err
					}
				}
				received.Add(1)
			}
			if err := b.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
				return err
			}
		}
		return nil
	})
}

// consumeJetStream has the client library ask ahead.
func consumeJetStream(ctx context.Context, s spec) (o outcome, err error) {
	nc, c, err := s.consumer(ctx)
	if err != nil {
		return o, err
	}
	defer nc.Close()
	var received atomic.Int64
	return s.measured(ctx, received.Load, func(ctx context.Context) error {
		running, err := c.Consume(func(m jetstream.Msg) {
			if s.Ack {
				m.Ack()
			}
			received.Add(1)
		}, jetstream.PullMaxMessages(s.Batch))
		if err != nil {
			return err
		}
		<-ctx.Done()
		running.Stop()
		<-running.Closed()
		return nil
	})
}
