package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/sequence"
)

// running is `rmq server` in this process.
type running struct {
	Listen, HTTP, Data, Role string

	stop context.CancelCauseFunc
	exit chan int
	log  chan string // the rest of its log
}

// startServer runs a server with free ports and waits until it is ready.
func startServer(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, stop := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	s := &running{stop: stop, exit: make(chan int, 1), log: make(chan string, 1)}
	args = append([]string{"server", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}, args...)
	var stderr bytes.Buffer
	go func() {
		code := Run(ctx, args, strings.NewReader(""), w, &stderr)
		w.Close()
		s.exit <- code
	}()
	lines := bufio.NewScanner(r)
	for s.Listen == "" && lines.Scan() {
		var line struct{ Msg, Listen, HTTP, Data, Role string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
			s.Listen, s.HTTP, s.Data, s.Role = line.Listen, line.HTTP, line.Data, line.Role
		}
	}
	if s.Listen == "" {
		t.Fatalf("exit %d before it was ready: %s", <-s.exit, stderr.String())
	}
	go func() {
		rest, _ := io.ReadAll(r)
		s.log <- string(rest)
	}()
	t.Cleanup(func() { stop(errTerminated); <-s.log })
	return s
}

// end stops it as a signal does and returns the exit code.
func (s *running) end(cause error) int {
	s.stop(cause)
	return <-s.exit
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestServer_StandaloneServesAndKeepsItsData(t *testing.T) {
	dir := t.TempDir()
	for i, cause := range []error{errTerminated, errInterrupted} {
		s := startServer(t, "--data", dir, "--default-queues", "3")
		if s.Role != roleAll || s.Data != dir {
			t.Errorf("got %+v", s)
		}
		if r := result0(t, "pub orders hello -n "+s.Listen); r.exit != exitOK {
			t.Fatalf("%+v", r)
		}
		r := result0(t, "topic describe orders -o json -n "+s.Listen)
		if !strings.Contains(r.stdout, `"writeQueues": 3`) || !strings.Contains(r.stdout, fmt.Sprintf(`"messages": %d`, i+1)) {
			t.Errorf("start %d: %+v", i, r)
		}
		for _, path := range []string{"/livez", "/readyz"} {
			if code, body := get(t, "http://"+s.HTTP+path); code != http.StatusOK || body != "ok\n" {
				t.Errorf("%s: %d %q", path, code, body)
			}
		}
		if code := s.end(cause); code != exitOK {
			t.Errorf("%v: exit %d", cause, code)
		}
	}
}

func TestServer_NameServerAndBrokerMakeACluster(t *testing.T) {
	ns := startServer(t, "nameserver")
	b := startServer(t, "broker", "--namesrv", ns.Listen, "--data", t.TempDir(), "--name", "b1", "--cluster", "c1")
	if ns.Role != roleNameServer || b.Role != roleBroker {
		t.Errorf("got %+v and %+v", ns, b)
	}
	if r := result0(t, "cluster health --wait -n "+ns.Listen); r.exit != exitOK {
		t.Fatalf("%+v", r)
	}
	r := result0(t, "cluster info -o json -n "+ns.Listen)
	for _, want := range []string{`"cluster": "c1"`, `"broker": "b1"`, `"flushMode": "SYNC_FLUSH"`, b.Listen} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%s is missing in %s", want, r.stdout)
		}
	}
	if r := result0(t, "pub orders hello -n "+ns.Listen); r.exit != exitOK {
		t.Fatalf("%+v", r)
	}
	if r := result0(t, "sub orders --from earliest --exit-at-end --raw -n "+ns.Listen); r.stdout != "hello\n" {
		t.Errorf("%+v", r)
	}
	if code := b.end(errTerminated); code != exitOK {
		t.Errorf("broker: exit %d", code)
	}
	if r := result0(t, "cluster health -n "+ns.Listen); r.exit != exitUnavailable || !strings.Contains(r.stderr, "no broker is registered") {
		t.Errorf("a broker that left is in the routes: %+v", r)
	}
	if code := ns.end(errTerminated); code != exitOK {
		t.Errorf("name server: exit %d", code)
	}
}

