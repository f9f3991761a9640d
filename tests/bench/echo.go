package main

import (
	"context"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

const echoSubject = "echo"

// serveEcho is the way of a frame to rmq's broker and back without the broker:
// an embedded NATS server and a handler on an in-process connection, whose
// answer is short.
func serveEcho(ctx context.Context, s spec) error {
	n, err := startNATS(spec{})
	if err != nil {
		return err
	}
	nc, err := nats.Connect("", nats.InProcessServer(n))
	if err != nil {
		return err
	}
	answer := make([]byte, 64)
	_, err = nc.Subscribe(echoSubject, func(m *nats.Msg) { m.Respond(answer) })
	if err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	ready(n.ClientURL())
	untilStdinEnds(ctx)
	nc.Close()
	n.Shutdown()
	n.WaitForShutdown()
	return nil
}

// echo sends frames with one constant inbox, a window of them under way.
func echo(ctx context.Context, s spec) (o outcome, err error) {
	nc, err := nats.Connect(s.Addr)
	if err != nil {
		return o, err
	}
	defer nc.Close()
	var answered atomic.Int64
	free := make(chan struct{}, s.Window)
	inbox := nats.NewInbox()
	_, err = nc.Subscribe(inbox, func(*nats.Msg) {
		answered.Add(1)
		free <- struct{}{}
	})
	if err != nil {
		return o, err
	}
	for range s.Window {
		free <- struct{}{}
	}
	frame := s.body()
	return s.measured(ctx, answered.Load, func(ctx context.Context) error {
		for ctx.Err() == nil {
			<-free
			if err := nc.PublishRequest(echoSubject, inbox, frame); err != nil {
				return err
			}
		}
		for range s.Window {
			<-free
		}
		return nil
	})
}
