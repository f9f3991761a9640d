package command

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rmqio/rmq/broker"
)

// messageID is the id that -o name prints.
var messageID = regexp.MustCompile(`^[0-9a-f]{32}\n$`)

func TestMessage_Outputs(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 2")
	c.ok("pub orders first --key 42 --queue 0")
	c.ok("pub orders hello --tag paid --key 42 --key 43 --message-group g --prop a=b --queue 1")
	c.ok("pub orders other --key 7 --queue 0")
	golden(t, "message-query.json", fixed(c.ok("message query orders --key 42 -o json")))
	golden(t, "message-query-limit.json", fixed(c.ok("message query orders --key 42 --limit 1 -o json")))
	golden(t, "message-query.yaml", fixed(c.ok("message query orders --key 42 --limit 1 -o yaml")))
	golden(t, "message-query.txt", fixed(c.ok("message query orders --key 42")))
	golden(t, "message-query-none.json", fixed(c.ok("message query orders --key 1 -o json")))
	golden(t, "message-get.json", fixed(c.ok("message get --topic orders --broker broker-a --queue 1 --offset 0 -o json")))
	if out := c.ok("message query orders --key 1") + c.ok("message query orders --key 1 -o ndjson"); out != "" {
		t.Errorf("nothing found prints %q", out)
	}
}

// TestMessage_GetIsWhatSubPrints in each of its three ways.
func TestMessage_GetIsWhatSubPrints(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders before")
	c.ok("pub orders hello --tag paid --key 42 --message-group g --prop a=b")
	want := c.ok("sub orders --from 1 --count 1 -o ndjson")
	name := c.ok("message query orders --key 42 -o name")
	if !messageID.MatchString(name) {
		t.Fatalf("got %q", name)
	}
	id := strings.TrimSpace(name)
	for _, line := range []string{
		"message get " + id, "message get " + strings.ToUpper(id), "message get --topic orders " + id,
		"message get --topic orders --broker broker-a --queue 0 --offset 1", "message query orders --key 42",
	} {
		if got := c.ok(line + " -o ndjson"); got != want {
			t.Errorf("rmq %s: got %s, want %s", line, got, want)
		}
	}
	if c.find(want) == 0 {
		t.Error("no record of the log has it")
	}
}

// find is the log index under which a message is printed; 0 for none.
func (c *cli) find(want string) int {
	for index := 1; index < 100; index++ {
		r := c.run(fmt.Sprintf("message get --broker broker-a --log-index %d -o ndjson", index))
		switch {
		case r.exit == exitOK && r.stdout == want:
			return index
		case r.exit != exitOK && (r.exit != exitNotFound || r.stdout != ""):
			c.t.Fatalf("record %d: %+v", index, r)
		}
	}
	return 0
}

func TestMessage_QueryIsCompleteAndNewestFirst(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	const matches = 3000
	var in, want strings.Builder
	for i := range 2 * matches {
		fmt.Fprintf(&in, "{\"keys\":[\"%s\"],\"body\":\"%d\"}\n", []string{"k", "other"}[i%2], i)
	}
	for i := 2*matches - 2; i >= 0; i -= 2 {
		fmt.Fprintf(&want, "%d\n", i)
	}
	if r := c.feed(in.String(), "pub t --in ndjson --no-receipts"); r.exit != exitOK {
		t.Fatalf("%+v", r)
	}
	for line, n := range map[string]int{
		"message query t --key k": matches, "message query t --key k --limit 3000": matches, "message query t --key k --limit 5000": matches,
		"message query t --key k --limit 2999": matches - 1, "message query t --key k --limit 65": 65, "message query t --key k --limit 1": 1,
	} {
		items := c.items(line)
		var got strings.Builder
		for _, m := range items {
			fmt.Fprintln(&got, m["body"])
		}
		if len(items) != n || !strings.HasPrefix(want.String(), got.String()) {
			t.Errorf("rmq %s: got %d messages, want %d, newest first", line, len(items), n)
		}
		if out := c.ok(line + " -o json"); strings.Contains(out, `"truncated":true`) != (n < matches) {
			t.Errorf("rmq %s: %s", line, out[len(out)-40:])
		}
	}
}

