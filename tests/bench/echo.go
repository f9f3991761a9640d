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

// echoSync is clients with a connection each, of which every one has a frame under
// way: what callers who wait can do with this wire at best.
func echoSync(ctx context.Context, s spec) (o outcome, err error) {
	conns, answers := make([]*nats.Conn, s.Clients), make([]chan struct{}, s.Clients)
	inboxes, frame := make([]string, s.Clients), s.body()
	for i := range conns {
		if conns[i], err = nats.Connect(s.Addr); err != nil {
			return o, err
		}
		defer conns[i].Close()
		answers[i], inboxes[i] = make(chan struct{}, 1), nats.NewInbox()
		if _, err := conns[i].Subscribe(inboxes[i], func(*nats.Msg) { answers[i] <- struct{}{} }); err != nil {
			return o, err
		}
	}
	return s.callers(ctx, func(i int) error {
		if err := conns[i].PublishRequest(echoSubject, inboxes[i], frame); err != nil {
			return err
		}
		<-answers[i]
		return nil
	})
}
