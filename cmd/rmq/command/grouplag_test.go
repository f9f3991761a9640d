package command

import (
	"strings"
	"testing"

	"github.com/rmqio/rmq/admin"
)

func TestGroupLag_UnderAFilter(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	for _, tag := range []string{"paid", "open", "paid", "paid"} {
		c.ok("pub orders x --tag " + tag)
	}
	c.ok("sub orders --group billing --tag paid --from earliest --count 1 --exit-at-end")
	c.ok("pub orders x --tag open")
	rows := c.items("group lag billing")
	if len(rows) != 1 || rows[0]["lag"] != 2.0 || rows[0]["filtered"] != true || rows[0]["atLeast"] != false {
		t.Errorf("got %v", rows)
	}
	if out := c.ok("group lag billing -o wide"); !strings.Contains(out, "FILTER") || !strings.Contains(out, "yes") {
		t.Errorf("got %s", out)
	}
	if out := c.ok("group list"); !strings.Contains(out, "billing") {
		t.Errorf("got %s", out)
	}
}

func TestGroupLag_TextOfWhatIsNotCertain(t *testing.T) {
	if got := lagText(12, true) + " " + lagText(12, false); got != ">=12 12" {
		t.Errorf("got %q", got)
	}
	sums := sumLag([]admin.QueueLag{
		{Group: "g", Topic: "%RETRY%g", Lag: 3, Retrying: 2}, {Group: "g", Topic: "t", Lag: 4, AtLeast: true}, {Group: "h", Topic: "t"},
	}, byGroup)
	if len(sums) != 2 || sums[0].Lag != 7 || sums[0].Retrying != 2 || !sums[0].AtLeast || sums[1].AtLeast || sums[0].Behind != 2 {
		t.Errorf("got %+v", sums)
	}
	for want, r := range map[string]admin.QueueLag{"none": {}, "yes": {Filtered: true}, "unknown": {FilterUnknown: true}} {
		if got := filterText(r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestGroupDelete_LeavesDeadLettersUnlessToldOtherwise(t *testing.T) {
	for _, with := range []bool{false, true} {
		c := newCLI(t)
		c.ok("topic create orders --queues 1")
		c.ok("pub orders x")
		c.ok("group create billing")
		c.rejectAll(t, 1)
		flags := map[bool]string{true: " --with-dead-letters"}[with]
		r := c.run("group delete billing -y -o json" + flags)
		if r.exit != exitOK || strings.Contains(r.stderr, "1 dead letters stay: rmq dlq list billing") == with || strings.Contains(r.stdout, `"deadLetters": 1`) != with {
			t.Errorf("with them %t: got %+v", with, r)
		}
		if rows := c.items("topic list"); len(rows) != map[bool]int{false: 2, true: 1}[with] {
			t.Errorf("with them %t: got %v", with, rows)
		}
	}
}
