package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

// read gives what an input yields until its end or its first error.
func read(in string, f pubFlags) ([]*message.Message, error) {
	var ms []*message.Message
	for m, err := range input(strings.NewReader(in), f) {
		if err != nil {
			return ms, err
		}
		ms = append(ms, m)
	}
	return ms, nil
}

func bodies(ms []*message.Message) string {
	var b []string
	for _, m := range ms {
		b = append(b, string(m.Body))
	}
	return strings.Join(b, "|")
}

func TestInput_Forms(t *testing.T) {
	long := strings.Repeat("x", 700<<10)
	for _, c := range []struct {
		name, form, in, want string
		count                int
	}{
		{"raw is one message", inRaw, "one\ntwo\n", "one\ntwo\n", 1},
		{"raw may be empty", inRaw, "", "", 1},
		{"raw may be repeated", inRaw, "x", "x|x|x", 3},
		{"a line is a message", inLines, "one\n\ntwo\r\n", "one||two\r", 0},
		{"the last line needs no newline", inLines, "one\ntwo", "one|two", 0},
		{"no line is no message", inLines, "", "", 0},
		{"a line may be long", inLines, long + "\nx\n", long + "|x", 0},
		{"empty lines of ndjson are skipped", inNDJSON, "{\"body\":\"a\"}\n\n  \n{\"body\":\"b\"}", "a|b", 0},
		{"an object may be empty", inNDJSON, "{}\n", "", 0},
	} {
		ms, err := read(c.in, pubFlags{in: c.form, count: c.count})
		if err != nil || bodies(ms) != c.want {
			t.Errorf("%s: got %d messages of %.40q, %v", c.name, len(ms), bodies(ms), err)
		}
	}
}

func TestInput_ABadLineIsNamed(t *testing.T) {
	for _, c := range []struct {
		form, in, reason string
		good             int
	}{
		{inNDJSON, "{\"body\":\"a\"}\n{\"tag\":1}\n", "line 2: column 8", 1},
		{inNDJSON, "{\"body\":\"a\"}\n\nx\n", "line 3:", 1},
		{inNDJSON, `{"keys":["a b"]}`, "line 1: illegal message", 0},
		{inLines, "a\n" + strings.Repeat("x", message.MaxBodyBytes+1), "line 2: message body too large", 1},
		{inNDJSON, "\n" + strings.Repeat("x", maxLineBytes+1), "line 2: longer than", 0},
	} {
		ms, err := read(c.in, pubFlags{in: c.form})
		var f *Failure
		if !errors.As(err, &f) || f.Code != "BAD_INPUT" || !strings.HasPrefix(f.Message, c.reason) || len(ms) != c.good {
			t.Errorf("%.30q: got %d messages, %v", c.in, len(ms), err)
		}
	}
	if _, err := read(strings.Repeat("x", message.MaxBodyBytes+1), pubFlags{in: inRaw, count: 1}); !errors.Is(err, message.ErrBodyTooLarge) {
		t.Errorf("got %v", err)
	}
}

func TestInput_MessagesDoNotShareMemory(t *testing.T) {
	ms, err := read("aaa\nbbb\n", pubFlags{in: inLines})
	if err != nil || bodies(ms) != "aaa|bbb" {
		t.Fatalf("got %q, %v", bodies(ms), err)
	}
}

