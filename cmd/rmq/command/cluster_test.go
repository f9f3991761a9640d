package command

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/tests/harness"
)

// cli runs commands against a real server in this process.
type cli struct {
	t       *testing.T
	cluster *harness.Cluster
}

func newCLI(t *testing.T, change ...func(*broker.Config)) *cli {
	t.Helper()
	return &cli{t, harness.Start(t, change...)}
}

func (c *cli) args(line string) []string {
	return append(strings.Fields(line), "-n", c.cluster.NameServers[0])
}

// run carries out a command line; no argument holds a space.
func (c *cli) run(line string) result { return c.feed("", line) }

// feed is run with something on stdin.
func (c *cli) feed(stdin, line string) result {
	c.t.Helper()
	var out, err bytes.Buffer
	code := Run(c.t.Context(), c.args(line), strings.NewReader(stdin), &out, &err)
	return result{code, out.String(), err.String()}
}

// ok is run that must succeed; it returns stdout.
func (c *cli) ok(line string) string {
	c.t.Helper()
	r := c.run(line)
	if r.exit != exitOK {
		c.t.Fatalf("rmq %s: exit %d, stderr %s", line, r.exit, r.stderr)
	}
	return r.stdout
}

// fails wants an exit code and a text on stderr.
func (c *cli) fails(exit int, text, line string) {
	c.t.Helper()
	if r := c.run(line); r.exit != exit || !strings.Contains(r.stderr, text) {
		c.t.Errorf("rmq %s: exit %d, stderr %q; want %d and %q", line, r.exit, r.stderr, exit, text)
	}
}

// items is the list that -o json prints.
func (c *cli) items(line string) []map[string]any {
	c.t.Helper()
	var l struct {
		Items     []map[string]any
		Truncated *bool
	}
	out := c.ok(line + " -o json")
	if err := json.Unmarshal([]byte(out), &l); err != nil || l.Items == nil || l.Truncated == nil {
		c.t.Fatalf("rmq %s: %v in %s", line, err, out)
	}
	return l.Items
}

var changing = []struct {
	pattern *regexp.Regexp
	name    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`[^ "]+@\d+#[0-9a-f]+`), "CLIENT"},
	{regexp.MustCompile(`"(diskBytes|lastIndex|roundTripMillis|lagMillis|bytes)": [0-9.]+`), `"$1": NUMBER`},
	{regexp.MustCompile(`\d+ bytes since`), "NUMBER bytes since"},
	{regexp.MustCompile(`[0-9a-f]{32}`), "ID"},
}

// fixed replaces what differs from run to run.
func fixed(out string) []byte {
	for _, c := range changing {
		out = c.pattern.ReplaceAllString(out, c.name)
	}
	return []byte(out)
}

func TestTopic_Outputs(t *testing.T) {
	c := newCLI(t)
	golden(t, "topic-create.json", fixed(c.ok("topic create orders --queues 2 -o json")))
	golden(t, "topic-create.txt", fixed(c.ok("topic create bills --read-queues 3 --write-queues 1 --perm r --retention 7d --keep-until-consumed")))
	c.ok("pub orders hello --queue 1")
	golden(t, "topic-list.json", fixed(c.ok("topic list -o json")))
	golden(t, "topic-list.txt", fixed(c.ok("topic list")))
	golden(t, "topic-list-wide.txt", fixed(c.ok("topic list -o wide")))
	golden(t, "topic-list.yaml", fixed(c.ok("topic ls -o yaml")))
	golden(t, "topic-list.ndjson", fixed(c.ok("topic list -o ndjson")))
	golden(t, "topic-list-name.txt", fixed(c.ok("topics list -o name")))
	golden(t, "topic-describe.json", fixed(c.ok("topic describe orders -o json")))
	golden(t, "topic-describe.txt", fixed(c.ok("topic describe bills")))
	c.ok("sub orders --group billing --from earliest --exit-at-end")
	golden(t, "topic-stats.json", fixed(c.ok("topic stats orders --over 0 -o json")))
	golden(t, "topic-stats.txt", fixed(c.ok("topic stats orders --over 1ms")))
	golden(t, "topic-route.json", fixed(c.ok("topic route orders -o json")))
	golden(t, "topic-alter.txt", fixed(c.ok("topic alter bills --queues 4 --perm rw --retention forever --keep-until-consumed=false --no-headers")))
	golden(t, "topic-delete.json", fixed(c.ok("topic delete bills --yes -o json")))
}

