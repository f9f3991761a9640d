package command

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares output with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// result is what one command line did.
type result struct {
	exit           int
	stdout, stderr string
}

// run carries out a command line without any name server in the environment.
func run(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	t.Setenv("RMQ_NAMESRV", "")
	t.Setenv("NAMESRV_ADDR", "")
	var out, err bytes.Buffer
	code := Run(t.Context(), args, strings.NewReader(stdin), &out, &err)
	return result{code, out.String(), err.String()}
}

func TestRun_MistakesExitWithTwoAndAHint(t *testing.T) {
	for _, c := range []struct{ line, message, hint string }{
		{"topc list", `unknown command "topc" for "rmq"`, `did you mean "topic"?`},
		{"topic lst", `unknown command "lst" for "rmq topic"`, `did you mean "list"?`},
		{"topic", `"rmq topic" needs a verb`, "one of: alter, create, delete, describe, list, peek, route, stats"},
		{"group xyz", `unknown command "xyz"`, "one of: alter, clients, clone, create, delete, describe, lag, list, reset, skip"},
		{"help topc", `unknown command "topc"`, `did you mean "topic"?`},
		{"topic list --ouput json", "unknown flag: --ouput", "did you mean --output?"},
		{"topic list -o jsn", `output form "jsn" is not known`, "table, wide, json"},
		{"topic list --timeout x", "--timeout", "rmq topic list --help"},
		{"topic list --timeout 0s", "--timeout 0s: want more than 0", ""},
		{"topic create", "argument TOPIC is missing", "usage: rmq topic create TOPIC"},
		{"topic create a b", `argument "b" is one too many`, "usage:"},
		{"topic create a.b", `character '.' at 1`, ""},
		{"topic create %DLQ%g", "reserved", ""},
		{"topic create t --queues 0", "--queues 0: want at least 1", ""},
		{"topic create t --queues 1 --read-queues 2", "--queues and --read-queues exclude one another", ""},
		{"topic create t --queues -3", "--queues -3: want at least 1", ""},
		{"topic create t --perm x", `permission "x"`, ""},
		{"topic create t --retention 0", `--retention "0": want default, forever, or a duration of at least 1s`, ""},
		{"topic create t --retention -1h", "want default, forever", ""},
		{"topic create t --retention=", "want default, forever", ""},
		{"topic create t --retention 10x", "want default, forever", ""},
		{"topic create t --keep-until-consumed=maybe", "keep-until-consumed", ""},
		{"topic alter t", "nothing to change", "--retention"},
		{"topic delete t", "stdin is not a terminal", "--yes"},
		{"group delete g", "stdin is not a terminal", "--yes"},
		{"group reset g --to -10x", `--to "-10x" is not a position`, "earliest, latest"},
		{"group reset g", `--to "" is not a position`, "earliest, latest"},
		{"group lag --watch=0s", "--watch 0s", ""},
		{"group lag --by x", `--by "x": want group, topic or queue`, ""},
		{"group reset g --to -1", `--to "-1" is not a position`, ""},
		{"group reset g --to 0 --queue 1", "--queue needs --topic", ""},
		{"group reset g --to 0 --topic t --queue -1", `--queue "-1": want BROKER/N or N`, ""},
		{"group reset g --to 0 --topic t --queue b/", `--queue "b/": want BROKER/N or N`, ""},
		{"group reset g --to 0 --topic t --queue /1", `--queue "/1": want BROKER/N or N`, ""},
		{"group skip g --topic t --queue 2147483648", "want BROKER/N or N", ""},
		{"group skip g --topic t --queue b/1 --broker c", "--queue b/1 names its broker", ""},
		{"group clone a", "argument TO is missing", "usage:"},
		{"group clone a a", `group "a" cannot be cloned to itself`, ""},
		{"topic peek t --count 0", "--count 0: want at least 1", ""},
		{"topic peek t --queue b", `--queue "b": want BROKER/N or N`, ""},
		{"client", `"rmq client" needs a verb`, "one of: describe, list"},
		{"completion bsh", `shell "bsh" is not known`, "bash, zsh"},
	} {
		r := run(t, "", strings.Fields(c.line)...)
		if r.exit != exitUsage || r.stdout != "" {
			t.Errorf("rmq %s: exit %d, stdout %q", c.line, r.exit, r.stdout)
		}
		if !strings.HasPrefix(r.stderr, "error[") || !strings.Contains(r.stderr, c.message) || !strings.Contains(r.stderr, c.hint) {
			t.Errorf("rmq %s: stderr %q, want %q and %q", c.line, r.stderr, c.message, c.hint)
		}
	}
}

