package tests

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// idleGroups are groups whose members are one client of the wire, so that what grows
// in this process is the broker's.
type idleGroups struct {
	*consumption
	conn   *transport.Conn
	client string
	pulls  sync.WaitGroup // that wait for an answer
}

func callIdle[Resp any](g *idleGroups, class protocol.Class, req protocol.Request) *Resp {
	g.Helper()
	resp, err := transport.Call[Resp](g.Context(), g.conn, protocol.BrokerSubject(g.broker, 0, class), req)
	if err != nil {
		g.Fatal(err)
	}
	return resp
}

// join makes the client a member of so many groups, each with the one queue.
func (g *idleGroups) join(groups int) (fences []uint64) {
	g.Helper()
	beat := &protocol.HeartbeatRequest{ClientID: g.client, Inbox: g.conn.Inbox()}
	for i := range groups {
		beat.Consumers = append(beat.Consumers, protocol.Subscription{Group: fmt.Sprintf("idle-%d", i), Topics: []string{consumedTopic}})
	}
	callIdle[protocol.HeartbeatResponse](g, protocol.ClassClient, beat)
	for i := range groups {
		sync := &protocol.SyncLeasesRequest{ClientID: g.client, Group: fmt.Sprintf("idle-%d", i), Topic: consumedTopic, Queues: []int{0}}
		fences = append(fences, callIdle[protocol.SyncLeasesResponse](g, protocol.ClassClient, sync).Leases[0].Fence)
	}
	return fences
}

// pull has each group wait for a message.
func (g *idleGroups) pull(ctx context.Context, fences []uint64) {
	for i, fence := range fences {
		g.pulls.Add(1)
		req := &protocol.PullRequest{
			Group: fmt.Sprintf("idle-%d", i), ClientID: g.client, WaitMillis: 30_000, MaxBytes: 1 << 20, MaxCount: 32,
			Queues: []protocol.PullQueue{{Topic: consumedTopic, Fence: fence}},
		}
		g.conn.Start(ctx, protocol.BrokerSubject(g.broker, 0, protocol.ClassPull), req, func([]byte, error) { g.pulls.Done() })
	}
}

// weight is what the process has after a collection.
func weight() (goroutines int, memory int64) {
	runtime.GC()
	runtime.GC() // what had a finalizer is free only now
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), int64(m.HeapAlloc + m.StackInuse)
}

// 1,000 groups with a member each cost the broker no goroutine, and one while the
// member waits for messages. What they weigh is reported.
func TestIdle_1000Groups(t *testing.T) {
	const groups = 1000
	c := newConsumption(t, 1, func(cfg *broker.Config) { cfg.SessionTimeout = time.Minute })
	conn, err := transport.Dial(c.cluster.Addr(), transport.Options{Name: "idle"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g := &idleGroups{consumption: c, conn: conn, client: "idle@1"}
	g.join(1) // what the first one brings is the broker's own
	goroutines, heap := weight()
	fences := g.join(groups)
	joined, joinedHeap := weight()
	t.Logf("%d groups with a member: %d goroutines more, %d bytes of heap and stacks each", groups, joined-goroutines, (joinedHeap-heap)/groups)
	if joined > goroutines+20 {
		t.Errorf("%d goroutines for %d groups", joined-goroutines, groups)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g.pull(ctx, fences)
	harness.Eventually(t, "all pulls wait", func() bool { return runtime.NumGoroutine() >= joined+groups-20 })
	waiting, waitingHeap := weight()
	t.Logf("and waiting for messages: %d goroutines, %d bytes of heap and stacks each", waiting-joined, (waitingHeap-joinedHeap)/groups)
	if waiting > joined+groups+20 {
		t.Errorf("%d goroutines for %d waiting pulls", waiting-joined, groups)
	}
	cancel()
	g.pulls.Wait()
}
