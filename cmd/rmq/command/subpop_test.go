package command

import (
	"errors"
	"strings"
	"testing"
)

func TestSubPop(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	for _, body := range []string{"one --tag a", "two --tag b", "three --tag a"} {
		c.ok("pub orders " + body)
	}
	pop := "sub orders --group g --pop --from earliest --raw --tag a "
	if got := c.ok(pop + "--count 1"); got != "one\n" {
		t.Errorf("got %q", got)
	}
	if got := c.ok(pop + "--invisible 1h --idle-timeout 2s"); got != "three\n" {
		t.Errorf("what was printed is consumed: got %q", got)
	}
	c.fails(exitUnavailable, "0 of 1 messages came, then none for 50ms", pop+"--count 1 --idle-timeout 50ms")
	if got := c.ok("group lag g -o json"); !strings.Contains(got, `"lag": 0`) {
		t.Errorf("got %s", got)
	}
}

// What could not be printed is another's at once.
func TestSubPop_GivesBackWhatItCannotPrint(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	c.ok("pub orders one")
	w := &fullWriter{}
	args := c.args("sub orders --group g --pop --invisible 1h --from earliest --raw")
	if exit := Run(t.Context(), args, strings.NewReader(""), w, &strings.Builder{}); exit == exitOK {
		t.Error("a full disk is no failure")
	}
	if got := c.ok("sub orders --group g --pop --count 1 -o ndjson"); !strings.Contains(got, `"reconsumeTimes":1`) {
		t.Errorf("got %s", got)
	}
}

// fullWriter is where nothing can be written.
type fullWriter struct{}

var errFull = errors.New("disk is full")

func (*fullWriter) Write([]byte) (int, error) { return 0, errFull }

func TestSubPop_BadFlags(t *testing.T) {
	c := newCLI(t)
	for flags, says := range map[string]string{
		"--pop":                           "want --group too",
		"--group g --pop --exit-at-end":   "no --exit-at-end",
		"--group g --pop --invisible 0s":  "--invisible 0s",
		"--group g --pop --invisible 13h": "want 10ms to 12h0m0s",
		"--group g --invisible 1m":        "--invisible goes with --pop",
		"--group g --pop --tag a --sql b": "want one of them",
	} {
		c.fails(exitUsage, says, "sub orders "+flags)
	}
}