func TestServer_SecondOneIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := startServer(t, "--data", dir)
	for _, c := range []struct{ args, text string }{
		{"--listen 127.0.0.1:0 --http none --data " + dir, fmt.Sprintf("error[DATA_IN_USE]: data directory is in use: %s is held by process %d", dir, os.Getpid())},
		{"--http none --data " + t.TempDir() + " --listen " + s.Listen, "error[ADDRESS_IN_USE]: listen on " + s.Listen},
		{"--listen 127.0.0.1:0 --data " + t.TempDir() + " --http " + s.HTTP, "error[ADDRESS_IN_USE]: listen on " + s.HTTP},
	} {
		if r := result0(t, "server "+c.args); r.exit != exitConflict || !strings.Contains(r.stderr, c.text) {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	if r := result0(t, "cluster health -n "+s.Listen); r.exit != exitOK {
		t.Errorf("the first one suffers: %+v", r)
	}
}

func TestServer_WithoutAutoCreationAndWithAsyncFlush(t *testing.T) {
	s := startServer(t, "--data", t.TempDir(), "--auto-create-topics=false", "--flush", "async")
	if r := result0(t, "pub orders x --send-timeout 5s -n "+s.Listen); r.exit != exitNotFound {
		t.Errorf("%+v", r)
	}
	if r := result0(t, "cluster info -o wide -n "+s.Listen); !strings.Contains(r.stdout, "ASYNC_FLUSH") {
		t.Errorf("%+v", r)
	}
}

func TestServer_Mistakes(t *testing.T) {
	for _, c := range []struct{ line, text string }{
		{"server broke", `did you mean "broker"?`},
		{"server all broker", "one too many"},
		{"server --namesrv x:1", `--namesrv has no meaning for "rmq server all"`},
		{"server nameserver --data x", "--data has no meaning"},
		{"server --namesrv-endpoint http://x", "--namesrv-endpoint is for clients"},
		{"server --listen 0.0.0.0:0", "--insecure allows it"},
		{"server --listen :0", "--insecure allows it"},
		{"server --http example.com:80", "--insecure allows it"},
		{"server --listen localhost", "want HOST:PORT"},
		{"server --listen localhost:99999", "want a port from 0 to 65535"},
		{"server --flush never", "want sync or async"},
		{"server --log-level loud", "log.level"},
		{"server --name a.b", "character '.'"},
		{"server --cluster a%", "character '%'"},
		{"server --id -1", "want a number from 0"},
		{"server --default-queues 0", "want a number from 1 to 1024"},
		{"server --advertise nowhere", "want HOST:PORT"},
		{"server --retention 0", "want a duration of at least 1s"},
		{"server --retention 999ms", "want a duration of at least 1s"},
		{"server --retention -1h", "want a duration of at least 1s"},
		{"server --retention 0d", "want a duration of at least 1s"},
		{"server --retention default", "want a duration of at least 1s"},
		{"server --retention-bytes -1", "want a number of bytes"},
		{"server --retention-bytes 10GG", "want a number of bytes"},
		{"server nameserver --retention 72h", "--retention has no meaning"},
		{"server --config /does/not/exist", "does not exist"},
		{"server --dta x", "did you mean --data?"},
	} {
		r := result0(t, c.line)
		if r.exit != exitUsage || !strings.Contains(r.stderr, c.text) {
			t.Errorf("rmq %s: exit %d, stderr %q", c.line, r.exit, r.stderr)
		}
	}
	r := result0(t, "server --flush never --name a.b --default-queues 0")
	if !strings.Contains(r.stderr, "want sync or async; broker.name") || !strings.Contains(r.stderr, "; broker.topic.default-queues") {
		t.Errorf("not every fault is named: %s", r.stderr)
	}
}

func TestServer_SettingsOfAllLayers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rmq.yaml")
	write(t, file, `
broker:
  name: from-file
  id: 1
  topic: {default-queues: 4, auto-create: false}
  retention: {age: 7d, bytes: 10GiB}
  disk: {warn: 60}
rocketmq.namesrv.addr: [a:1, b:2]
`)
	t.Setenv("RMQ_BROKER_ID", "2")
	t.Setenv("RMQ_BROKER_DISK_REFUSE", "95")
	t.Setenv("RMQ_BROKER_TOPIC_DEFAULT_QUEUES", "5")
	r := result0(t, "server broker --check-config -o json --data /data --default-queues 6 --config "+file)
	golden(t, "check-config.json", []byte(strings.ReplaceAll(r.stdout, file, "FILE")))
	if r.exit != exitOK {
		t.Errorf("%+v", r)
	}
	golden(t, "check-config.txt", []byte(result0(t, "server nameserver --check-config").stdout))
}

