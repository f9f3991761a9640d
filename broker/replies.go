package broker

import (
	"context"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// Bounds of the replies under way, most of which wait for their client; one more
	// is refused with Busy. They are far below the class's, so that heartbeats,
	// which replies wait for, always get in.
	maxReplies     = 1024
	maxReplyBytes  = 16 << 20
	replyBusyRetry = 100 * time.Millisecond

	// maxReplyWait bounds the wait of a reply whose sender waits longer.
	maxReplyWait = time.Minute
	// replyPush is how long a client may take to say that it has a reply; then it is
	// brought again after the client's next heartbeat, with twice the time: the
	// connection may have been lost, or be slow.
	replyPush = time.Second
	// maxReplyMargin is how long before its sender gives up the answer is given.
	maxReplyMargin = 500 * time.Millisecond
	// maxGoodbyes bounds the clients that are known to have ended their sessions.
	maxGoodbyes = 10_000
)

// replies bring the replies to requests to the clients that wait for them: over
// the connection that a client's last heartbeat came from, and again after its
// next one, until it says that it has the reply. So a client that has lost its
// connection, or a broker that has lost its sessions, loses no reply. One that has
// said goodbye is not waited for. They are in memory alone: whoever sends one is told
// what became of it.
type replies struct {
	clients *clients
	conn    *transport.Conn
	closing <-chan struct{}

	mu     sync.Mutex
	count  int
	bytes  int
	absent map[string]*absence
	gone   map[string]time.Time // until when the goodbye of a client counts
	said   []goodbye            // the oldest first
}

// goodbye is one that a client has said. It counts unless the client came back.
type goodbye struct {
	client string
	until  time.Time
}

// absence is of a client that replies wait for.
type absence struct {
	back    chan struct{} // closed at the client's next heartbeat, and at its goodbye
	waiting int           // replies
}

func newReplies(c *clients, conn *transport.Conn, closing <-chan struct{}) *replies {
	r := &replies{clients: c, conn: conn, closing: closing, absent: map[string]*absence{}, gone: map[string]time.Time{}}
	c.seen, c.ended = r.seen, r.ended
	return r
}

func (r *replies) register(m *transport.Mux) { transport.Handle(m, r.sendReply) }

// sendReply answers when the client has the reply, or that it has not.
func (r *replies) sendReply(ctx context.Context, req *protocol.SendReplyRequest) (*protocol.Empty, error) {
	if err := checkReply(req); err != nil {
		return nil, err
	}
	if err := r.enter(len(req.Batch)); err != nil {
		return nil, err
	}
	defer r.leave(len(req.Batch))
	ctx, cancel := context.WithTimeout(ctx, replyTime(ctx))
	defer cancel()
	for patience := replyPush; ; patience = min(2*patience, maxReplyWait) {
		a := r.await(req.ClientID) // first, so that no heartbeat is missed
		err := r.push(ctx, req, patience)
		if err == nil || finalForReply(err) {
			r.forsake(req.ClientID, a)
			return &protocol.Empty{}, err
		}
		select {
		case <-a.back:
		case <-r.closing:
			err = protocol.Errorf(protocol.Unavailable, "the broker shuts down")
		case <-ctx.Done():
			err = protocol.Errorf(protocol.UnknownMember, "client %q did not come for the reply", req.ClientID)
		}
		r.forsake(req.ClientID, a)
		if finalForReply(err) {
			return nil, err
		}
	}
}

// checkReply refuses what no client can read.
func checkReply(req *protocol.SendReplyRequest) error {
	if err := message.CheckClientID(req.ClientID); err != nil {
		return protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	h, err := batch.Check(req.Batch)
	switch {
	case err != nil:
		return protocol.Errorf(protocol.IllegalMessage, "%v", err)
	case h.Count != 1 || h.Length != len(req.Batch) || h.Purpose != batch.ToQueue:
		return protocol.Errorf(protocol.IllegalMessage, "a reply is a batch of one message")
	}
	return nil
}

// replyTime ends before the sender gives up, so that it hears of the end.
func replyTime(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return maxReplyWait
	}
	left := time.Until(deadline)
	return min(left-min(left/10, maxReplyMargin), maxReplyWait)
}

// finalForReply reports whether waiting for the client can change nothing.
func finalForReply(err error) bool {
	switch protocol.CodeOf(err) {
	case protocol.NotFound, protocol.IllegalMessage, protocol.Unavailable, protocol.UnknownMember:
		return true
	}
	return false
}

// push brings a reply to the client; Unreachable when it has no session, UnknownMember
// when it has ended it.
func (r *replies) push(ctx context.Context, req *protocol.SendReplyRequest, patience time.Duration) error {
	inbox := r.clients.inbox(req.ClientID)
	switch {
	case inbox == "" && r.hasLeft(req.ClientID):
		return protocol.Errorf(protocol.UnknownMember, "client %q has ended its session", req.ClientID)
	case inbox == "":
		return protocol.Unreachable
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := transport.Call[protocol.Empty](ctx, r.conn, protocol.ReplySubject(inbox), &protocol.PushReplyRequest{Batch: req.Batch})
	return err
}

func (r *replies) enter(size int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == maxReplies || r.count > 0 && r.bytes+size > maxReplyBytes {
		busy := protocol.Errorf(protocol.Busy, "%d replies of %d bytes wait for their clients", r.count, r.bytes)
		busy.RetryAfterMillis = replyBusyRetry.Milliseconds()
		return busy
	}
	r.count++
	r.bytes += size
	return nil
}

func (r *replies) leave(size int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count--
	r.bytes -= size
}

// await is told of the client's next heartbeat; forsake ends it.
func (r *replies) await(client string) *absence {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.absent[client]
	if a == nil {
		a = &absence{back: make(chan struct{})}
		r.absent[client] = a
	}
	a.waiting++
	return a
}

func (r *replies) forsake(client string, a *absence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.waiting--; a.waiting == 0 && r.absent[client] == a {
		delete(r.absent, client)
	}
}

// seen is called after each heartbeat of a client.
func (r *replies) seen(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.gone, client)
	r.wakeLocked(client)
}

// ended is called when a client has said goodbye: what waits for it looks again.
func (r *replies) ended(client string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for len(r.said) > 0 && (len(r.said) == maxGoodbyes || now.After(r.said[0].until)) {
		if oldest := r.said[0]; r.gone[oldest.client].Equal(oldest.until) {
			delete(r.gone, oldest.client)
		}
		r.said = r.said[1:]
	}
	until := now.Add(maxReplyWait)
	r.gone[client] = until
	r.said = append(r.said, goodbye{client, until})
	r.wakeLocked(client)
}

func (r *replies) wakeLocked(client string) {
	if a := r.absent[client]; a != nil {
		delete(r.absent, client)
		close(a.back)
	}
}

func (r *replies) hasLeft(client string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.gone[client])
}
