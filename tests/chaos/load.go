//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	loadTopic = "chaos"
	senders   = 4
)

// sent is a message of a load: the number of its sender, and its place in what
// that one sent.
type sent struct{ sender, seq int }

// body is text that only this message has.
func (m sent) body() []byte {
	random := rand.New(rand.NewPCG(uint64(m.sender), uint64(m.seq)))
	b := make([]byte, 32+random.IntN(2000))
	for i := copy(b, fmt.Sprintf("%d %d ", m.sender, m.seq)); i < len(b); i++ {
		b[i] = byte('a' + random.IntN(26))
	}
	return b
}

// parseSent finds out which message a body is, and that it is all of it.
func parseSent(body []byte) (sent, error) {
	words := strings.SplitN(string(body), " ", 3)
	if len(words) == 3 {
		sender, err1 := strconv.Atoi(words[0])
		seq, err2 := strconv.Atoi(words[1])
		if m := (sent{sender, seq}); err1 == nil && err2 == nil && bytes.Equal(m.body(), body) {
			return m, nil
		}
	}
	return sent{}, fmt.Errorf("a body that nobody sent: %.40q, %d bytes, CRC %08x", body, len(body), crc32.ChecksumIEEE(body))
}

// place is where a message is stored.
type place struct {
	queue  message.Queue
	offset int64
}

// load sends messages from several goroutines until it is stopped, and keeps
// what was acknowledged and what was refused.
type load struct {
	producer *producer.Producer
	running  sync.WaitGroup
	stopping context.CancelFunc

	mu      sync.Mutex
	acked   map[place]sent
	refused map[protocol.ErrorCode]int
	untyped error // an answer that makes no sense
}

// startLoad sends to the topic; a send is tried for as long as patience.
func startLoad(ctx context.Context, nameServer string, patience time.Duration) (*load, error) {
	p, err := producer.New(ctx, producer.Config{NameServers: []string{nameServer}, SendTimeout: patience, MaxBufferedBytes: 4 << 20})
	if err != nil {
		return nil, err
	}
	l := &load{producer: p, acked: map[place]sent{}, refused: map[protocol.ErrorCode]int{}}
	ctx, l.stopping = context.WithCancel(ctx)
	for s := range senders {
		l.running.Go(func() { l.send(ctx, s) })
	}
	return l, nil
}

func (l *load) send(ctx context.Context, sender int) {
	for seq := 0; ctx.Err() == nil; seq++ {
		m := sent{sender, seq}
		msg := &message.Message{Topic: loadTopic, Keys: []string{fmt.Sprint(seq % 1000)}, Body: m.body()}
		done := func(r producer.Receipt, err error) { l.took(m, r, err) }
		if seq%32 == 31 { // so that the load is bounded by the disk
			r, err := l.producer.Send(context.WithoutCancel(ctx), msg)
			done(r, err)
			continue
		}
		l.producer.SendAsync(context.WithoutCancel(ctx), msg, done)
	}
}

func (l *load) took(m sent, r producer.Receipt, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := place{r.Queue, r.Offset}
	if err == nil {
		if other, ok := l.acked[at]; ok {
			l.untyped = fmt.Errorf("%v and %v were both acknowledged at %v", other, m, at)
		}
		l.acked[at] = m
		return
	}
	var failed *producer.Error
	if !errors.As(err, &failed) || failed.Code == 0 {
		l.untyped = err
		return
	}
	l.refused[failed.Code]++
}

// count is how many messages were acknowledged and refused.
func (l *load) count() (acked, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.refused {
		refused += n
	}
	return len(l.acked), refused
}

// awaitAcks waits until so many more messages are acknowledged.
func (l *load) awaitAcks(ctx context.Context, limit time.Duration, more int) error {
	before, _ := l.count()
	return until(ctx, limit, fmt.Sprintf("%d more acknowledgements", more), func() bool {
		now, _ := l.count()
		return now >= before+more
	})
}

// stop ends the load and waits for the last answers.
func (l *load) stop(ctx context.Context) error {
	l.stopping()
	l.running.Wait()
	return l.producer.Close(ctx)
}