func TestPub_MistakesExitWithTwo(t *testing.T) {
	for _, c := range []struct{ line, message string }{
		{"pub", "argument TOPIC is missing"},
		{"pub t a b", `argument "b" is one too many`},
		{"pub a.b x", "character '.'"},
		{"pub %RETRY%g x", "reserved"},
		{"pub t --in csv", `--in "csv" is not known`},
		{"pub t body --in lines", "--in lines reads stdin"},
		{"pub t - --in lines --count 2", "--count repeats one body"},
		{"pub t x --count 0", "--count 0"},
		{"pub t x --count -1", "--count -1"},
		{"pub t x --send-timeout 0s", "--send-timeout 0s"},
		{"pub t x --prop a", `--prop "a": want NAME=VALUE`},
		{"pub t x --prop =a", `want NAME=VALUE`},
		{"pub t x --queue b/x", `--queue "b/x": want BROKER/N or N`},
		{"pub t x --queue -1", `--queue "-1"`},
		{"pub t x --queue /1", `--queue "/1"`},
		{"pub t x --sync --oneway", "--sync and --oneway exclude one another"},
		{"pub t x --sync --batch 2", "--sync and --batch exclude one another"},
		{"pub t x --batch -1", "--batch -1"},
		{"pub t x --rate -1", "--rate -1"},
		{"pub t x --rate NaN", "--rate NaN"},
		{"pub t x --delay -1s", "--delay -1s is negative"},
		{"pub t x --delay 9000h", "delay of 9000h0m0s"},
		{"pub t x --delay 1s --at +1s", "--delay and --at exclude one another"},
		{"pub t x --at tomorrow", `--at "tomorrow": want a time`},
		{"pub t x --at +-1s", `--at "+-1s": want a time`},
		{"pub t x --delay 1s --message-group g", "cannot be delayed"},
		{"pub t x --priority 10", "priority 10; 0 to 9"},
		{"pub t x --priority 1 --message-group g", "cannot have a priority"},
		{"pub t x --template a", "--template makes the bodies"},
		{"pub t --template {{.M}}", "--template: "},
		{"pub t --template {{.Line}}", ".Line only with --in lines"},
		{"pub t x --delay-level 0", "--delay-level 0: they begin with 1"},
		{"pub t --template {{", "--template: "},
		{"pub t --template {{random(0)}}", "--template: "},
		{"sub", "argument TOPIC is missing"},
		{"sub t --from soon", `--from "soon" is not a position`},
		{"sub t --count -1", "--count -1"},
		{"sub t --idle-timeout -1s", "--idle-timeout -1s"},
		{"sub t --raw -o json", "--raw"},
	} {
		r := run(t, "", strings.Fields(c.line)...)
		if r.exit != exitUsage || !strings.Contains(r.stderr, c.message) {
			t.Errorf("rmq %s: exit %d, stderr %q", c.line, r.exit, r.stderr)
		}
	}
}

func TestPub_NobodyAnswers(t *testing.T) {
	for _, line := range []string{"pub t x", "sub t"} {
		r := run(t, "", append(strings.Fields(line), "-n", "127.0.0.1:1", "--timeout", "2s")...)
		if r.exit != exitUnavailable || !strings.Contains(r.stderr, "rmq server") {
			t.Errorf("rmq %s: exit %d, stderr %q", line, r.exit, r.stderr)
		}
	}
}

func TestPubFlags_Apply(t *testing.T) {
	f := pubFlags{topic: "t", tag: "new", keys: []string{"k"}, group: "g"}
	props := map[string]string{"a": "1"}
	m := &message.Message{Topic: "old", Tag: "old", Properties: map[string]string{"a": "0", "b": "2"}}
	f.apply(m, props)
	if m.Topic != "t" || m.Tag != "new" || m.Keys[0] != "k" || m.Group != "g" || m.Properties["a"] != "1" || m.Properties["b"] != "2" {
		t.Errorf("got %+v", m)
	}
	m = &message.Message{Tag: "old", Group: "old"}
	(&pubFlags{topic: "t"}).apply(m, nil)
	if m.Tag != "old" || m.Group != "old" || m.Properties != nil {
		t.Errorf("got %+v", m)
	}
}

func TestPubFlags_QueueOfAnyBroker(t *testing.T) {
	for queue, ok := range map[string]bool{"": true, "0": true, "broker-a/3": true} {
		if _, err := (&pubFlags{queue: queue}).sendOptions(); (err == nil) != ok {
			t.Errorf("%q: %v", queue, err)
		}
	}
}

