//go:build linux

package churn

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rmqio/rmq/consumer"
)

// memberEnv tells a process that it is a member, and which.
const memberEnv = "RMQ_CHURN_MEMBER"

const (
	topic = "churn"
	group = "churn"
)

// role is what a member's process is told.
type role struct {
	ID, Addr string
	// Busy is how long a handler takes at most.
	Busy time.Duration
}

// report is a line on a member's stdout. It goes out with one call of the system, so
// that a member that is killed leaves whole lines.
type report struct {
	What   string `json:"w"`
	Queue  int    `json:"q,omitempty"`
	Offset int64  `json:"o,omitempty"`
	Body   string `json:"b,omitempty"`
	Micros int64  `json:"t"` // of the clock that the broker has too
}

// What members report.
const (
	beganHandler = "began"
	endedHandler = "ended"
	lostQueue    = "lost"
	isStarted    = "started" // from now on SIGTERM is a leave in good order
	isReady      = "ready"
)

// Main does the work of a member in a process that was started as one, and ends the
// process; in others it returns at once. It is the first call of a program.
func Main() {
	text, ok := os.LookupEnv(memberEnv)
	if !ok {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	say(report{What: isStarted})
	err := runMember(ctx, text)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func runMember(ctx context.Context, text string) error {
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	c, err := consumer.NewPush(ctx, consumer.Config{
		NameServers: []string{r.Addr}, ClientID: r.ID, Group: group, From: consumer.Earliest(),
		Subscriptions: []consumer.Subscription{{Topic: topic}}, CommitInterval: 200 * time.Millisecond,
		Logger: slog.New(losses{slog.NewTextHandler(os.Stderr, nil)}),
	}, r.handle)
	if err != nil {
		return err
	}
	var telling sync.WaitGroup
	telling.Go(func() {
		select {
		case <-c.Ready():
			say(report{What: isReady})
		case <-ctx.Done():
		}
	})
	err = c.Run(ctx)
	telling.Wait()
	return err
}

// handle works for a while whatever becomes of its context, as programs do.
func (r role) handle(_ context.Context, d *consumer.Delivery) error {
	at := report{What: beganHandler, Queue: d.Queue.ID, Offset: d.QueueOffset, Body: string(d.Body)}
	say(at)
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(r.Busy))))
	defer timer.Stop()
	<-timer.C
	say(report{What: endedHandler, Queue: at.Queue, Offset: at.Offset})
	return nil
}

func say(r report) {
	r.Micros = time.Now().UnixMicro()
	line, err := json.Marshal(r)
	if err == nil {
		_, err = os.Stdout.Write(append(line, '\n'))
	}
	if err != nil {
		os.Exit(1) // nobody listens any more
	}
}

// losses is a log that reports the queues which a member lets go of: because it finds
// them lost or, when it hears of the other members first and has nothing to commit,
// because they are not planned for it.
type losses struct{ slog.Handler }

func (l losses) Handle(ctx context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "queue lost") || strings.HasPrefix(r.Message, "queue given back") {
		lost := report{What: lostQueue}
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "queue" {
				lost.Queue = int(a.Value.Int64())
			}
			return true
		})
		say(lost)
	}
	return l.Handler.Handle(ctx, r)
}

func (l losses) WithAttrs(attrs []slog.Attr) slog.Handler { return losses{l.Handler.WithAttrs(attrs)} }

func (l losses) WithGroup(name string) slog.Handler { return losses{l.Handler.WithGroup(name)} }
