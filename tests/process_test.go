package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

// load sends to a topic until stop is called, and keeps every receipt.
type load struct {
	t        *testing.T
	producer *producer.Producer
	stopped  chan struct{}
	senders  sync.WaitGroup

	mu       sync.Mutex
	receipts []producer.Receipt
}

// startLoad sends from several goroutines, one message after another in each
// and many under way, through interruptions of up to harness.Timeout.
func startLoad(t *testing.T, nameServer string) *load {
	t.Helper()
	p, err := producer.New(t.Context(), producer.Config{NameServers: []string{nameServer}, SendTimeout: 2 * harness.Timeout})
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, producer: p, stopped: make(chan struct{})}
	for s := range 4 {
		l.senders.Go(func() { l.send(s) })
	}
	return l
}

func (l *load) send(sender int) {
	for i := 0; ; i++ {
		select {
		case <-l.stopped:
			return
		default:
		}
		m := &message.Message{Topic: "load", Body: fmt.Appendf(nil, "%d-%d-%s", sender, i, strings.Repeat("x", rand.IntN(500)))}
		if i%64 == 0 { // so that the load is bounded by the disk
			r, err := l.producer.Send(l.t.Context(), m)
			l.took(r, err)
			continue
		}
		l.producer.SendAsync(l.t.Context(), m, l.took)
	}
}

func (l *load) took(r producer.Receipt, err error) {
	if err != nil {
		l.t.Errorf("send: %v", err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, r)
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.receipts)
}

// awaitMore waits until n more messages are acknowledged.
func (l *load) awaitMore(n int) {
	l.t.Helper()
	want := l.count() + n
	harness.Eventually(l.t, fmt.Sprintf("%d acknowledgements", want), func() bool { return l.count() >= want })
}

func (l *load) stop() []producer.Receipt {
	l.t.Helper()
	close(l.stopped)
	l.senders.Wait()
	if err := l.producer.Close(context.WithoutCancel(l.t.Context())); err != nil {
		l.t.Errorf("close producer: %v", err)
	}
	return l.receipts
}

