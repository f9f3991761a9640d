package command

import (
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/rmqio/rmq/admin"
)

// behind is a cluster where group billing has consumed two of five messages of
// orders, which has two queues.
func behind(t *testing.T) *cli {
	t.Helper()
	c := newCLI(t)
	c.ok("topic create orders --queues 2")
	c.ok("pub orders a --queue 0")
	c.ok("pub orders b --queue 1")
	c.ok("sub orders --group billing --from earliest --exit-at-end")
	for range 3 {
		c.ok("pub orders c --queue broker-a/1")
	}
	return c
}

func TestGroup_OffsetsOutputs(t *testing.T) {
	c := behind(t)
	golden(t, "group-lag-topic.json", fixed(c.ok("group lag billing --by topic -o json")))
	golden(t, "group-lag-group.json", fixed(c.ok("group lag --by group -o json")))
	golden(t, "group-clone-dry.txt", fixed(c.ok("group clone billing audit --dry-run")))
	golden(t, "group-clone.json", fixed(c.ok("group clone billing audit -o json")))
	golden(t, "group-skip-dry.txt", fixed(c.ok("group skip billing --dry-run")))
	r := c.run("group skip billing -o json")
	golden(t, "group-skip.json", fixed(r.stdout))
	if r.exit != exitOK || r.stderr != "skipped 3 messages in 2 queues\n" {
		t.Errorf("got %+v", r)
	}
	golden(t, "group-reset-queue.json", fixed(c.ok("group reset billing --to 99 --topic orders --queue broker-a/0 -o json")))
	if out := c.ok("group lag -o name --by topic"); out != "audit/orders\nbilling/orders\n" {
		t.Errorf("got %q", out)
	}
	if out := c.ok("group lag -o name --by group"); out != "audit\nbilling\n" {
		t.Errorf("got %q", out)
	}
}

// A queue that was never committed shows no offset, and all that waits in it.
func TestGroupLag_NeverCommitted(t *testing.T) {
	c := behind(t)
	c.ok("group create new")
	c.ok("group reset new --topic orders --queue 0 --to earliest")
	rows := c.items("group lag new")
	if len(rows) != 2 || rows[0]["committed"] != 0.0 || rows[0]["lag"] != 1.0 || rows[1]["committed"] != -1.0 || rows[1]["lag"] != 4.0 {
		t.Errorf("got %v", rows)
	}
	if out := c.ok("group lag new"); !regexp.MustCompile(`(?m)^orders +broker-a +1 +- +4 +4 `).MatchString(out) {
		t.Errorf("got %s", out)
	}
}

func TestGroup_OffsetsFailures(t *testing.T) {
	c := behind(t)
	const near = "error[GROUP_NOT_FOUND]: group \"biling\" is not known\nhint: did you mean \"billing\"?\n"
	for _, verb := range []string{"skip biling", "clone biling audit", "clients biling", "reset biling --to latest --topic orders --dry-run"} {
		c.fails(exitNotFound, near, "group "+verb)
	}
	c.fails(exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\"", "group skip billing --topic ordres")
	c.fails(exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\"", "group clone billing audit --topic ordres")
	c.fails(exitNotFound, "error[QUEUE_NOT_FOUND]", "group skip billing --topic orders --queue 2")
	c.fails(exitNotFound, "error[BROKER_NOT_FOUND]", "group skip billing --topic orders --queue broker-z/0")
	c.ok("group clone billing audit")
	c.ok("group reset audit --to earliest")
	c.fails(exitConflict, "error[CONFLICT]: group \"audit\" has offsets of its own", "group clone billing audit")
	c.ok("group clone billing audit --force")
	if rows := c.items("group lag audit"); rows[0]["committed"] != 1.0 || rows[1]["committed"] != 1.0 {
		t.Errorf("got %v", rows)
	}
	c.ok("group create idle")
	if r := c.run("group skip idle -o json"); r.exit != exitOK || !strings.Contains(r.stderr, "nothing to set") || !strings.Contains(r.stdout, `"items": []`) {
		t.Errorf("got %+v", r)
	}
}

