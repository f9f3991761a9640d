package command

import (
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

func TestRetention_TextsAndBack(t *testing.T) {
	for text, want := range map[string]int64{
		"default": protocol.KeepByDefault, "forever": protocol.KeepForever, "1s": 1000, "90s": 90_000, "1m": 60_000,
		"72h": 72 * 3_600_000, "7d": 7 * 24 * 3_600_000, "1h30m": 90 * 60_000, "1h0m1s": 3_601_000, "1.5s": 1500,
	} {
		got, err := topicRetention(text)
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
		if again, err := topicRetention(retentionText(got)); err != nil || again != want {
			t.Errorf("%s is shown as %s and read as %d: %v", text, retentionText(got), again, err)
		}
	}
	for millis, want := range map[int64]string{72 * 3_600_000: "72h", 60_000: "1m", 3_630_000: "1h0m30s", 5_400_000: "1h30m", 600_000: "10m"} {
		if got := retentionText(millis); got != want {
			t.Errorf("%d ms: got %s, want %s", millis, got, want)
		}
	}
	for _, text := range []string{"", "0", "0s", "999ms", "-1h", "1", "d", "-1d", "0d", "1.5d", "99999d", "ever"} {
		if got, err := topicRetention(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
	if d, err := parseRetention("forever"); d >= 0 || err != nil {
		t.Errorf("for ever: got %v, %v", d, err)
	}
	if _, err := parseRetention("default"); err == nil {
		t.Error("the default of a server is taken for its default")
	}
	if d, err := parseRetention("2d"); d != 48*time.Hour || err != nil {
		t.Errorf("2d: got %v, %v", d, err)
	}
}

func TestTopic_Retention(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --retention 1h --keep-until-consumed")
	if out := c.ok("topic describe orders"); !strings.Contains(out, "retention:            1h\n") || !strings.Contains(out, "keep until consumed:  yes\n") {
		t.Errorf("got %s", out)
	}
	if out := c.ok("topic alter orders --retention default"); !strings.Contains(out, "1h->default") {
		t.Errorf("got %s", out)
	}
	if rows := c.items("topic list"); rows[0]["retention"] != "default" || rows[0]["keepUntilConsumed"] != true {
		t.Errorf("altering one setting changed others: %v", rows)
	}
	c.ok("topic alter orders --keep-until-consumed=false --retention forever")
	if rows := c.items("topic list"); rows[0]["retention"] != "forever" || rows[0]["keepUntilConsumed"] != false {
		t.Errorf("got %v", rows)
	}
}