func TestRun_ErrorsAreJSONWhenTheOutputIs(t *testing.T) {
	for _, line := range []string{"topic lst -o json", "-o=json topic lst", "--output=ndjson topic lst", "-ojson topic --nonsense", "topic lst --output yaml"} {
		r := run(t, "", strings.Fields(line)...)
		var f struct{ Code, Message, Hint string }
		if err := json.Unmarshal([]byte(r.stderr), &f); err != nil || f.Code != "USAGE" || f.Message == "" || r.exit != exitUsage {
			t.Errorf("rmq %s: exit %d, stderr %q: %v", line, r.exit, r.stderr, err)
		}
	}
}

func TestRun_NobodyAnswers(t *testing.T) {
	for _, line := range []string{"topic list", "group lag g", "cluster info", "namesrv list", "cluster health", "topic delete t --yes", "cluster health --wait --timeout 100ms"} {
		args := append(strings.Fields(line), "--namesrv", "127.0.0.1:1")
		if !slices.Contains(args, "--timeout") {
			args = append(args, "--timeout", "3s")
		}
		if r := run(t, "", args...); r.exit != exitUnavailable || !strings.Contains(r.stderr, "hint: ") {
			t.Errorf("rmq %s: exit %d, stderr %q", line, r.exit, r.stderr)
		}
	}
}

func TestRun_Help(t *testing.T) {
	for _, line := range []string{"", "--help", "help", "help topic create", "topic create --help", "pub -h"} {
		if r := run(t, "", strings.Fields(line)...); r.exit != exitOK || !strings.Contains(r.stdout, "Usage:") || r.stderr != "" {
			t.Errorf("rmq %s: exit %d, stdout %q, stderr %q", line, r.exit, r.stdout, r.stderr)
		}
	}
}

func TestErrors_ListHoldsEveryCodeOfTheWire(t *testing.T) {
	listed := map[string]errorEntry{}
	for _, e := range errorEntries() {
		if _, twice := listed[e.Code]; twice {
			t.Errorf("%s is listed twice", e.Code)
		}
		listed[e.Code] = e
	}
	for n := range 1 << 16 {
		c := protocol.ErrorCode(n)
		if e, ok := listed[c.String()]; !strings.HasPrefix(c.String(), "ERROR_") && (!ok || e.Number != n) {
			t.Errorf("%s (%d) is not listed, or with another number", c, n)
		}
	}
}

func TestErrors_Output(t *testing.T) {
	golden(t, "errors-list.txt", []byte(run(t, "", "errors", "list", "-o", "wide").stdout))
	golden(t, "errors-lookup.json", []byte(run(t, "", "errors", "lookup", "17", "-o", "json").stdout))
	if r := run(t, "", "errors", "lookup", "topic_not_found", "-o", "name"); r.stdout != "TOPIC_NOT_FOUND\n" {
		t.Errorf("got %+v", r)
	}
	r := run(t, "", "errors", "lookup", "TOPIC_NOT_FOND")
	if r.exit != exitNotFound || !strings.Contains(r.stderr, `did you mean "TOPIC_NOT_FOUND"?`) {
		t.Errorf("got %+v", r)
	}
}

func TestVersion_Fields(t *testing.T) {
	var b map[string]any
	r := run(t, "", "version", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &b); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"version", "revision", "modified", "time", "go", "platform"} {
		if _, ok := b[f]; !ok {
			t.Errorf("field %s is missing in %s", f, r.stdout)
		}
	}
}

func TestCompletion_Scripts(t *testing.T) {
	for _, shell := range shells {
		if r := run(t, "", "completion", shell); r.exit != exitOK || !strings.Contains(r.stdout, "rmq") {
			t.Errorf("%s: exit %d", shell, r.exit)
		}
	}
	if r := run(t, "", "__complete", "topic", "li"); !strings.Contains(r.stdout, "list") {
		t.Errorf("got %+v", r)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"orders", "order-items", "payments", "order"}
	for name, want := range map[string][]string{
		"ordres": {"orders", "order"}, "oders": {"orders"}, "xyz": nil, "payment": {"payments"}, "orders": {"order"},
	} {
		if got := nearest(name, names); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestParsePosition(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]position{
		"earliest":             {kind: fromEarliest},
		"latest":               {kind: fromLatest},
		"0":                    {kind: fromOffset},
		"42":                   {kind: fromOffset, offset: 42},
		"-10m":                 {kind: fromTime, time: now.Add(-10 * time.Minute)},
		"2026-01-01T00:00:00Z": {kind: fromTime, time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if got, err := parsePosition("--from", s, now); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-1", "--10m", "10m", "soon", "1.5"} {
		if _, err := parsePosition("--from", s, now); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

func TestExplain_ASignalIsAnInterruption(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	if f := explain(ctx, ctx.Err()); f.exit != exitInterrupted || f.Code != "INTERRUPTED" {
		t.Errorf("got %+v", f)
	}
}
