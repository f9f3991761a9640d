package command

import (
	"strings"
	"testing"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/tests/harness"
)

func TestSub_Filters(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	for _, m := range []string{"one --tag paid --prop amount=50", "two --tag open --prop amount=150", "three --prop amount=250"} {
		c.ok("pub orders " + m)
	}
	for flags, want := range map[string]string{
		"--tag paid":                         "one\n",
		"--tag paid||open":                   "one\ntwo\n",
		"--tag *":                            "one\ntwo\nthree\n",
		"--tag none":                         "",
		"--sql amount>100":                   "two\nthree\n",
		"--sql (TAGS='open')AND(amount>100)": "two\n",
		"--sql missing=1":                    "",
		"--group g --tag open":               "two\n",
		"--group h --sql amount<100":         "one\n",
	} {
		if got := c.ok("sub orders --from earliest --exit-at-end --raw " + flags); got != want {
			t.Errorf("%s: got %q, want %q", flags, got, want)
		}
	}
	if got := c.ok("sub orders --from earliest --exit-at-end --raw --group h --sql amount<100"); got != "" {
		t.Errorf("a group gets %q again", got)
	}
	if got := c.ok("group lag h -o json"); !strings.Contains(got, `"lag": 0`) || strings.Contains(got, `"committed": 1`) {
		t.Errorf("what the filter passed over counts: %s", got)
	}
}

func TestSub_BadFiltersAreUsageErrors(t *testing.T) {
	c := newCLI(t)
	for flags, says := range map[string]string{
		"--tag a --sql a=1": "want one of them",
		"--tag a||":         "--tag: illegal filter: column 4",
		"--sql a=":          "--sql: illegal filter: column 3",
	} {
		c.fails(exitUsage, says, "sub orders "+flags)
	}
}

// A member whose group subscribes otherwise ends, and says why.
func TestSub_EndsWhenTheGroupRefusesIt(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 1")
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{NameServers: c.cluster.NameServers, Group: "g", ClientID: "first",
		Subscriptions: []consumer.Subscription{{Topic: "orders"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(t.Context()) })
	harness.Eventually(t, "the first member", func() bool { return len(p.Assigned()) == 1 })
	for _, flags := range []string{"", " --exit-at-end"} {
		r := c.run("sub orders --group g --tag a" + flags)
		if r.exit != exitConflict || !strings.Contains(r.stderr, `client "first"`) || !strings.Contains(r.stderr, "orders (tag a)") {
			t.Errorf("sub%s: exit %d, %s", flags, r.exit, r.stderr)
		}
	}
}

func TestGroup_Alter(t *testing.T) {
	c := newCLI(t)
	c.ok("group create g --per-member-subscriptions")
	if got := c.ok("group alter g --consume-enabled=false --dry-run -o json"); !strings.Contains(got, `"perMemberSubscriptions": true`) || strings.Contains(got, `"perMemberSubscriptions": false`) {
		t.Errorf("a setting that is not named changes: %s", got)
	}
	c.ok("group alter g --per-member-subscriptions=false --consume-enabled=false")
	if got := c.ok("group alter g --consume-enabled -o json"); !strings.Contains(got, `"perMemberSubscriptions": false`) || !strings.Contains(got, `"action": "alter"`) {
		t.Errorf("got %s", got)
	}
	if r := c.run("group alter g"); r.exit != exitUsage {
		t.Errorf("nothing to change: exit %d", r.exit)
	}
	if r := c.run("group alter none --consume-enabled"); r.exit != exitNotFound {
		t.Errorf("no such group: exit %d, %s", r.exit, r.stderr)
	}
}
