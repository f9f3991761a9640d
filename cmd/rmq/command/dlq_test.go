package command

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/tests/harness"
)

func TestDLQ(t *testing.T) {
	c := newCLI(t)
	c.fails(exitNotFound, "GROUP_NOT_FOUND", "dlq list billing")
	c.ok("group create billing")
	if rows := c.items("dlq list billing"); len(rows) != 0 {
		t.Errorf("got %v", rows)
	}
	c.ok("topic create orders --queues 1")
	for range 3 {
		c.ok("pub orders pay")
	}
	c.rejectAll(t, 3)
	rows := c.items("dlq list billing")
	if len(rows) != 3 || rows[0]["topic"] != "orders" || rows[0]["dlqOffset"] != 2.0 || rows[0]["reconsumeTimes"] != 1.0 || rows[0]["lastError"] != consumer.ErrReject.Error() {
		t.Errorf("got %v", rows)
	}
	if out := c.ok("dlq list billing --count 1"); !strings.Contains(out, consumer.ErrReject.Error()) || strings.Count(out, "orders") != 1 {
		t.Errorf("got %s", out)
	}
	var line struct {
		Times  int `json:"reconsumeTimes"`
		Origin struct {
			Topic     string
			Offset    int64
			LastError string
		}
	}
	out := c.ok("dlq export billing")
	first, _, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil || strings.Count(out, "\n") != 3 || line.Times != 1 || line.Origin.Topic != "orders" || float64(line.Origin.Offset) != rows[0]["offset"] {
		t.Errorf("got %s: %+v, %v", out, line, err)
	}
	if out := c.ok("dlq peek billing --count 2"); strings.Count(out, "pay") != 2 {
		t.Errorf("got %s", out)
	}
	if got := c.items("dlq resend billing --all --dry-run"); len(got) != 3 || got[0]["action"] != "would be resent" {
		t.Errorf("got %v", got)
	}
	if got := c.items("dlq resend billing --count 1"); len(got) != 1 || got[0]["action"] != "resent" || got[0]["offset"] != 3.0 || got[0]["messageId"] != rows[0]["messageId"] {
		t.Errorf("got %v", got)
	}
	if got := c.items("dlq resend billing --all --yes"); len(got) != 3 || got[0]["action"] != "duplicate" || got[1]["action"] != "resent" {
		t.Errorf("got %v", got)
	}
	if got := c.items("dlq purge billing --dry-run"); len(got) != 1 || got[0]["messages"] != 3.0 {
		t.Errorf("got %v", got)
	}
	if got := c.items("dlq purge billing --yes"); len(got) != 1 || got[0]["messages"] != 3.0 || len(c.items("dlq list billing")) != 0 {
		t.Errorf("got %v", got)
	}
}

func (c *cli) rejectAll(t *testing.T, want int) {
	t.Helper()
	p, err := consumer.NewPush(t.Context(), consumer.Config{
		NameServers: c.cluster.NameServers, Group: "billing", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "orders"}},
	}, func(context.Context, *consumer.Delivery) error { return consumer.ErrReject })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for below
	harness.Eventually(t, "all are dead letters", func() bool { return len(c.items("dlq list billing")) == want })
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
}

func TestDLQ_Mistakes(t *testing.T) {
	c := newCLI(t)
	c.fails(exitUsage, "one of --all and --count", "dlq resend billing")
	c.fails(exitUsage, "one of --all and --count", "dlq resend billing --all --count 3")
	c.fails(exitUsage, "needs a yes", "dlq resend billing --all")
	c.fails(exitUsage, "needs a yes", "dlq purge billing")
	c.fails(exitUsage, "want at least 1", "dlq peek billing --count 0")
	c.fails(exitUsage, "is negative", "dlq list billing --count -1")
	c.fails(exitUsage, "ILLEGAL_NAME", "dlq list a.b")
}

func TestGroup_RetryPolicy(t *testing.T) {
	c := newCLI(t)
	c.ok("group create billing --retry-max 5 --retry-policy exponential:1s:10m")
	if out := c.ok("group describe billing"); !strings.Contains(out, "5, exponential:1s:10m0s") {
		t.Errorf("got %s", out)
	}
	c.ok("group alter billing --retry-max -1 --retry-policy table")
	if out := c.ok("group describe billing"); !strings.Contains(out, "none, table") {
		t.Errorf("got %s", out)
	}
	c.ok("group alter billing --consume-enabled=false")
	if out := c.ok("group describe billing"); !strings.Contains(out, "none, table") {
		t.Errorf("consume alone: got %s", out)
	}
	for _, policy := range []string{"often", "table:1s", "exponential:x", "exponential:0s", "exponential:1s:-1s"} {
		c.fails(exitUsage, "--retry-policy", "group alter billing --retry-policy "+policy)
	}
	c.fails(exitUsage, "retry policy from 2s to 1s", "group alter billing --retry-policy exponential:2s:1s")
}
