//go:build linux

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/tests/trap"
)

// How a child is told what to do.
const (
	roleEnv  = "RMQ_CRASH_ROLE"
	dirEnv   = "RMQ_CRASH_DIR"
	flushEnv = "RMQ_CRASH_FLUSH"
)

// Role is what a writer does.
type Role string

// The roles.
const (
	// Script does a fixed piece of work and ends: it fills segments, has the oldest
	// ones dropped, closes the log, opens it again, goes on, and closes it.
	Script Role = "script"
	// Load appends to all queues as fast as the log takes it, until it is killed.
	Load Role = "load"
)

// Main does the work of a writer in a process that Start started, and ends the
// process; in others it returns at once. It is the first call of a program.
func Main() {
	role, dir := Role(os.Getenv(roleEnv)), os.Getenv(dirEnv)
	if role == "" {
		return
	}
	// The directory is there before the calls are watched: it is not the log's.
	err := os.MkdirAll(filepath.Dir(dir), 0o700)
	if err == nil {
		err = trap.Enter()
	}
	if err == nil {
		switch role {
		case Script:
			err = (&script{dir: dir}).run()
		case Load:
			err = load(dir, store.FlushMode(os.Getenv(flushEnv)))
		default:
			err = fmt.Errorf("no role %q", role)
		}
	}
	if err != nil {
		say(sayWrong, err.Error())
		os.Exit(1)
	}
	say(sayDone)
	os.Exit(0)
}

// say prints a line at once and as a whole.
func say(kind string, words ...string) {
	line := []byte(kind)
	for _, w := range words {
		line = append(append(line, ' '), w...)
	}
	// Nobody listens any more when it fails: the next line ends the process.
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func sayOffset(kind string, queue int, offset int64) {
	say(kind, strconv.Itoa(queue), strconv.FormatInt(offset, 10))
}

// load appends to each queue from a goroutine, with several batches under way.
func load(dir string, flush store.FlushMode) error {
	log, err := store.Open(dir, store.Options{FirstSegmentBytes: 1 << 20, SegmentBytes: 4 << 20, Flush: flush})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	var writers sync.WaitGroup
	for q := range Queues {
		writers.Go(func() { keepAppending(log, q) })
	}
	writers.Wait()
	select {} // the log refuses; the kill comes
}

// keepAppending appends to a queue until the log refuses. Offsets are known
// beforehand: nobody else appends to the queue.
func keepAppending(log *store.Log, queue int) {
	const window = 8
	_, next := log.Bounds(queueKey(queue))
	free := make(chan struct{}, window)
	for i := 0; ; i++ {
		free <- struct{}{}
		count := 1 + i%4
		err := log.Append(record(queue, next, count), func(c store.Committed, err error) {
			if err != nil {
				return // free stays taken, so that appending ends
			}
			sayOffset(sayAck, queue, c.BaseOffset+int64(c.Count))
			<-free
		})
		if err != nil {
			say(sayRefused, kindOf(err))
			return
		}
		next += int64(count)
	}
}