// An interrupted watch says so, as an interrupted sub does.
func TestGroupLag_WatchIsInterrupted(t *testing.T) {
	c := behind(t)
	for _, form := range []string{"json", "ndjson", "yaml", "wide", "name"} {
		for cause, exit := range map[error]int{errInterrupted: exitInterrupted, errTerminated: exitOK} {
			ctx, cancel := context.WithCancelCause(t.Context())
			r, w := io.Pipe()
			done := make(chan int, 1)
			go func() {
				done <- Run(ctx, c.args("group lag billing --watch=5ms -o "+form), strings.NewReader(""), w, io.Discard)
				w.Close()
			}()
			first := next(t, r)
			if form == "json" || form == "ndjson" { // a line for each queue
				var q admin.QueueLag
				if err := json.Unmarshal([]byte(first), &q); err != nil || q.Group != "billing" || q.Topic != "orders" {
					t.Errorf("%s: got %q", form, first)
				}
			}
			cancel(cause)
			go io.Copy(io.Discard, r)
			if got := <-done; got != exit {
				t.Errorf("%s: %v: exit %d, want %d", form, cause, got, exit)
			}
		}
	}
}

func TestGroupLag_WatchFailsAsALookDoes(t *testing.T) {
	c := behind(t)
	c.fails(exitNotFound, "did you mean \"billing\"?", "group lag biling --watch")
}

func TestTopicPeek(t *testing.T) {
	c := behind(t)
	c.ok("pub orders last --queue 0 --key k")
	out := c.ok("topic peek orders --count 1 -o ndjson")
	if strings.Count(out, "\n") != 1 || !strings.Contains(out, `"body":"last"`) || !strings.Contains(out, `"keys":["k"]`) {
		t.Errorf("got %s", out)
	}
	for line, want := range map[string]string{
		"--queue broker-a/0": "last a", "--queue 1 --count 2": "c c", "--queue 1": "c c c b",
	} {
		var bodies []string
		for _, m := range c.items("topic peek orders " + line) {
			bodies = append(bodies, m["body"].(string))
		}
		if got := strings.Join(bodies, " "); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
	for line, more := range map[string]string{"--count 6": `"truncated":false`, "--count 5": `"truncated":true`} {
		if out := c.ok("topic peek orders -o json " + line); !strings.Contains(out, more) {
			t.Errorf("%s: got %s", line, out)
		}
	}
	if rows := c.items("group list"); len(rows) != 1 {
		t.Errorf("looking makes groups: %v", rows)
	}
	c.fails(exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\" is not known\nhint: did you mean \"orders\"?\n", "topic peek ordres")
	c.fails(exitNotFound, "error[QUEUE_NOT_FOUND]", "topic peek orders --queue 2")
	c.ok("topic alter orders --perm w")
	c.fails(exitDenied, "error[NO_PERMISSION]", "topic peek orders")
}

var unsteady = regexp.MustCompile(`("fence"|"heartbeatAgeMillis"|"version"): ("[^"]*"|[0-9]+)`)

func fixedClient(out string) []byte { return unsteady.ReplaceAll(fixed(out), []byte("$1: VALUE")) }

func TestClient_Outputs(t *testing.T) {
	c := behind(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- Run(ctx, c.args("sub orders --group billing --from earliest --raw"), strings.NewReader(""), w, io.Discard)
		w.Close()
	}()
	next(t, r)
	golden(t, "client-list.json", fixedClient(c.ok("client list -o json")))
	golden(t, "group-clients.json", fixedClient(c.ok("group clients billing -o json")))
	id := strings.TrimSpace(c.ok("client list -o name --group billing"))
	golden(t, "client-describe.json", fixedClient(c.ok("client describe "+id+" -o json")))
	for _, line := range []string{"client describe " + id, "clients ls -o wide", "group clients billing -o wide"} {
		if out := c.ok(line); !strings.Contains(out, id) || !strings.Contains(out, "billing") || !strings.Contains(out, "orders") || !strings.Contains(out, "ago") {
			t.Errorf("rmq %s: got %s", line, out)
		}
	}
	c.ok("group create other")
	c.fails(exitConflict, "error[CONFLICT]: group \"billing\" is online", "group clone other billing --force")
	c.fails(exitNotFound, "error[NOT_FOUND]: client \""+id+"x\" is not connected\nhint: did you mean \""+id+"\"?", "client describe "+id+"x")
	c.fails(exitNotFound, "error[GROUP_NOT_FOUND]", "client list --group nope")
	cancel()
	go io.Copy(io.Discard, r)
	<-done
	if rows := c.items("client list"); len(rows) != 0 {
		t.Errorf("who has left is listed: %v", rows)
	}
}