func TestReceipt_Forms(t *testing.T) {
	r := &receiptLine{Receipt: producer.Receipt{
		MessageID: message.MakeID(1, 2), Queue: message.Queue{Topic: "orders", Broker: "broker-a", ID: 3}, Offset: 12,
	}}
	golden(t, "receipt.ndjson", append(r.appendJSON(nil), '\n'))
	golden(t, "receipt.txt", append(r.appendText(nil), '\n'))
	r.Offset, r.RecallHandle, r.state, r.Duplicate = -1, "abc", "rollback", true
	golden(t, "receipt-special.ndjson", append(r.appendJSON(nil), '\n'))
	golden(t, "receipt-special.txt", append(r.appendText(nil), '\n'))
}

func TestStream_Forms(t *testing.T) {
	for _, form := range []string{outTable, outJSON, outYAML, outNDJSON, outName} {
		var out bytes.Buffer
		s := newStream(&app{out: &out, output: form})
		for i := range 2 {
			r := &receiptLine{Receipt: producer.Receipt{MessageID: message.MakeID(1, uint64(i)), Queue: message.Queue{Topic: "t", Broker: "b"}}}
			if err := s.add(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		golden(t, "stream-"+form+".txt", out.Bytes())
	}
}

// brokenPipe is a stdout whose reader has left.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestStream_RemembersAFailedWrite(t *testing.T) {
	s := newStream(&app{out: brokenPipe{}, output: outName})
	if err := s.add(&receiptLine{}); err != nil {
		t.Fatal("wrote at once")
	}
	if err := s.flush(); !readerGone(err) {
		t.Errorf("got %v", err)
	}
	if err := s.close(); !readerGone(err) {
		t.Errorf("forgotten: %v", err)
	}
}

func TestInterruptible_EndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	never, writer := io.Pipe()
	defer writer.Close()
	r, stop := interruptible(ctx, never)
	defer stop()
	cancel(errInterrupted)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errInterrupted) {
		t.Errorf("got %v", err)
	}
}

func TestTemplate_MakesBodies(t *testing.T) {
	f := pubFlags{in: inLines, template: `{{.N}}:{{.Line}}:{{len uuid}}`}
	tmpl, err := f.parseTemplate()
	if err != nil {
		t.Fatal(err)
	}
	var got []*message.Message
	for m, err := range templated(tmpl, input(strings.NewReader("a\nb\n"), f)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	if bodies(got) != "1:a:36|2:b:36" {
		t.Errorf("got %q", bodies(got))
	}
}

func TestTemplate_FailsAtTheMessageThatItCannotMake(t *testing.T) {
	f := pubFlags{count: 3, template: `{{if eq .N 3}}{{index .Line 9}}{{end}}x`}
	tmpl, err := f.parseTemplate()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err = range templated(tmpl, repeated(nil, f.count)) {
		n++
	}
	if n != 3 || err == nil || !strings.HasPrefix(err.Error(), "message 3: ") {
		t.Errorf("got %d messages, %v", n, err)
	}
}

func TestPace_EachMessageHasItsTime(t *testing.T) {
	p := newPace(10)
	defer p.stop()
	now := time.Unix(100, 0)
	for i, c := range []struct{ pass, left time.Duration }{
		{0, 0},
		{0, 100 * time.Millisecond},
		{100 * time.Millisecond, 100 * time.Millisecond},
		{350 * time.Millisecond, -150 * time.Millisecond}, // late: the next ones follow at once
		{0, -50 * time.Millisecond},
		{0, 50 * time.Millisecond},
	} {
		now = now.Add(c.pass)
		if left := p.take(now); left != c.left {
			t.Errorf("message %d: got %v, want %v", i, left, c.left)
		}
	}
	free := newPace(0)
	defer free.stop()
	for range 2 {
		if left := free.take(now); left != 0 {
			t.Errorf("without a rate a message waits %v", left)
		}
	}
}
