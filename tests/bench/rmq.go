package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/cmd/rmq/command"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// topic is where the loads of rmq send and from where they read.
const topic = "bench"

// sendTimeout is beyond what any measurement lasts.
const sendTimeout = 10 * time.Minute

func (s spec) topicNames() []string {
	if s.Topics <= 1 {
		return []string{topic}
	}
	names := make([]string, s.Topics)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", topic, i)
	}
	return names
}

func (s spec) messages() []*message.Message {
	if s.Rare {
		return s.rare()
	}
	var ms []*message.Message
	body := s.body()
	for _, t := range s.topicNames() {
		ms = append(ms, &message.Message{Topic: t, Body: body})
	}
	return ms
}

func (s spec) newProducer(ctx context.Context) (*producer.Producer, error) {
	return producer.New(ctx, producer.Config{NameServers: []string{s.Addr}, SendTimeout: sendTimeout})
}

// produceRMQ is one asynchronous producer with the SDK's defaults, which sends
// to its topics in turn.
func produceRMQ(ctx context.Context, s spec) (o outcome, err error) {
	p, err := s.newProducer(ctx)
	if err != nil {
		return o, err
	}
	var acked atomic.Int64
	var failed fault
	done := func(_ producer.Receipt, err error) {
		if err != nil {
			failed.set(err)
			return
		}
		acked.Add(1)
	}
	ms, sending := s.messages(), context.WithoutCancel(ctx)
	if err := touch(ctx, p, ms); err != nil {
		return o, errors.Join(err, p.Close(sending))
	}
	o, err = s.measured(ctx, acked.Load, func(ctx context.Context) error {
		for i := 0; ctx.Err() == nil; i++ {
			p.SendAsync(sending, ms[i%len(ms)], done)
		}
		return p.Flush(sending)
	})
	return o, errors.Join(err, failed.get(), p.Close(sending))
}

// touch sends one message to each topic, so that the producer knows all routes.
func touch(ctx context.Context, p *producer.Producer, ms []*message.Message) error {
	const atOnce = 32
	var failed fault
	var wg sync.WaitGroup
	next := make(chan *message.Message)
	for range atOnce {
		wg.Go(func() {
			for m := range next {
				if _, err := p.Send(ctx, m); err != nil {
					failed.set(err)
				}
			}
		})
	}
	for _, m := range ms {
		next <- m
	}
	close(next)
	wg.Wait()
	return failed.get()
}

// syncRMQ is producers that each wait for every answer, or, when they are
// shared, callers of one producer.
func syncRMQ(ctx context.Context, s spec) (o outcome, err error) {
	producers := make([]*producer.Producer, s.Clients)
	for i := range producers {
		if s.Shared && i > 0 {
			producers[i] = producers[0]
			continue
		}
		if producers[i], err = s.newProducer(ctx); err != nil {
			return o, err
		}
		defer producers[i].Close(context.WithoutCancel(ctx))
		if err := touch(ctx, producers[i], s.messages()); err != nil {
			return o, err
		}
	}
	m := s.messages()[0]
	return s.callers(ctx, func(i int) error {
		_, err := producers[i].Send(ctx, m)
		return err
	})
}

// callers has each client call one after another.
func (s spec) callers(ctx context.Context, call func(client int) error) (outcome, error) {
	var acked atomic.Int64
	return s.measured(ctx, acked.Load, func(ctx context.Context) error {
		var failed fault
		var wg sync.WaitGroup
		for i := range s.Clients {
			wg.Go(func() {
				for ctx.Err() == nil && failed.get() == nil {
					if err := call(i); err != nil {
						failed.set(err)
						return
					}
					acked.Add(1)
				}
			})
		}
		wg.Wait()
		return failed.get()
	})
}