// TestMessage_ASignalEndsAQuery that has printed something.
func TestMessage_ASignalEndsAQuery(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	c.ok("pub t --count 200 --key k --no-receipts " + strings.Repeat("x", streamBytes/100)) // more than two pages
	ctx, cancel := context.WithCancelCause(t.Context())
	out := writerFunc(func(b []byte) (int, error) {
		cancel(errInterrupted)
		return len(b), nil
	})
	var stderr bytes.Buffer
	if exit := Run(ctx, c.args("message query t --key k"), strings.NewReader(""), out, &stderr); exit != exitInterrupted {
		t.Errorf("exit %d: %s", exit, &stderr)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestMessage_Failures(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders hello --key 42")
	nobody := strings.Repeat("0", 31) + "1"
	for _, x := range []struct {
		exit       int
		text, line string
	}{
		{exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\" is not known", "message query ordres --key 42"},
		{exitUsage, "--key is missing", "message query orders"},
		{exitUsage, "--limit -1 is negative", "message query orders --key 42 --limit -1"},
		{exitUsage, "argument TOPIC is missing", "message query --key 42"},
		{exitUsage, "want 32 hexadecimal digits", "message get 42"},
		{exitUsage, "message id", "message get " + strings.Repeat("g", 32)},
		{exitUsage, "error[", "message get " + strings.Repeat("0", 32)},
		{exitUsage, "needs an ID, or --topic --broker --queue --offset, or --broker --log-index", "message get"},
		{exitUsage, "needs an ID", "message get --broker broker-a " + nobody},
		{exitUsage, "needs an ID", "message get --log-index 1 " + nobody},
		{exitUsage, "needs an ID", "message get --log-index 1"},
		{exitUsage, "needs an ID", "message get --broker broker-a --log-index 0"},
		{exitUsage, "needs an ID", "message get --broker broker-a --log-index 1 --topic orders"},
		{exitUsage, "needs an ID", "message get --broker broker-a --log-index 1 --queue 0 --offset 0 --topic orders"},
		{exitUsage, "needs an ID", "message get --broker broker-a --topic orders --offset 0"},
		{exitUsage, "needs an ID", "message get --broker broker-a --topic orders --queue 0"},
		{exitUsage, "needs an ID", "message get --queue 0 --topic orders --offset 0"},
		{exitUsage, "one too many", "message get " + nobody + " " + nobody},
		{exitNotFound, "error[MESSAGE_NOT_FOUND]: no broker has message " + nobody, "message get " + nobody},
		{exitNotFound, "error[MESSAGE_NOT_FOUND]", "message get --topic ordres " + nobody},
		{exitNotFound, "error[MESSAGE_NOT_FOUND]: record 4711 of broker-a", "message get --broker broker-a --log-index 4711"},
		{exitNotFound, "error[MESSAGE_NOT_FOUND]: queue broker-a/0 of topic \"orders\" has no message at offset 1\nhint: ",
			"message get --topic orders --broker broker-a --queue 0 --offset 1"},
		{exitNotFound, "error[MESSAGE_NOT_FOUND]", "message get --topic orders --broker broker-a --queue 0 --offset 99"},
		{exitNotFound, "error[QUEUE_NOT_FOUND]", "message get --topic orders --broker broker-a --queue 1 --offset 0"},
		{exitNotFound, "error[TOPIC_NOT_FOUND]", "message get --topic ordres --broker broker-a --queue 0 --offset 0"},
		{exitNotFound, "error[BROKER_NOT_FOUND]", "message get --topic orders --broker broker-b --queue 0 --offset 0"},
		{exitNotFound, "error[BROKER_NOT_FOUND]", "message get --broker broker-b --log-index 1"},
	} {
		for _, form := range []string{"", " -o json"} {
			r := c.run(x.line + form)
			if r.exit != x.exit || r.stdout != "" {
				t.Errorf("rmq %s: exit %d, stdout %q, stderr %q; want %d", x.line+form, r.exit, r.stdout, r.stderr, x.exit)
			}
			if form == "" && !strings.Contains(r.stderr, x.text) {
				t.Errorf("rmq %s: stderr %q, want %q", x.line, r.stderr, x.text)
			}
		}
	}
	if r := run(t, "", "message", "get", nobody, "-n", "127.0.0.1:1", "--timeout", "2s"); r.exit != exitUnavailable || r.stdout != "" {
		t.Errorf("nobody answers: %+v", r)
	}
}

// TestMessage_PartialSearch prints what is there and says that something is not.
func TestMessage_PartialSearch(t *testing.T) {
	const segment = 64 << 10
	c := newCLI(t, func(cfg *broker.Config) { cfg.Store.FirstSegmentBytes, cfg.Store.SegmentBytes = segment, segment })
	c.ok("topic create t --queues 1")
	c.ok("pub t spoil-me --key k")
	c.ok("pub t good --key k")
	for range 2 * segment / 10_000 { // so that the segment is sealed
		c.ok("pub t " + strings.Repeat("x", 10_000))
	}
	c.spoil("spoil-me")
	r := c.run("message query t --key k -o json")
	if r.exit != exitPartial || !strings.Contains(r.stdout, `"body":"good"`) || strings.Contains(r.stdout, "poil-me") ||
		!strings.Contains(r.stdout, `"truncated":true`) || !strings.Contains(r.stderr, `"code":"PARTIAL"`) {
		t.Errorf("got %+v", r)
	}
	c.fails(exitFailure, "error[DATA_DAMAGED]", "message get --topic t --broker broker-a --queue 0 --offset 0")
}

// spoil changes a text in the log while the server is down.
func (c *cli) spoil(text string) {
	c.t.Helper()
	c.cluster.Stop()
	spoiled := 0
	err := filepath.WalkDir(c.cluster.Config.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		spoiled += bytes.Count(b, []byte(text))
		return os.WriteFile(path, bytes.ReplaceAll(b, []byte(text), bytes.ToUpper([]byte(text))), 0o600)
	})
	if err != nil || spoiled != 1 {
		c.t.Fatalf("spoiled %d places: %v", spoiled, err)
	}
	c.cluster.Start()
}
