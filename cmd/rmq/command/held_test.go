package command

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// handles are what differs from run to run beside what fixed knows.
var handles = regexp.MustCompile(`\bAQ[A-Za-z0-9_-]{40,}`)

func fixedHeld(out string) []byte {
	return fixed(handles.ReplaceAllString(out, "HANDLE"))
}

// receipt is the one that a pub prints.
func (c *cli) receipt(line string) (r struct {
	RecallHandle string
	Transaction  string
	Offset       int64
	Duplicate    bool
}) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.ok(line+" -o ndjson")), &r); err != nil {
		c.t.Fatal(err)
	}
	return r
}

func TestDelayed_ListedAndRecalled(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	h := c.receipt("pub orders later --delay 1h").RecallHandle
	at := time.Now().Add(100 * 24 * time.Hour).UTC().Format(time.RFC3339)
	golden(t, "pub-delayed.ndjson", fixedHeld(c.ok("pub orders later --at "+at+" -o ndjson")))
	if got := c.items("message delayed orders -o json")[1]["deliverAt"]; got != at {
		t.Errorf("got %v, want %v", got, at)
	}
	golden(t, "message-delayed.json", fixedHeld(c.ok("message delayed -o json")))
	golden(t, "message-delayed.txt", fixedHeld(c.ok("message delayed orders --limit 1 --no-headers")))
	golden(t, "message-recall.json", fixedHeld(c.ok("message recall "+h+" -o json")))
	if left := c.items("message delayed orders -o json"); len(left) != 1 || left[0]["recallHandle"] == h {
		t.Errorf("got %v", left)
	}
	if out := c.ok("sub orders --from earliest --exit-at-end"); out != "" {
		t.Errorf("consumers got %q", out)
	}
	forged := h[:len(h)-6] + "AAAAAA"
	c.fails(exitUsage, "not a handle", "message recall x")
	c.fails(exitUsage, "not a handle", "message recall "+forged)
	c.fails(exitUsage, "not a handle", "message recall "+h+" x")
	c.fails(exitNotFound, "TOPIC_NOT_FOUND", "message delayed none")
	c.fails(exitUsage, "--limit -1", "message delayed --limit -1")
}

func TestDelayed_WhatWasDeliveredIsNotRecalled(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	h := c.receipt("pub orders soon --delay 1ms").RecallHandle
	if out := c.ok("sub orders --from earliest --count 1 --raw"); out != "soon\n" {
		t.Fatalf("got %q", out)
	}
	r := c.run("message recall " + h)
	if r.exit != exitConflict || !strings.Contains(r.stderr, "ALREADY_DELIVERED") || !strings.Contains(r.stdout, "already delivered") {
		t.Errorf("got %+v", r)
	}
}

func TestTransaction_DecidedByProducerOrPerson(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	for _, d := range []string{"rollback", "commit"} {
		if r := c.receipt("pub orders " + d + " --transaction " + d); r.Transaction != d {
			t.Errorf("%s: got %+v", d, r)
		}
	}
	c.ok("pub orders left --transaction unknown")
	c.ok("pub orders right --transaction unknown")
	golden(t, "tx-list.json", fixedHeld(c.ok("tx list -o json")))
	golden(t, "tx-list.txt", fixedHeld(c.ok("tx list --topic orders --limit 1 --no-headers -o wide")))
	golden(t, "tx-check.json", fixedHeld(c.ok("tx check --topic orders -o json")))
	names := strings.Fields(c.ok("tx list -o name"))
	c.ok("tx check " + names[0])
	golden(t, "tx-resolve.json", fixedHeld(c.ok("tx resolve --commit "+names[1]+" -o json")))
	golden(t, "tx-resolve.txt", fixedHeld(c.ok("tx resolve --rollback "+names[0]+" --no-headers")))
	c.ok("tx resolve --commit " + names[1])
	c.fails(exitConflict, "CONFLICT", "tx resolve --rollback "+names[1])
	c.fails(exitUsage, "one of --commit and --rollback", "tx resolve "+names[0])
	c.fails(exitUsage, "exclude one another", "tx resolve --commit --rollback "+names[0])
	c.fails(exitUsage, "not a handle", "tx resolve --commit x")
	c.fails(exitUsage, "exclude one another", "tx check --topic orders "+names[0])
	c.fails(exitUsage, `--transaction "maybe" is not known`, "pub orders x --transaction maybe")
	c.fails(exitUsage, "--oneway and --transaction", "pub orders x --transaction commit --oneway")
	if out := c.ok("sub orders --from earliest --exit-at-end --raw"); out != "commit\nright\n" {
		t.Errorf("consumers got %q", out)
	}
}

func TestPub_OneCopyForADedupKey(t *testing.T) {
	c := newCLI(t)
	first, second := c.receipt("pub orders x --dedup-key k"), c.receipt("pub orders y --dedup-key k")
	if first.Duplicate || !second.Duplicate || first.Offset != second.Offset {
		t.Errorf("got %+v and %+v", first, second)
	}
}

func TestRequest_IsReplied(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create prices --queues 1")
	for _, way := range []struct{ flags, want string }{{"", "apple\n"}, {"7", "7\n"}, {"--command rev", "elppa\n"}} {
		var replying sync.WaitGroup
		replying.Go(func() {
			var notes strings.Builder
			code := Run(c.t.Context(), c.args("reply prices "+way.flags+" --count 1"), strings.NewReader(""), io.Discard, &notes)
			if code != exitOK {
				t.Errorf("reply %s: exit %d, %s", way.flags, code, notes.String())
			}
		})
		eventually(t, "a replier", func() bool {
			return strings.Contains(c.run("group describe rmq-reply -o json").stdout, `"members": [
    {`)
		})
		if out := c.ok("request prices apple --timeout 30s"); out != way.want {
			t.Errorf("reply %s: got %q", way.flags, out)
		}
		replying.Wait()
	}
	c.fails(exitUsage, "BODY and --command", "reply prices a --command b")
	c.fails(exitUnavailable, "nobody replied within", "request prices apple --timeout 2s")
}

// Who ends it is told so, and not that the time is over.
func TestRequest_Interrupted(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create prices --queues 1")
	ctx, cancel := context.WithCancelCause(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { // until the request is stored
		c.run("sub prices --from earliest --count 1 --idle-timeout 20s --raw")
		cancel(errInterrupted)
	})
	var errs strings.Builder
	code := Run(ctx, c.args("request prices apple --timeout 30s"), strings.NewReader(""), io.Discard, &errs)
	watching.Wait()
	if code != exitInterrupted || !strings.Contains(errs.String(), "INTERRUPTED") {
		t.Errorf("exit %d, %q", code, errs.String())
	}
}

func TestRequest_BodyFromStdin(t *testing.T) {
	var out, errs bytes.Buffer
	code := Run(context.WithoutCancel(t.Context()), []string{"request", "prices", "-", "-n", "127.0.0.1:1", "--timeout", "1s"}, strings.NewReader("x"), &out, &errs)
	if code != exitUnavailable || out.Len() > 0 {
		t.Errorf("exit %d, stdout %q, stderr %q", code, out.String(), errs.String())
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for %s", what)
		case <-again.C:
		}
	}
}