// singleRMQ sends each message in a request of its own, a window of them under
// way. The SDK's producer never does that: it is a client of the protocol.
func singleRMQ(ctx context.Context, s spec) (o outcome, err error) {
	p, err := s.newProducer(ctx)
	if err != nil {
		return o, err
	}
	r, err := p.Send(ctx, s.messages()[0]) // creates the topic
	if err := errors.Join(err, p.Close(ctx)); err != nil {
		return o, err
	}
	c, err := transport.Dial(s.Addr, transport.Options{Name: "single"})
	if err != nil {
		return o, err
	}
	defer c.Close()
	g := &singles{conn: c, spec: s, free: make(chan struct{}, s.Window), subject: protocol.BrokerSubject(r.Queue.Broker, 0, protocol.ClassSend)}
	for range s.Window {
		g.free <- struct{}{}
	}
	o, err = s.measured(ctx, g.acked.Load, g.send)
	return o, errors.Join(err, g.failed.get())
}

// singles is a client that does not batch.
type singles struct {
	conn    *transport.Conn
	spec    spec
	subject string
	free    chan struct{} // a token for each request that may be sent
	acked   atomic.Int64
	failed  fault
}

func (g *singles) send(ctx context.Context) error {
	const queues = 8
	sending, ids := context.WithoutCancel(ctx), message.NewIDSource()
	b, m := batch.NewBuilder(topic, 0), &message.Message{Topic: topic, Body: g.spec.body()}
	for i := 0; ctx.Err() == nil; i++ {
		<-g.free
		b.Reset(topic, i%queues)
		m.ID, m.BornTime = ids.Next(), time.Now()
		b.Add(m)
		g.conn.Start(sending, g.subject, &protocol.SendRequest{Batches: b.Finish()}, g.answered)
	}
	for range g.spec.Window {
		<-g.free
	}
	return nil
}

func (g *singles) answered(payload []byte, err error) {
	var resp protocol.SendResponse
	if err == nil {
		err = protocol.Unmarshal(payload, &resp)
	}
	if err == nil && resp.Results[0].Err != nil {
		err = resp.Results[0].Err
	}
	if err != nil {
		g.failed.set(err)
	} else {
		g.acked.Add(1)
	}
	g.free <- struct{}{}
}

// consumeRMQ reads the topic as members of groups, one of each, which commit
// their offsets.
func consumeRMQ(ctx context.Context, s spec) (o outcome, err error) {
	var consumers []*consumer.Pull
	for i := range max(s.Groups, 1) {
		cfg := consumer.PullConfig{NameServers: []string{s.Addr}, Group: fmt.Sprintf("%s-%d", s.Group, i), Subscriptions: []consumer.Subscription{{Topic: topic}}}
		if !s.Latest {
			cfg.From = consumer.Earliest()
		}
		c, err := consumer.NewPull(ctx, cfg)
		if err != nil {
			return o, err
		}
		consumers = append(consumers, c)
	}
	if s.Latest {
		ready("") // the producer may begin
	}
	var received atomic.Int64
	o, err = s.measured(ctx, received.Load, func(ctx context.Context) error {
		var failed fault
		var wg sync.WaitGroup
		for _, c := range consumers {
			wg.Go(func() { failed.set(poll(ctx, c, &received)) })
		}
		wg.Wait()
		return failed.get()
	})
	for _, c := range consumers {
		err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return o, err
}

func poll(ctx context.Context, c *consumer.Pull, received *atomic.Int64) error {
	const most = 1024
	for {
		ds, err := c.Poll(ctx, most)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		received.Add(int64(len(ds)))
	}
}

// serveRMQ is `rmq server` in this program, for profiles, and for figures of
// memory that only the process itself knows: it answers each line on stdin with
// them.
func serveRMQ(ctx context.Context, s spec) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			json.NewEncoder(os.Stdout).Encode(lookAtMemory())
		}
		cancel()
	})
	code := command.Run(ctx, s.Args, os.Stdin, os.Stdout, os.Stderr)
	wg.Wait()
	if code != 0 {
		return fmt.Errorf("exit code %d", code)
	}
	return nil
}

// memory is what a Go process knows of its own.
type memory struct {
	Heap       uint64 `json:"heap"`    // after a collection
	Mallocs    uint64 `json:"mallocs"` // so far
	Goroutines int    `json:"goroutines"`
}

func lookAtMemory() memory {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what had a finalizer is free only now
	runtime.ReadMemStats(&m)
	return memory{Heap: m.HeapAlloc, Mallocs: m.Mallocs, Goroutines: runtime.NumGoroutine()}
}
