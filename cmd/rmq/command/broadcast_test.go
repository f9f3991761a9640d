package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestSub_Broadcast(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders one")
	dir := t.TempDir()
	for flags, where := range map[string]string{"file": " --offsets-dir " + dir, "broker": " --broker-offsets"} {
		for _, member := range []string{"a", "b"} {
			line := "sub orders --from earliest --exit-at-end --raw --group " + flags + " --broadcast --client-id " + member + where
			if got := c.ok(line); got != "one\n" {
				t.Errorf("%s: member %s gets %q first", flags, member, got)
			}
			if got := c.ok(line); got != "" {
				t.Errorf("%s: member %s gets %q again", flags, member, got)
			}
		}
	}
	if got := c.ok("group list -o name"); !strings.Contains(got, consumer.BroadcastGroup("broker", "a")) || strings.Contains(got, consumer.BroadcastGroup("file", "a")) {
		t.Errorf("groups: %s", got)
	}
	path := filepath.Join(dir, "a", "file", "offsets.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.run("sub orders --group file --broadcast --client-id a --offsets-dir " + dir); r.exit != exitFailure || !strings.Contains(r.stderr, "error[OFFSETS_DAMAGED]") || !strings.Contains(r.stderr, path) {
		t.Errorf("a damaged file: exit %d, %s", r.exit, r.stderr)
	}
}

func TestSub_BadBroadcastsAreUsageErrors(t *testing.T) {
	c := newCLI(t)
	for flags, says := range map[string]string{
		"--broadcast":                                            "--broadcast: want --group",
		"--broadcast --group g --pop":                            "want one of them",
		"--group g --broker-offsets":                             "go with --broadcast",
		"--group g --offsets-dir x":                              "go with --broadcast",
		"--client-id x":                                          "--client-id goes with --group",
		"--client-id x --group g --pop":                          "not with --pop",
		"--broadcast --group g --broker-offsets --offsets-dir x": "want one of them",
	} {
		c.fails(exitUsage, says, "sub orders "+flags)
	}
}

func TestClient_ShowsBroadcastAndThrottle(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: c.cluster.NameServers, Group: "g", ClientID: "me", Broadcast: true, OffsetsDir: t.TempDir(),
		Subscriptions: []consumer.Subscription{{Topic: "orders"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	harness.Eventually(t, "the member is listed", func() bool {
		r := c.run("client describe me")
		return r.exit == exitOK && strings.Contains(r.stdout, "MODE") && strings.Contains(r.stdout, "broadcast")
	})
	for _, x := range []struct {
		said protocol.Subscription
		want string
	}{{protocol.Subscription{}, ""}, {protocol.Subscription{RatePerHour: 1800}, "0.5/s"}, {protocol.Subscription{Suspended: true, RatePerHour: 1}, "suspended"}} {
		if got := newClientSubscription(x.said).throttle(); got != x.want {
			t.Errorf("%+v: got %q, want %q", x.said, got, x.want)
		}
	}
}
