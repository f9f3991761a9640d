package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/rmqio/rmq/broker"
)

func result0(t *testing.T, line string) result {
	t.Helper()
	var out, err bytes.Buffer
	code := Run(t.Context(), strings.Fields(line), strings.NewReader(""), &out, &err)
	return result{code, out.String(), err.String()}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func serveText(t *testing.T, text string) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }))
	t.Cleanup(s.Close)
	return s.URL
}

func TestPub_OneMessageAndItsReceipt(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create orders --queues 3")
	golden(t, "pub.ndjson", fixed(c.ok("pub orders hello --tag paid --key 42 --key 43 --message-group g --prop a=b --queue broker-a/2 -o ndjson")))
	golden(t, "sub.ndjson", fixed(c.ok("sub orders --from earliest --count 1 -o ndjson")))
	golden(t, "pub.json", fixed(c.ok("pub orders hello --queue 0 -o json --sync")))
	golden(t, "pub.txt", fixed(c.ok("pub orders hello --queue 1")))
	if out := c.ok("pub orders hello --no-receipts") + c.ok("pub orders hello --oneway"); out != "" {
		t.Errorf("got %q", out)
	}
	if out := c.ok("sub orders --from earliest --exit-at-end -o name"); strings.Count(out, "\n") != 5 {
		t.Errorf("not all are there: %q", out)
	}
}

func TestPub_Inputs(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	for _, in := range []struct{ stdin, line string }{
		{"one\ntwo\n", "pub t -"},
		{"three\nfour", "pub t --in lines --tag x"},
		{`{"body":"five","tag":"old"}` + "\n" + `{"body":"Ng==","bodyEncoding":"base64"}`, "pub t --in ndjson"},
	} {
		if r := c.feed(in.stdin, in.line); r.exit != exitOK {
			t.Fatalf("rmq %s: %+v", in.line, r)
		}
	}
	c.ok("pub t seven --count 2")
	if got := c.ok("sub t --from earliest --exit-at-end --raw"); got != "one\ntwo\n\nthree\nfour\nfive\n6\nseven\nseven\n" {
		t.Errorf("got %q", got)
	}
}

func TestPub_ABadLineStopsItAndSaysHowFarItCame(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	r := c.feed("{\"body\":\"a\"}\n{\"body\":\"b\"}\nnonsense\n{\"body\":\"c\"}\n", "pub t --in ndjson")
	if r.exit != exitPartial || !strings.Contains(r.stderr, "error[BAD_INPUT]: line 3:") || !strings.Contains(r.stderr, "2 messages were sent") {
		t.Errorf("got %+v", r)
	}
	if got := c.ok("sub t --from earliest --exit-at-end --raw"); got != "a\nb\n" {
		t.Errorf("got %q", got)
	}
	if r := c.feed("nonsense\n", "pub t --in ndjson"); r.exit != exitUsage {
		t.Errorf("nothing was sent, yet %+v", r)
	}
}

func TestPub_Failures(t *testing.T) {
	c := newCLI(t, func(cfg *broker.Config) { cfg.NoAutoCreateTopics = true })
	c.ok("topic create orders --queues 2")
	c.ok("topic create bills --perm r")
	c.fails(exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\" is not known\nhint: did you mean \"orders\"?", "pub ordres x --send-timeout 5s")
	c.fails(exitNotFound, "error[QUEUE_NOT_FOUND]", "pub orders x --queue broker-a/7 --send-timeout 5s")
	c.fails(exitDenied, "error[NO_PERMISSION]", "pub bills x --send-timeout 5s")
	c.fails(exitUsage, "error[MESSAGE_ILLEGAL]", "pub orders x --prop a="+strings.Repeat("x", 33000))
	c.fails(exitNotFound, "error[TOPIC_NOT_FOUND]: topic \"ordres\" is not known\nhint: did you mean \"orders\"?", "sub ordres --exit-at-end")
}

