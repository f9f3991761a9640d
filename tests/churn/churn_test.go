//go:build linux

package churn

import (
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/tests/harness"
)

func TestMain(m *testing.M) {
	Main()
	goleak.VerifyTestMain(m)
}

// churned runs a plan against a server of its own and checks the history.
func churned(t *testing.T, p Plan) Counts {
	t.Helper()
	binary, data := harness.Binary(t), t.TempDir()
	start := func(listen string) *harness.Process {
		return harness.StartProcess(t, binary, "--data", data, "--listen", listen, "--http", "none")
	}
	server := start("127.0.0.1:0")
	p.Addr, p.Seed = server.Listen, rand.Uint64()
	p.Restart = func() error {
		server.Kill()
		server = start(p.Addr)
		return nil
	}
	t.Logf("seed %d", p.Seed)
	h, err := Run(t.Context(), p)
	if err != nil {
		t.Error(err)
	}
	told, err := Committed(t.Context(), p.Addr)
	if err != nil {
		t.Error(err)
	}
	server.Kill()
	if err := h.ReadLog(data); err != nil {
		t.Fatal(err)
	}
	if err := h.CheckCommitted(told); err != nil {
		t.Error(err)
	}
	if err := h.Check(); err != nil {
		t.Error(err)
	}
	t.Logf("%+v", h.Counts())
	return h.Counts()
}

// Members come and leave in good order, and the server is killed: nothing comes
// twice.
func TestChurn_CleanLeaves(t *testing.T) {
	t.Parallel()
	c := churned(t, Plan{For: 5 * time.Second, Pause: 400 * time.Millisecond, Most: 5})
	if c.Again != 0 || c.Left < 3 || c.Restarted == 0 {
		t.Errorf("got %+v, want several leaves, a restart, and nothing again", c)
	}
}

// Everything happens: members are killed, and one is frozen for longer than its
// session and woken.
func TestChurn_KilledAndFrozen(t *testing.T) {
	t.Parallel()
	c := churned(t, Plan{For: 8 * time.Second, Pause: 600 * time.Millisecond, Most: 5, Kill: true, Freeze: 7500 * time.Millisecond})
	if c.Frozen == 0 || c.Lost == 0 || c.Restarted == 0 {
		t.Errorf("got %+v, want a restart, and a member that was frozen and found its queues lost", c)
	}
}