func TestTopic_DryRunChangesNothing(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --dry-run")
	if rows := c.items("topic list"); len(rows) != 0 {
		t.Fatalf("created: %v", rows)
	}
	c.ok("topic create t --queues 2")
	before := c.ok("topic describe t -o json")
	if out := c.ok("topic alter t --queues 5 --dry-run"); !strings.Contains(out, "2->5") || !strings.Contains(out, "dry run") {
		t.Errorf("alter shows %s", out)
	}
	c.ok("topic delete t --dry-run")
	if after := c.ok("topic describe t -o json"); after != before {
		t.Errorf("got %s, want %s", after, before)
	}
}

func TestTopic_Failures(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders")
	for _, verb := range []string{"describe", "route", "stats", "alter --queues 9", "delete --yes"} {
		c.fails(exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\" is not known\nhint: did you mean \"orders\"?\n", "topic "+verb+" ordres")
	}
	c.fails(exitNotFound, "hint: rmq topic list", "topic describe xyz")
	c.fails(exitUsage, "--over -1s: want 0 (no rates) or more", "topic stats orders --over -1s")
	c.fails(exitUsage, "less than --timeout 2s", "topic stats orders --over 2s --timeout 2s")
	c.fails(exitConflict, "error[CONFLICT]", "topic create orders")
	if out := c.ok("topic create orders --if-not-exists -o json"); !strings.Contains(out, `"items": []`) {
		t.Errorf("got %s", out)
	}
	c.fails(exitNotFound, "error[BROKER_NOT_FOUND]", "topic create t --broker nobody")
	c.fails(exitUnavailable, "error[NO_BROKER]", "topic create t --cluster nobody")
	c.fails(exitNotFound, `{"code":"TOPIC_NOT_FOUND","message":"topic \"ordres\" is not known","hint":"did you mean \"orders\"?"}`, "topic describe ordres -o json")
}

func TestGroup_Outputs(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 2")
	c.ok("pub orders a --queue 0")
	c.ok("pub orders b --queue 1")
	c.ok("sub orders --group billing --from earliest --exit-at-end")
	c.ok("pub orders c --queue 1")
	golden(t, "group-create.json", fixed(c.ok("group create audit --consume-enabled=false -o json")))
	golden(t, "group-list.json", fixed(c.ok("group list -o json")))
	golden(t, "group-list.txt", fixed(c.ok("group list")))
	golden(t, "group-describe.json", fixed(c.ok("group describe billing -o json")))
	golden(t, "group-lag.json", fixed(c.ok("group lag billing -o json")))
	golden(t, "group-reset-dry.json", fixed(c.ok("group reset billing --to earliest --dry-run -o json")))
	golden(t, "group-reset.txt", fixed(c.ok("group reset billing --to 1 --topic orders --queue 1")))
	golden(t, "group-delete.json", fixed(c.ok("group delete audit -y -o json")))
}

func TestGroup_ResetMovesOffsets(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	for _, body := range []string{"a", "b", "c"} {
		c.ok("pub orders " + body)
	}
	read := func() string { return c.ok("sub orders --group g --from earliest --exit-at-end --raw") }
	if got := read(); got != "a\nb\nc\n" {
		t.Fatalf("got %q", got)
	}
	if got := read(); got != "" {
		t.Fatalf("again: %q", got)
	}
	c.ok("group reset g --to earliest --dry-run")
	if got := read(); got != "" {
		t.Fatalf("after a dry run: %q", got)
	}
	c.ok("group reset g --to 1")
	if got := read(); got != "b\nc\n" {
		t.Fatalf("after a reset: %q", got)
	}
	c.ok("group reset g --to -10m")
	if rows := c.items("group lag g"); rows[0]["lag"] != 3.0 {
		t.Fatalf("got %v", rows)
	}
}

func TestGroup_Failures(t *testing.T) {
	c := newCLI(t)
	c.ok("group create billing")
	for _, verb := range []string{"describe", "lag", "delete --yes", "reset --to latest"} {
		c.fails(exitNotFound, "error[GROUP_NOT_FOUND]: group \"biling\" is not known\nhint: did you mean \"billing\"?\n", "group "+verb+" biling")
	}
	c.fails(exitConflict, "error[CONFLICT]", "group create billing")
	c.fails(exitNotFound, "TOPIC_NOT_FOUND", "group reset billing --to latest --topic nope")
}

