package command

import (
	"regexp"
	"strings"
	"testing"
)

// unsteadyTrace are the numbers of a trace that differ from run to run.
var unsteadyTrace = regexp.MustCompile(`("logIndex"|"fence"|"lookedTo"|"lastRecord"): [0-9]+`)

// titles keeps the words of a table's first line and of each line its first.
func titles(out string) (text string) {
	for line := range strings.Lines(out) {
		switch f := strings.Fields(line); {
		case len(f) > 0 && (f[0] == "TIME" || f[0] == "NOW"):
			text += strings.Join(f, " ") + "\n"
		case len(f) > 1 && strings.HasSuffix(f[0], "Z"):
			text += f[1] + "\n"
		case len(f) > 0:
			text += f[0] + "\n"
		}
	}
	return text
}

func TestMessageTrace(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders hello --key 1")
	c.ok("sub orders --group billing --from earliest --count 1")
	id := strings.TrimSpace(c.ok("message query orders --key 1 -o name"))
	golden(t, "message-trace.json", unsteadyTrace.ReplaceAll(fixed(c.ok("message trace "+id+" -o json")), []byte("$1: NUMBER")))
	if got := c.ok("message trace " + id + " -o name"); got != id+"\n" {
		t.Errorf("got %q", got)
	}
	out := c.ok("message trace " + strings.ToUpper(id))
	want := `TIME EVENT GROUP CLIENT TOPIC BROKER QUEUE OFFSET DETAIL
stored
leased
acked
NOW GROUP CLIENT TOPIC BROKER QUEUE OFFSET COMMITTED DUE
acked
`
	if got := titles(out); got != want || !strings.Contains(out, "5 bytes") {
		t.Errorf("got\n%swant\n%s", out, want)
	}
	if out := c.ok("message trace " + id + " --no-headers -o wide"); strings.Contains(out, "TIME") || strings.Contains(out, "NOW") {
		t.Errorf("got\n%s", out)
	}
}

func TestMessageTrace_OfWhatWaits(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders hello --delay 1h")
	id := c.items("message delayed orders")[0]["messageId"].(string)
	out := c.ok("message trace " + id)
	if got := titles(out); !strings.Contains(got, "\ndelayed\nNOW ") || strings.Count(out, "due ") != 1 {
		t.Errorf("got\n%s", out)
	}
}

func TestMessageTrace_Failures(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders hello --key 1")
	c.ok("sub orders --group billing --from earliest --count 1")
	id, nobody := strings.TrimSpace(c.ok("message query orders --key 1 -o name")), strings.Repeat("0", 31)+"1"
	c.fails(exitNotFound, "error[MESSAGE_NOT_FOUND]: no broker has message "+nobody, "message trace "+nobody)
	c.fails(exitUsage, "want 32 hexadecimal digits", "message trace 42")
	c.fails(exitUsage, "--records 0: want 1 or more", "message trace "+id+" --records 0")
	c.fails(exitUsage, "argument ID is missing", "message trace")
	c.fails(exitNotFound, "error[BROKER_NOT_FOUND]", "message trace --broker broker-b "+id)
	r := c.run("message trace --records 1 -o json " + id)
	if r.exit != exitPartial || !strings.Contains(r.stdout, `"truncated": true`) || !strings.Contains(r.stderr, "broker-a looked until record ") {
		t.Errorf("got %+v", r)
	}
}