func TestPub_ManyLinesInOrderThroughAPipe(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 4")
	var in, want strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&in, "{\"messageGroup\":\"g%d\",\"body\":\"%d\"}\n", i%7, i)
		if i%7 == 3 {
			fmt.Fprintf(&want, "%d ", i)
		}
	}
	r := c.feed(in.String(), "pub t --in ndjson -o name")
	if r.exit != exitOK || strings.Count(r.stdout, "\n") != 20000 || !strings.Contains(r.stderr, "sent 20000 messages") {
		t.Fatalf("exit %d, %d receipts, %s", r.exit, strings.Count(r.stdout, "\n"), r.stderr)
	}
	copied := c.feed(c.ok("sub t --group g --from earliest --exit-at-end -o ndjson"), "pub copy --in ndjson --no-receipts")
	if copied.exit != exitOK {
		t.Fatalf("copy: %+v", copied)
	}
	if first, second := order(c, "t"), order(c, "copy"); first != want.String() || second != first {
		t.Errorf("orders differ: %d, %d and %d bytes", want.Len(), len(first), len(second))
	}
	for _, row := range c.items("group lag g") {
		if row["lag"] != 0.0 {
			t.Errorf("not all committed: %v", row)
		}
	}
}

// order is the bodies of one message group, as they come.
func order(c *cli, topic string) string {
	c.t.Helper()
	var bodies strings.Builder
	var d lineDecoder
	for line := range strings.Lines(c.ok("sub " + topic + " --from earliest --exit-at-end -o ndjson")) {
		m, err := d.message([]byte(line))
		if err != nil {
			c.t.Fatal(err)
		}
		if m.Group == "g3" {
			bodies.WriteString(string(m.Body) + " ")
		}
	}
	return bodies.String()
}

func TestSub_CopyIsFaithful(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	c.ok("topic create copy --queues 1")
	in := `{"messageId":"000102030405060708090a0b0c0d0e0f","tag":"a","keys":["k","l"],"messageGroup":"g","properties":{"p":"q\n","":""},"bornTime":"2024-01-02T03:04:05.678Z","body":"/w==","bodyEncoding":"base64"}`
	in = strings.Replace(in, `,"":""`, "", 1)
	if r := c.feed(in, "pub t --in ndjson"); r.exit != exitOK {
		t.Fatalf("%+v", r)
	}
	first := c.ok("sub t --from earliest --count 1 -o ndjson")
	if r := c.feed(first, "pub copy --in ndjson"); r.exit != exitOK {
		t.Fatalf("%+v", r)
	}
	second := c.ok("sub copy --from earliest --count 1 -o ndjson")
	cut := func(line string) string { // what the broker says of it is new
		from, to := strings.Index(line, `,"topic"`), strings.Index(line, `,"tag"`)
		stored, counted := strings.Index(line, `,"storeTime"`), strings.Index(line, `,"reconsumeTimes"`)
		return line[:from] + line[to:stored] + line[counted:]
	}
	if cut(first) != cut(second) || !strings.Contains(second, `"messageId":"000102030405060708090a0b0c0d0e0f"`) ||
		!strings.Contains(second, `"bornTime":"2024-01-02T03:04:05.678Z"`) {
		t.Errorf("got  %s\nwant %s", second, first)
	}
}

func TestSub_From(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	for _, body := range []string{"a", "b", "c"} {
		c.ok("pub t " + body)
	}
	for from, want := range map[string]string{"earliest": "a\nb\nc\n", "1": "b\nc\n", "-1h": "a\nb\nc\n", "2100-01-01T00:00:00Z": "", "latest": ""} {
		if got := c.ok("sub t --exit-at-end --raw --from " + from); got != want {
			t.Errorf("%s: got %q, want %q", from, got, want)
		}
	}
	if got := c.ok("sub t --from earliest --count 2 --raw"); got != "a\nb\n" {
		t.Errorf("count: got %q", got)
	}
	if got := c.ok("sub t --from 2 --idle-timeout 2s --raw"); got != "c\n" {
		t.Errorf("idle: got %q", got)
	}
	c.fails(exitUnavailable, "3 of 4 messages came", "sub t --from earliest --count 4 --idle-timeout 2s")
}

func TestSub_OfSeveralTopics(t *testing.T) {
	c := newCLI(t)
	c.ok("pub a one")
	c.ok("pub b two")
	got := c.ok("sub a b --from earliest --exit-at-end --raw")
	if got != "one\ntwo\n" && got != "two\none\n" {
		t.Errorf("got %q", got)
	}
}

// subscriber is `rmq sub` in the background.
type subscriber struct {
	lines  *io.PipeReader
	stderr *io.PipeReader
	exit   chan int
	stop   context.CancelCauseFunc
}

func (c *cli) subscribe(line string) *subscriber {
	c.t.Helper()
	ctx, stop := context.WithCancelCause(c.t.Context())
	r, w := io.Pipe()
	re, we := io.Pipe()
	s := &subscriber{lines: r, stderr: re, exit: make(chan int, 1), stop: stop}
	args := c.args(line)
	go func() {
		code := Run(ctx, args, strings.NewReader(""), w, we)
		w.Close()
		we.Close()
		s.exit <- code
	}()
	c.t.Cleanup(func() { stop(nil) })
	return s
}

