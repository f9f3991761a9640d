package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// killing is the producers' database: which local transactions were committed. A
// message is to be seen if its transaction was, and only then.
type killing struct {
	*deciding

	mu        sync.Mutex
	committed map[string]bool // by message id
}

func (k *killing) commit(m *message.Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.committed[m.ID.String()] = true
}

func (k *killing) outcome(id string) protocol.Decision {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.committed[id] {
		return protocol.Commit
	}
	return protocol.Rollback
}

// points are where a producer dies between its half message and its decision.
var points = []struct {
	name string
	run  func(k *killing, p *asking, m *message.Message)
}{
	{"while the half message is sent", func(k *killing, p *asking, m *message.Message) {
		k.start(p, protocol.ClassSend, &protocol.SendRequest{ClientID: p.client, Group: p.group,
			Batches: encoded(batch.Lead{Topic: "orders", Purpose: batch.ToTransaction}, m)})
	}},
	{"before the local transaction", func(k *killing, p *asking, m *message.Message) {
		p.halves("orders", 0, m)
	}},
	{"after the local transaction", func(k *killing, p *asking, m *message.Message) {
		p.halves("orders", 0, m)
		k.commit(m)
	}},
	{"while the commit is sent", func(k *killing, p *asking, m *message.Message) {
		h := p.halves("orders", 0, m)[0]
		k.commit(m)
		k.start(p, protocol.ClassClient, &protocol.EndTransactionRequest{Held: h, Decision: protocol.Commit})
	}},
	{"while the rollback is sent", func(k *killing, p *asking, m *message.Message) {
		h := p.halves("orders", 0, m)[0]
		k.start(p, protocol.ClassClient, &protocol.EndTransactionRequest{Held: h, Decision: protocol.Rollback})
	}},
	{"after it said unknown", func(k *killing, p *asking, m *message.Message) {
		h := p.halves("orders", 0, m)[0]
		k.mustEnd(h, protocol.Unknown)
		k.commit(m)
	}},
	{"after the commit", func(k *killing, p *asking, m *message.Message) {
		h := p.halves("orders", 0, m)[0]
		k.commit(m)
		k.mustEnd(h, protocol.Commit)
	}},
}

// start sends a request and waits for no answer.
func (k *killing) start(p *asking, class protocol.Class, req protocol.Request) {
	p.conn.Start(k.Context(), protocol.BrokerSubject("broker-a", 0, class), req, func([]byte, error) {})
}

// TestTransactions_ProducerKilled kills producers at each point between half
// message and decision, a thousand times, and the broker is restarted meanwhile.
// Their successors, which have sent nothing, are asked and say what the
// database says. No commit is lost, and nothing is seen that was rolled back.
func TestTransactions_ProducerKilled(t *testing.T) {
	rounds, times := 5, 29 // of each point
	if testing.Short() {
		rounds, times = 2, 8
	}
	d := newDeciding(t, func(c *broker.Config) {
		c.Transactions = broker.Transactions{FirstCheck: 20 * time.Millisecond, CheckInterval: 40 * time.Millisecond, MaxChecks: 1000}
	})
	k := &killing{deciding: d, committed: map[string]bool{}}
	d.topic("orders", 1)
	for round := range rounds {
		k.killAll(times)
		if round%2 == 0 {
			d.restart()
		}
		k.succeed()
		k.wantOutcomes()
	}
	t.Logf("%d producers were killed", rounds*times*len(points))
}

const killedGroups = 8

// killAll kills producers at each point, one after another in each group.
func (k *killing) killAll(times int) {
	var dying sync.WaitGroup
	for g := range killedGroups {
		dying.Go(func() {
			for n := g; n < times*len(points); n += killedGroups {
				k.kill(fmt.Sprint("g", g), n)
			}
		})
	}
	dying.Wait()
}

// succeed has a successor in each group until all transactions are decided.
func (k *killing) succeed() {
	k.Helper()
	var answering sync.WaitGroup
	ctx, cancel := context.WithCancel(k.Context())
	for g := range killedGroups {
		successor := k.joined(fmt.Sprint("g", g), fmt.Sprint("successor", g))
		answering.Go(func() { k.answer(ctx, successor) })
	}
	var left *protocol.ListTransactionsResponse
	k.Cleanup(func() {
		if k.Failed() && left != nil {
			k.Logf("%d are left: %+v", left.Pending, left.Transactions)
		}
	})
	k.eventually("all transactions are decided", func() bool {
		left = k.list(protocol.ListTransactionsRequest{Max: 3})
		return left.Pending == 0
	})
	cancel()
	answering.Wait()
}

func (k *killing) kill(group string, n int) {
	p := k.producer(group, fmt.Sprint("client", n))
	if n%3 == 0 {
		p.join() // it is asked too, and does not answer
	}
	ctx, cancel := context.WithTimeout(k.Context(), transport.DefaultTimeout)
	defer cancel()
	if err := p.conn.WaitConnected(ctx); err != nil {
		k.Error(err)
		return
	}
	points[n%len(points)].run(k, p, k.message(fmt.Sprintf("%s: %d, killed %s", group, n, points[n%len(points)].name)))
	p.conn.Close()
}

// answer says what the database says until ctx ends.
func (k *killing) answer(ctx context.Context, p *asking) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-p.events:
			if _, err := k.end(e.Held, k.outcome(e.Held.ID)); err != nil && ctx.Err() == nil {
				k.Errorf("answer to check %d of %s: %v", e.Check, e.Held.ID, err)
			}
		}
	}
}

func (k *killing) wantOutcomes() {
	k.Helper()
	seen := map[string]int{}
	for _, m := range k.stored("orders") {
		id := m.ID.String()
		if seen[id]++; seen[id] > 1 || k.outcome(id) != protocol.Commit {
			k.Errorf("%s is seen, time %d; it was decided: %s", m.Body, seen[id], k.outcome(id))
		}
	}
	if len(seen) != len(k.committed) {
		k.Errorf("%d messages are seen, %d were committed", len(seen), len(k.committed))
	}
}