// checkStored reads the whole topic: offsets are dense from 0 on in each queue,
// and every receipt's message is at the receipt's offset.
func checkStored(t *testing.T, nameServer string, receipts []producer.Receipt) {
	t.Helper()
	c, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: []string{nameServer}, From: consumer.Earliest(),
		Subscriptions: []consumer.Subscription{{Topic: "load"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	stored := map[message.Queue][]message.ID{}
	for d, err := range c.MessagesToEnd(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(len(stored[d.Queue])); d.QueueOffset != want {
			t.Fatalf("%v: offset %d where %d was expected", d.Queue, d.QueueOffset, want)
		}
		stored[d.Queue] = append(stored[d.Queue], d.ID)
	}
	for _, r := range receipts {
		if ids := stored[r.Queue]; r.Offset >= int64(len(ids)) || ids[r.Offset] != r.MessageID {
			t.Fatalf("acknowledged message %v is not at %v offset %d", r.MessageID, r.Queue, r.Offset)
		}
	}
	t.Logf("%d messages acknowledged, all stored", len(receipts))
}

func serverArgs(dir, listen string) []string {
	return []string{"--data", dir, "--listen", listen, "--http", "none"}
}

// TestProcess_SurvivesKill kills the real server under load, again and again.
func TestProcess_SurvivesKill(t *testing.T) {
	binary, dir := harness.Binary(t), t.TempDir()
	p := harness.StartProcess(t, binary, serverArgs(dir, "127.0.0.1:0")...)
	l := startLoad(t, p.Listen)
	for range 10 {
		l.awaitMore(500 + rand.IntN(3000))
		p.Kill()
		p = harness.StartProcess(t, binary, serverArgs(dir, p.Listen)...)
	}
	l.awaitMore(500)
	checkStored(t, p.Listen, l.stop())
}

// TestProcess_DrainsOnTERM ends the server in good order under load: it exits
// with 0, and what was acknowledged is there when it comes back.
func TestProcess_DrainsOnTERM(t *testing.T) {
	binary, dir := harness.Binary(t), t.TempDir()
	p := harness.StartProcess(t, binary, serverArgs(dir, "127.0.0.1:0")...)
	l := startLoad(t, p.Listen)
	for range 3 {
		l.awaitMore(2000)
		p.Signal(syscall.SIGTERM)
		if code := p.Wait(); code != 0 {
			t.Fatalf("exit code %d\n%s", code, p.Log())
		}
		p = harness.StartProcess(t, binary, serverArgs(dir, p.Listen)...)
	}
	checkStored(t, p.Listen, l.stop())
}

// TestProcess_ClientsOutliveAnOutage stops the server for 20 s: producer and
// consumer go on by themselves.
func TestProcess_ClientsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	binary, dir := harness.Binary(t), t.TempDir()
	p := harness.StartProcess(t, binary, serverArgs(dir, "127.0.0.1:0")...)
	l := startLoad(t, p.Listen)
	l.awaitMore(1000)
	got := consumeLoad(t, p.Listen)
	p.Kill()
	outage := time.NewTimer(20 * time.Second)
	<-outage.C
	p = harness.StartProcess(t, binary, serverArgs(dir, p.Listen)...)
	l.awaitMore(1000)
	receipts := l.stop()
	harness.Eventually(t, "the group gets all that was acknowledged", func() bool { return got.hasAll(receipts) })
	checkStored(t, p.Listen, receipts)
}

// received is what a push consumer got.
type received struct {
	mu  sync.Mutex
	ids map[message.ID]int
}

func consumeLoad(t *testing.T, nameServer string) *received {
	t.Helper()
	r := &received{ids: map[message.ID]int{}}
	c, err := consumer.NewPush(t.Context(), consumer.Config{
		NameServers: []string{nameServer}, Group: "outage", From: consumer.Earliest(),
		Subscriptions: []consumer.Subscription{{Topic: "load"}},
	}, func(_ context.Context, d *consumer.Delivery) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ids[d.ID]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("consumer: %v", err)
		}
	})
	return r
}

func (r *received) hasAll(receipts []producer.Receipt) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, want := range receipts {
		if r.ids[want.MessageID] == 0 {
			return false
		}
	}
	return true
}

// TestProcess_RefusesASecondServer tries the same directory and the same port.
func TestProcess_RefusesASecondServer(t *testing.T) {
	binary, dir := harness.Binary(t), t.TempDir()
	p := harness.StartProcess(t, binary, serverArgs(dir, "127.0.0.1:0")...)
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"directory", serverArgs(dir, "127.0.0.1:0"), "process"},
		{"port", serverArgs(t.TempDir(), p.Listen), p.Listen},
	} {
		out, err := exec.CommandContext(t.Context(), binary, append([]string{"server"}, c.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("the same %s: %v, and the output does not name %q:\n%s", c.name, err, c.want, out)
		}
	}
}

// TestProcess_SeparateRoles runs name server and broker as two processes, and
// restarts the name server.
func TestProcess_SeparateRoles(t *testing.T) {
	binary := harness.Binary(t)
	ns := harness.StartProcess(t, binary, "nameserver", "--listen", "127.0.0.1:0", "--http", "none")
	b := harness.StartProcess(t, binary, append([]string{"broker", "--namesrv", ns.Listen}, serverArgs(t.TempDir(), "127.0.0.1:0")...)...)
	if b.Listen == ns.Listen {
		t.Fatalf("both listen on %s", b.Listen)
	}
	l := startLoad(t, ns.Listen)
	l.awaitMore(1000)
	ns.Kill()
	l.awaitMore(1000) // data does not pass the name server
	ns = harness.StartProcess(t, binary, "nameserver", "--listen", ns.Listen, "--http", "none")
	harness.Eventually(t, "the name server knows the broker again", func() bool {
		out, err := exec.CommandContext(t.Context(), binary, "topic", "route", "load", "--namesrv", ns.Listen).CombinedOutput()
		return err == nil && strings.Contains(string(out), b.Listen)
	})
	checkStored(t, ns.Listen, l.stop())
}