func TestServer_BadFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rmq.yaml")
	for text, want := range map[string]string{
		"broker:\n  nmae: x":                  `:2: unknown key "broker.nmae"`,
		"broker:\n  store:\n    pth: x":       `did you mean "broker.store.path"`,
		"zzz: 1":                              "--check-config lists all keys",
		"just text":                           ":1: want \"key: value\"",
		"broker: [":                           "did not find",
		"broker:\n  name:\n    - {a: b}":      ":3: want a value",
		"broker: 5":                           `unknown key "broker"`,
		"listen: 127.0.0.1:1\nbroker.id: one": `broker.id "one" (` + file + `:2): want a number`,
		"broker.disk.warn: 86":                `broker.disk.clean "85" (default): want a number from 86 to 100`,
		"broker.disk.refuse: 101":             "want a number from 85 to 100",
		"broker.disk.clean: 0":                "want a number from 75 to 100",
		"broker.disk.plenty: 0":               "want a number of bytes",
		"broker.delay.levels: 1s soon":        `"soon" is not a duration`,
		"broker.delay.levels: ''":             "want one duration at least",
		"broker.delay.max: 9000h":             "want a duration from 1ms to 8784h0m0s",
		"broker.transaction.first-check: 0s":  "want a duration from 1ms",
		"broker.transaction.max-checks: 0":    "want a number from 1",
		"broker.dedup.window: x":              "want a duration from 1s",
		"broker.producer.max: 0":              "want a number from 1 to 100000000",
		"broker.dedup.max-keys: 100000001":    "want a number from 1 to 100000000",
	} {
		write(t, file, text)
		if r := result0(t, "server --config "+file); r.exit != exitUsage || !strings.Contains(r.stderr, want) {
			t.Errorf("%q: exit %d, stderr %q, want %q", text, r.exit, r.stderr, want)
		}
	}
	write(t, file, "")
	if r := result0(t, "server --check-config --config "+file); r.exit != exitOK {
		t.Errorf("an empty file: %+v", r)
	}
}

// What a broker remembers of producers and keys is as the settings say, and by
// default as package broker does.
func TestServer_Idempotence(t *testing.T) {
	config := func(values map[string]string) broker.Idempotence {
		var settings []setting
		for _, k := range serverKnobs(roleAll) {
			v, given := values[k.key]
			if !given {
				v = k.def
			}
			settings = append(settings, setting{Key: k.key, Value: v})
		}
		c, err := newServerConfig(roleAll, settings)
		if err != nil {
			t.Fatal(err)
		}
		return c.idempotence
	}
	if got, want := config(nil), (broker.Idempotence{ProducerExpiry: 24 * time.Hour, MaxProducers: sequence.DefaultLimit, DedupWindow: 24 * time.Hour, MaxDedupKeys: dedup.DefaultLimit}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got := config(map[string]string{"broker.producer.expiry": "30h", "broker.producer.max": "7", "broker.dedup.window": "2h", "broker.dedup.max-keys": "9"})
	if want := (broker.Idempotence{ProducerExpiry: 30 * time.Hour, MaxProducers: 7, DedupWindow: 2 * time.Hour, MaxDedupKeys: 9}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestServer_EveryKnobHasAFlag(t *testing.T) {
	a := &app{out: io.Discard, err: io.Discard}
	root := a.root()
	c, _, err := root.Find([]string{"server"})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		for _, k := range serverKnobs(role) {
			if f := findFlag(c, k.flag); !f && k.flag != noFlag {
				t.Errorf("knob %s: no flag --%s", k.key, k.flag)
			}
		}
	}
}

func findFlag(c *cobra.Command, name string) bool {
	return c.Flags().Lookup(name) != nil || c.InheritedFlags().Lookup(name) != nil
}

func TestHealth_ReadyFollowsTheServer(t *testing.T) {
	var h health
	if err := h.open("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	url := "http://" + h.addr() + "/readyz"
	var refusing error
	ask := func(wantCode int, wantBody string) {
		t.Helper()
		if code, body := get(t, url); code != wantCode || body != wantBody {
			t.Errorf("got %d %q, want %d %q", code, body, wantCode, wantBody)
		}
	}
	ask(http.StatusServiceUnavailable, "starting\n")
	h.watch(func() error { return refusing })
	h.set("")
	ask(http.StatusOK, "ok\n")
	refusing = io.ErrShortWrite
	ask(http.StatusServiceUnavailable, "short write\n")
	refusing = nil
	h.set("stopping")
	ask(http.StatusServiceUnavailable, "stopping\n")
	if err := h.close(); err != nil {
		t.Error(err)
	}
}