func TestCluster_Outputs(t *testing.T) {
	c := newCLI(t, func(cfg *broker.Config) {
		cfg.Version = "v1"
		cfg.Store.DiskUse = func(string) (int, int64, error) { return 76, 1 << 30, nil }
	})
	golden(t, "cluster-info.json", fixed(c.ok("cluster info -o json")))
	golden(t, "cluster-health.json", fixed(c.ok("cluster health -o json")))
	golden(t, "cluster-health.txt", fixed(c.ok("cluster health")))
	golden(t, "namesrv-list.json", fixed(c.ok("namesrv list -o json")))
	if out := c.ok("cluster info -o wide"); !strings.Contains(out, "SYNC_FLUSH") || !strings.Contains(out, " ok ") || !strings.Contains(out, " warn (76%) ") {
		t.Errorf("got %s", out)
	}
}

func TestCluster_HealthWaitsForTheServer(t *testing.T) {
	c := newCLI(t)
	c.cluster.Stop()
	healthy := make(chan result, 1)
	line := c.args("cluster health --wait")
	go func() {
		var out, err bytes.Buffer
		code := Run(t.Context(), line, strings.NewReader(""), &out, &err)
		healthy <- result{code, out.String(), err.String()}
	}()
	c.cluster.Start()
	if r := <-healthy; r.exit != exitOK || r.stdout != "healthy: 1 name servers, 1 brokers\n" {
		t.Errorf("got %+v", r)
	}
}

func TestNamesrv_OneOfTwoIsDown(t *testing.T) {
	c := newCLI(t)
	c.fails(exitPartial, "1 of 2 name servers do not answer", "namesrv list -n 127.0.0.1:1")
	if out := c.ok("topic list -n 127.0.0.1:1 -o json"); !strings.Contains(out, "items") {
		t.Errorf("got %s", out)
	}
}

func TestGroupLag_WatchEndsWithTheContext(t *testing.T) {
	c := newCLI(t)
	c.ok("group create g")
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- Run(ctx, c.args("group list -o name"), strings.NewReader(""), io.Discard, io.Discard)
		done <- Run(ctx, c.args("group lag --watch=10ms"), strings.NewReader(""), w, io.Discard)
		w.Close()
	}()
	for _, want := range []string{"TOPIC", "", "TOPIC"} { // an empty line between the blocks
		if line := next(t, r); !strings.HasPrefix(line, want) || want == "" && line != "" {
			t.Fatalf("got %q, want %q", line, want)
		}
	}
	cancel()
	go io.Copy(io.Discard, r)
	if first, second := <-done, <-done; first != exitOK || second != exitOK {
		t.Errorf("exit %d and %d", first, second)
	}
}

func TestCompletion_OffersNamesOfTheCluster(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders")
	t.Setenv("RMQ_NAMESRV", c.cluster.NameServers[0])
	var out bytes.Buffer
	Run(t.Context(), []string{"__complete", "topic", "describe", ""}, strings.NewReader(""), &out, io.Discard)
	if !strings.Contains(out.String(), "orders\n") {
		t.Errorf("got %q", out.String())
	}
}

func TestReach_AllFourWays(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders")
	addr := c.cluster.NameServers[0]
	t.Setenv("RMQ_NAMESRV", addr)
	if r := result0(t, "topic list -o name"); r.stdout != "orders\n" {
		t.Errorf("environment: %+v", r)
	}
	t.Setenv("RMQ_NAMESRV", "")
	t.Setenv("NAMESRV_ADDR", addr)
	if r := result0(t, "topic list -o name"); r.stdout != "orders\n" {
		t.Errorf("NAMESRV_ADDR: %+v", r)
	}
	t.Setenv("NAMESRV_ADDR", "")
	file := t.TempDir() + "/rmq.properties"
	write(t, file, "rocketmq.namesrv.addr = "+addr+"\n")
	if r := result0(t, "topic list -o name --config "+file); r.stdout != "orders\n" {
		t.Errorf("file: %+v", r)
	}
	url := serveText(t, addr)
	if r := result0(t, "topic list -o name --namesrv-endpoint "+url); r.stdout != "orders\n" {
		t.Errorf("endpoint: %+v", r)
	}
}
