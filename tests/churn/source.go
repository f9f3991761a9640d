//go:build linux

package churn

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

// source sends messages of some keys in turn, until it is stopped.
type source struct {
	producer *producer.Producer
	history  *History
	running  sync.WaitGroup
	stopping context.CancelFunc
}

// startSource sends so many messages a second.
func startSource(ctx context.Context, h *History, addr string, keys, rate int) (*source, error) {
	p, err := producer.New(ctx, producer.Config{NameServers: []string{addr}, SendTimeout: patience})
	if err != nil {
		return nil, err
	}
	s := &source{producer: p, history: h}
	ctx, s.stopping = context.WithCancel(ctx)
	s.running.Go(func() { s.send(ctx, keys, rate) })
	return s, nil
}

func (s *source) send(ctx context.Context, keys, rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := 0; ; i++ {
		m := sent{key: fmt.Sprintf("key%02d", i%keys), seq: i / keys}
		s.producer.SendAsync(context.WithoutCancel(ctx), &message.Message{Topic: topic, Group: m.key, Body: []byte(m.String())},
			func(r producer.Receipt, err error) {
				if err != nil {
					s.history.fault("send %v: %w", m, err)
					return
				}
				s.history.acknowledged(place{r.Queue.ID, r.Offset}, m)
			})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stop ends the sending and waits for the last answers.
func (s *source) stop(ctx context.Context) error {
	s.stopping()
	s.running.Wait()
	return s.producer.Close(ctx)
}
