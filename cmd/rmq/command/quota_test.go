package command

import (
	"strings"
	"testing"
)

func TestQuota_Outputs(t *testing.T) {
	c := newCLI(t)
	golden(t, "quota-list-none.json", fixed(c.ok("quota list -o json")))
	golden(t, "quota-set.json", fixed(c.ok("quota set group billing --messages-per-second 1000 -o json")))
	golden(t, "quota-set.txt", fixed(c.ok("quota set group billing --bytes-per-second 1048576")))
	golden(t, "quota-set-dry.txt", fixed(c.ok("quota set client --default --messages-per-second 5 --dry-run")))
	c.ok("quota set client --default --messages-per-second 500")
	c.ok("quota set client pod-7 --bytes-per-second 9")
	golden(t, "quota-list.json", fixed(c.ok("quota list -o json")))
	golden(t, "quota-list.txt", fixed(c.ok("quota ls")))
	golden(t, "quota-list.yaml", fixed(c.ok("quotas list -o yaml")))
	golden(t, "quota-list.ndjson", fixed(c.ok("quota list -o ndjson")))
	golden(t, "quota-list-name.txt", fixed(c.ok("quota list -o name")))
	golden(t, "quota-delete.json", fixed(c.ok("quota delete client --default -o json")))
	golden(t, "quota-unbound.txt", fixed(c.ok("quota set group billing --messages-per-second 0 --no-headers")))
	if out := c.ok("quota set group billing --bytes-per-second 0 -o json"); !strings.Contains(out, `"action": "delete"`) {
		t.Errorf("a quota without any rate stays: %s", out)
	}
	c.ok("quota rm client pod-7")
	if rows := c.items("quota list"); len(rows) != 0 {
		t.Errorf("got %v after all were removed", rows)
	}
}

func TestQuota_DryRunChangesNothing(t *testing.T) {
	c := newCLI(t)
	c.ok("quota set group g --messages-per-second 5")
	c.ok("quota set group g --messages-per-second 9 --dry-run")
	c.ok("quota set group h --messages-per-second 9 --dry-run")
	c.ok("quota delete group g --dry-run")
	if rows := c.items("quota list"); len(rows) != 1 || rows[0]["messagesPerSecond"] != 5.0 {
		t.Errorf("got %v", rows)
	}
	if rows := c.items("quota set group g --messages-per-second 5"); len(rows) != 1 || rows[0]["action"] != "none" {
		t.Errorf("got %v for a quota that is so already", rows)
	}
}

func TestQuota_Failures(t *testing.T) {
	c := newCLI(t)
	c.fails(exitNotFound, "error[NOT_FOUND]: producer group \"nobody\" has no quota\nhint: rmq quota list\n", "quota delete group nobody")
	c.fails(exitNotFound, "a client without a quota of its own has no quota", "quota delete client --default")
	c.fails(exitNotFound, "error[NOT_FOUND]", "quota set group nobody --messages-per-second 0")
	c.fails(exitNotFound, "error[BROKER_NOT_FOUND]", "quota set group g --messages-per-second 1 --broker nobody")
	c.fails(exitUsage, "error[ILLEGAL_NAME]: group \"a.b\"", "quota set group a.b --messages-per-second 1")
	c.fails(exitUsage, "1099511627777 messages a second", "quota set group g --messages-per-second 1099511627777")
	if rows := c.items("quota list"); len(rows) != 0 {
		t.Errorf("got %v", rows)
	}
}

func TestQuota_Mistakes(t *testing.T) {
	for _, c := range []struct{ line, message, hint string }{
		{"quota", `"rmq quota" needs a verb`, "one of: delete, list, set"},
		{"quota set", "argument SCOPE is missing", "usage: rmq quota set group|client NAME"},
		{"quota set topic orders --messages-per-second 1", `quota scope "topic" is not known`, "rmq topic alter TOPIC --messages-per-second N"},
		{"quota set group --messages-per-second 1", "want either a NAME or --default", ""},
		{"quota set group g --default --messages-per-second 1", "want either a NAME or --default", ""},
		{"quota set group g h --messages-per-second 1", `argument "h" is one too many`, ""},
		{"quota set group g", "nothing to set", "--bytes-per-second"},
		{"quota set group g --messages-per-second -1", "--messages-per-second -1: want at least 1, or 0 for no bound", ""},
		{"quota set group g --bytes-per-second -8", "--bytes-per-second -8", ""},
		{"quota set group g --bytes-per-second 1e9", "--bytes-per-second", "rmq quota set --help"},
		{"quota delete client", "want either a NAME or --default", ""},
		{"topic create t --type urgent", `--type "urgent" is not known`, "NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY, MIXED"},
		{"topic alter t --type=", `--type "" is not known`, ""},
		{"topic create t --messages-per-second -3", "--messages-per-second -3: want at least 1", ""},
	} {
		r := run(t, "", strings.Fields(c.line)...)
		if r.exit != exitUsage || r.stdout != "" {
			t.Errorf("rmq %s: exit %d, stdout %q", c.line, r.exit, r.stdout)
		}
		if !strings.Contains(r.stderr, c.message) || !strings.Contains(r.stderr, c.hint) {
			t.Errorf("rmq %s: stderr %q, want %q and %q", c.line, r.stderr, c.message, c.hint)
		}
	}
}

func TestQuota_HelpHasExamples(t *testing.T) {
	for _, line := range []string{"quota list", "quota set", "quota delete", "topic create", "topic alter"} {
		r := run(t, "", append(strings.Fields(line), "--help")...)
		if r.exit != exitOK || !strings.Contains(r.stdout, "Examples:\n  rmq "+line) {
			t.Errorf("rmq %s --help: %s", line, r.stdout)
		}
	}
}

func TestTopic_TypeAndQuota(t *testing.T) {
	c := newCLI(t)
	golden(t, "topic-create-typed.json", fixed(c.ok("topic create alarms --type priority --queues 10 --messages-per-second 50 -o json")))
	golden(t, "topic-alter-typed.txt", fixed(c.ok("topic alter alarms --type FIFO --messages-per-second 0 --bytes-per-second 7")))
	golden(t, "topic-list-typed.txt", fixed(c.ok("topic list -o wide")))
	c.fails(exitUsage, `error[MESSAGE_ILLEGAL]: topic "alarms" is of type FIFO; a message without group, delay or priority was sent`, "pub alarms hello")
	if rows := c.items("topic alter alarms --type fifo"); rows[0]["action"] != "none" {
		t.Errorf("got %v for a type that is so already", rows)
	}
	c.ok("topic create mixed")
	if rows := c.items("topic alter mixed --type mixed"); rows[0]["action"] != "none" {
		t.Errorf("got %v: a topic takes everything anyway", rows)
	}
}

func TestEachType(t *testing.T) {
	got := ""
	for _, s := range []string{"FIFO", "MIXED", "FIFO", "MIXED"} {
		got = eachType(got, s)
	}
	if got != "FIFO,MIXED" {
		t.Errorf("got %q", got)
	}
}
