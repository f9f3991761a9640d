package client

import (
	"context"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// replyLimits bound the replies that a connection takes in at a time.
var replyLimits = transport.Limits{Requests: 4096, Bytes: 64 << 20}

// serveReplies is what a new connection does so that brokers can bring replies
// over it; nil: nothing.
func (cfg *Config) serveReplies() func(*transport.Conn) (*transport.Server, error) {
	if cfg.OnReply == nil {
		return nil
	}
	m := transport.NewMux()
	transport.Handle(m, func(_ context.Context, r *protocol.PushReplyRequest) (*protocol.Empty, error) {
		return &protocol.Empty{}, cfg.OnReply(r.Batch)
	})
	return func(c *transport.Conn) (*transport.Server, error) {
		return transport.Serve(c, protocol.ReplySubject(c.Inbox()), replyLimits, m)
	}
}
