// Package harness runs a real cluster for tests: in the test process, by package
// rmqtest, or as processes of the rmq command.
package harness

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/rmqtest"
)

// Timeout bounds every wait of the harness and of the tests that use it.
const Timeout = 30 * time.Second

// Cluster is a standalone server in the test process.
type Cluster struct {
	*rmqtest.Server
	// NameServers is what clients are given.
	NameServers []string
}

// Start runs a cluster until the test ends. Its segments are small, so that there
// are several of them.
func Start(t testing.TB, change ...func(*broker.Config)) *Cluster {
	t.Helper()
	small := func(c *broker.Config) { c.Store.FirstSegmentBytes = 1 << 20 }
	s := rmqtest.NewServer(t, append([]func(*broker.Config){small}, change...)...)
	return &Cluster{Server: s, NameServers: []string{s.Addr()}}
}

// Eventually waits until the condition holds, and fails the test when it does
// not within Timeout.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(Timeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", Timeout, what)
		case <-tick.C:
		}
	}
}
