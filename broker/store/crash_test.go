package store

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killCycles is how often TestLog_SurvivesKill kills; `make chaos` raises it.
var killCycles = flag.Int("kill-cycles", 200, "SIGKILLs of TestLog_SurvivesKill")

const writerEnv = "RMQ_STORE_TEST_WRITER"

// TestWriterProcess is not a test: it is what TestLog_SurvivesKill runs and
// kills. It appends to four queues and prints every acknowledgement.
func TestWriterProcess(t *testing.T) {
	dir := os.Getenv(writerEnv)
	if dir == "" {
		return
	}
	l, err := Open(dir, small())
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	out := bufio.NewWriter(os.Stdout)
	acks := make(chan Committed, 1024)
	go func() {
		for i := 0; ; i++ {
			q := uint32(i % 4)
			_, end := l.Bounds(QueueKey{testTopic, q})
			for range 1 + rand.IntN(8) {
				r := messages(q, int(end), 1+rand.IntN(3), rand.IntN(4000))
				end += int64(r.Count)
				// A later append of the queue waits for this one's answer, so that the
				// bodies say the offsets.
				done := make(chan struct{})
				if err := l.Append(r, func(c Committed, err error) { acks <- c; close(done) }); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				<-done
			}
		}
	}()
	for c := range acks {
		fmt.Fprintln(out, c.Queue.Queue, c.BaseOffset+int64(c.Count))
		if len(acks) == 0 {
			out.Flush()
		}
	}
}

// TestLog_SurvivesKill kills a writing process at random moments and opens its
// log: every acknowledged message is there, offsets are dense, bodies are right.
func TestLog_SurvivesKill(t *testing.T) {
	dir := t.TempDir()
	var acked [4]int64
	rolled := 0
	for cycle := range *killCycles {
		writeUntilKilled(t, dir, time.Duration(rand.IntN(40))*time.Millisecond, &acked)
		l, err := Open(dir, small())
		if err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		for q, want := range acked {
			end, err := readAll(l, uint32(q), 0)
			if err != nil || end < want {
				t.Fatalf("cycle %d: queue %d has %d messages, %d were acknowledged: %v", cycle, q, end, want, err)
			}
		}
		rolled = l.Status().Segments
		mustClose(t, l)
		if rolled > 6 { // reading it all in each cycle should not take ever longer
			dir, acked = t.TempDir(), [4]int64{}
		}
	}
	t.Logf("%d kills, %v messages acknowledged in the last directory, %d segments", *killCycles, acked, rolled)
}

// writeUntilKilled runs the writer, kills it some time after its first
// acknowledgement, and records what was acknowledged.
func writeUntilKilled(t *testing.T, dir string, after time.Duration, acked *[4]int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriterProcess$")
	cmd.Env = append(os.Environ(), writerEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var kill *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if kill == nil {
			kill = time.AfterFunc(after, func() { cmd.Process.Signal(syscall.SIGKILL) })
		}
		q, end, ok := parseAck(lines.Text())
		if !ok {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			continue // a line that the kill cut short acknowledges nothing
		}
		acked[q] = max(acked[q], end)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the writer was not killed: %v", err)
	}
}

func parseAck(line string) (queue int, end int64, ok bool) {
	a, b, found := strings.Cut(line, " ")
	queue, err1 := strconv.Atoi(a)
	end, err2 := strconv.ParseInt(b, 10, 64)
	return queue, end, found && err1 == nil && err2 == nil && queue >= 0 && queue < 4
}

// TestLog_ReopensAfterAFailedCommit makes a commit fail and sees the log refuse,
// reopen the segment by itself and go on, with nothing acknowledged lost.
func TestLog_ReopensAfterAFailedCommit(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	for i := range 20 {
		mustAppend(t, l, messages(0, i, 1, 100))
	}
	active := l.catalog.segments()[0]
	active.mu.Lock()
	if err := active.db.Close(); err != nil { // the next commit fails
		t.Fatal(err)
	}
	active.mu.Unlock()
	if _, err := appendWait(t, l, messages(0, 20, 1, 100)); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("got %v, want ErrPoisoned", err)
	}
	if err := l.Status().Refusing; !errors.Is(err, ErrPoisoned) {
		t.Fatalf("the log does not refuse: %v", err)
	}
	eventually(t, func() bool { return l.Status().Refusing == nil })
	wantQueue(t, l, 0, 0, 20)
	if c := mustAppend(t, l, messages(0, 20, 1, 100)); c.BaseOffset != 20 || c.Index != 21 {
		t.Fatalf("after reopening got index %d offset %d", c.Index, c.BaseOffset)
	}
	mustClose(t, l)
	l = mustOpen(t, dir, small())
	wantQueue(t, l, 0, 0, 21)
}

// TestLog_CloseEndsAnAppendThatCannotSucceed closes a log that refuses.
func TestLog_CloseWhileRefusing(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	active := l.catalog.segments()[0]
	if err := os.Rename(active.path, active.path+".away"); err != nil {
		t.Fatal(err)
	}
	active.mu.Lock()
	active.db.Close()
	active.mu.Unlock()
	if _, err := appendWait(t, l, messages(0, 0, 1, 100)); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("got %v, want ErrPoisoned", err)
	}
	mustClose(t, l)
}

func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatal("it did not happen in time")
		case <-tick.C:
		}
	}
}
