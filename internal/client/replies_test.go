package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestOnReply_IsServedAtTheInboxOfHeartbeats(t *testing.T) {
	s := startSite(t, "")
	a := startBroker(s, "a", "orders")
	got := make(chan string, 1)
	c := newClient(t, Config{NameServers: []string{s.addr()}, OnReply: func(b []byte) error {
		got <- string(b)
		if string(b) == "late" {
			return protocol.Errorf(protocol.NotFound, "nobody waits")
		}
		return nil
	}})
	c.Announce(nil, subscribe("g", "orders"))
	eventually(t, "a heartbeat", func() bool { return a.beatCount() > 0 })
	push := func(ctx context.Context, b string) error {
		_, err := transport.Call[protocol.Empty](ctx, s.conn, protocol.ReplySubject(a.lastBeat().Inbox), &protocol.PushReplyRequest{Batch: []byte(b)})
		return err
	}
	if err := push(t.Context(), "reply"); err != nil || <-got != "reply" {
		t.Errorf("got %v", err)
	}
	if err := push(t.Context(), "late"); !errors.Is(err, protocol.NotFound) || <-got != "late" {
		t.Errorf("got %v, want the refusal of OnReply", err)
	}
	c.Close()
	eventually(t, "the client is gone", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		return errors.Is(push(ctx, "nobody"), protocol.Unreachable)
	})
}

// The broker is told that a reply has arrived though the client closes meanwhile.
func TestOnReply_IsConfirmedByAClientThatCloses(t *testing.T) {
	s := startSite(t, "")
	a := startBroker(s, "a", "orders")
	taken, closing := make(chan struct{}), make(chan struct{})
	c := newClient(t, Config{NameServers: []string{s.addr()}, OnReply: func([]byte) error {
		close(taken)
		<-closing
		return nil
	}})
	c.Announce(nil, subscribe("g", "orders"))
	eventually(t, "a heartbeat", func() bool { return a.beatCount() > 0 })
	confirmed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s.conn.Start(ctx, protocol.ReplySubject(a.lastBeat().Inbox), &protocol.PushReplyRequest{Batch: []byte("x")},
		func(_ []byte, err error) { confirmed <- err })
	<-taken
	closed := make(chan struct{})
	go func() { defer close(closed); c.Close() }()
	eventually(t, "the connections are being closed", func() bool {
		c.pool.mu.Lock()
		defer c.pool.mu.Unlock()
		return c.pool.closed
	})
	close(closing)
	if err := <-confirmed; err != nil {
		t.Errorf("got %v", err)
	}
	<-closed
}

func TestOnReply_NotServedWithout(t *testing.T) {
	s := startSite(t, "")
	a := startBroker(s, "a", "orders")
	c := clientOf(t, s)
	c.Announce(nil, subscribe("g", "orders"))
	eventually(t, "a heartbeat", func() bool { return a.beatCount() > 0 })
	_, err := transport.Call[protocol.Empty](t.Context(), s.conn, protocol.ReplySubject(a.lastBeat().Inbox), &protocol.PushReplyRequest{})
	if !errors.Is(err, protocol.Unreachable) {
		t.Errorf("got %v, want %v", err, protocol.Unreachable)
	}
}