// next reads up to the end of a line.
func next(t *testing.T, r io.Reader) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if n, err := r.Read(b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		} else if n == 0 {
			continue
		}
		if b[0] == '\n' {
			return string(line)
		}
		line = append(line, b[0])
	}
}

func TestSub_FollowsAndEndsBySignal(t *testing.T) {
	for cause, want := range map[error]int{errTerminated: exitOK, errInterrupted: exitInterrupted} {
		c := newCLI(t)
		c.ok("topic create t --queues 2")
		s := c.subscribe("sub t --raw")
		if got := next(t, s.stderr); got != "reading 2 queues of t" {
			t.Fatalf("got %q", got)
		}
		for _, body := range []string{"a", "b"} {
			c.ok("pub t " + body)
			if got := next(t, s.lines); got != body {
				t.Errorf("got %q, want %q", got, body)
			}
		}
		s.stop(cause)
		go io.Copy(io.Discard, s.stderr)
		if got := <-s.exit; got != want {
			t.Errorf("%v: exit %d, want %d", cause, got, want)
		}
	}
}

func TestSub_WaitsForATopicThatDoesNotExist(t *testing.T) {
	c := newCLI(t)
	s := c.subscribe("sub later --raw --from earliest --count 1")
	if got := next(t, s.stderr); !strings.Contains(got, `topic "later" is not known yet; waiting for it`) {
		t.Fatalf("got %q", got)
	}
	go io.Copy(io.Discard, s.stderr)
	c.ok("pub later hello")
	if got := next(t, s.lines); got != "hello" {
		t.Errorf("got %q", got)
	}
	if got := <-s.exit; got != exitOK {
		t.Errorf("exit %d", got)
	}
}

func TestSub_WhatCouldNotBeWrittenIsNotConsumed(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	for _, body := range []string{"a", "b", "c"} {
		c.ok("pub t " + body)
	}
	code := Run(t.Context(), c.args("sub t --group g --from earliest --raw"), strings.NewReader(""), brokenPipe{}, io.Discard)
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	if got := c.ok("sub t --group g --from earliest --exit-at-end --raw"); got != "a\nb\nc\n" {
		t.Errorf("got %q", got)
	}
}

func TestSub_GoesOnAfterARestart(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create t --queues 1")
	s := c.subscribe("sub t --group g --from earliest --raw --count 2 -q")
	go io.Copy(io.Discard, s.stderr)
	c.ok("pub t a")
	if got := next(t, s.lines); got != "a" {
		t.Fatalf("got %q", got)
	}
	c.cluster.Restart()
	c.ok("pub t b")
	if got := next(t, s.lines); got != "b" {
		t.Fatalf("got %q", got)
	}
	if got := <-s.exit; got != exitOK {
		t.Errorf("exit %d", got)
	}
	rows := c.items("group lag g")
	if rows[0]["lag"] != 0.0 || rows[0]["committed"] != 2.0 {
		t.Errorf("got %v", rows)
	}
}

func TestPub_ABrokenStdoutEndsItQuietly(t *testing.T) {
	c := newCLI(t)
	var stderr bytes.Buffer
	code := Run(t.Context(), c.args("pub t x"), strings.NewReader(""), brokenPipe{}, &stderr)
	if code != exitOK || stderr.Len() > 0 {
		t.Errorf("exit %d, stderr %q", code, stderr.String())
	}
}

func TestPub_AnInterruptionSaysHowFarItCame(t *testing.T) {
	c := newCLI(t)
	ctx, stop := context.WithCancelCause(t.Context())
	in, feed := io.Pipe()
	out, receipts := io.Pipe()
	var stderr bytes.Buffer
	args := c.args("pub t --in lines -o name")
	exit := make(chan int, 1)
	go func() {
		code := Run(ctx, args, in, receipts, &stderr)
		receipts.Close()
		exit <- code
	}()
	fmt.Fprintln(feed, "one")
	if id := next(t, out); len(id) != 32 {
		t.Fatalf("got %q", id)
	}
	stop(errInterrupted)
	if got := <-exit; got != exitInterrupted || !strings.Contains(stderr.String(), "1 messages were sent") {
		t.Errorf("exit %d, stderr %q", got, stderr.String())
	}
	feed.Close()
}
