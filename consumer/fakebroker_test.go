package consumer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/nameserver"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second // a test that waits this long has failed

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in %v: %s", patience, what)
		}
	}
}

func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("not in %v: %s", patience, what)
		panic("unreachable")
	}
}

// fakeBroker speaks a broker's side of groups and pulls from memory, behind a
// real network and a real name server. It is there for what a real broker
// cannot be told to do: give a certain answer at a certain moment. Consuming
// from a real one is tested in package tests.
type fakeBroker struct {
	t      *testing.T
	addr   string
	queues int

	mu        sync.Mutex
	stop      func()
	conn      *transport.Conn
	grown     chan struct{} // closed when a pull may have something new
	log       map[int][][]byte
	first     map[int]int64 // where a queue begins
	end       map[int]int64
	sessions  map[string]protocol.HeartbeatRequest
	owner     map[int]string
	fence     map[int]uint64
	fences    uint64
	committed map[int]int64
	commits   int // requests
	pulls     []protocol.PullRequest
	// refuse, when set, answers a pull of a queue; nil goes on.
	refuse func(q protocol.PullQueue) *protocol.Error
	// takeBack answers what is given back.
	takeBack func(r *protocol.SendBackRequest) (*protocol.SendBackResponse, error)
	// pop and settle answer pops, and what becomes of what they gave: an invisible
	// time of 0 acknowledges.
	pop    func(ctx context.Context, r *protocol.PopRequest) (*protocol.PopResponse, error)
	settle func(r *protocol.AckRequest, invisible time.Duration) (*protocol.AckResponse, error)
	policy protocol.RetryPolicy
}

const fakeName = "fake"

// startFake starts a name server and a broker with topic "t".
func startFake(t *testing.T, queues int) *fakeBroker {
	t.Helper()
	b := &fakeBroker{
		t: t, addr: "127.0.0.1:0", queues: queues, grown: make(chan struct{}), log: map[int][][]byte{},
		first: map[int]int64{}, end: map[int]int64{}, sessions: map[string]protocol.HeartbeatRequest{},
		owner: map[int]string{}, fence: map[int]uint64{}, committed: map[int]int64{},
	}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start serves at the same address as before.
func (b *fakeBroker) start() {
	b.t.Helper()
	f, err := fabric.Start(fabric.Config{Listen: b.addr})
	if err != nil {
		b.t.Fatal(err)
	}
	conn, err := transport.Dial(f.Addr(), transport.Options{Name: fakeName, InProcess: f})
	if err != nil {
		b.t.Fatal(err)
	}
	names := nameserver.New(nameserver.Config{Timeout: time.Hour}, conn)
	ctx, cancel := context.WithCancel(b.t.Context())
	ran := make(chan error, 1)
	go func() { ran <- names.Run(ctx) }() // stop waits for it
	receive(b.t, "name server", names.Ready())
	b.mu.Lock()
	b.addr, b.conn = f.Addr(), conn
	b.stop = sync.OnceFunc(func() {
		cancel()
		<-ran
		conn.Close()
		f.Close()
	})
	b.mu.Unlock()
	b.serve(conn)
	b.register(b.queues)
}

func (b *fakeBroker) serve(conn *transport.Conn) {
	b.t.Helper()
	control, pull, admin := transport.NewMux(), transport.NewMux(), transport.NewMux()
	transport.Handle(control, b.heartbeat)
	transport.Handle(control, b.leave)
	transport.Handle(control, b.members)
	transport.Handle(control, b.sync)
	transport.Handle(control, b.commit)
	transport.Handle(control, b.offsets)
	transport.Handle(control, func(_ context.Context, r *protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
		return b.takeBack(r)
	})
	transport.Handle(pull, b.pull)
	b.servePops(control, pull, admin)
	for class, mux := range map[protocol.Class]*transport.Mux{protocol.ClassClient: control, protocol.ClassPull: pull, protocol.ClassAdmin: admin} {
		if _, err := transport.Serve(conn, protocol.BrokerSubject(fakeName, 0, class), transport.Limits{}, mux); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *fakeBroker) register(queues int) {
	b.t.Helper()
	_, err := transport.Call[protocol.RegisterBrokerResponse](b.t.Context(), b.conn, protocol.NameServerSubject(protocol.ClassBroker),
		&protocol.RegisterBrokerRequest{
			BrokerIdentity: protocol.BrokerIdentity{Cluster: "c", Broker: fakeName, Incarnation: uint64(time.Now().UnixNano())},
			Addresses:      []string{b.addr},
			Topics:         []protocol.TopicConfig{{Name: "t", ReadQueues: queues, WriteQueues: queues, Perm: message.PermReadWrite}},
			DataVersion:    1,
		})
	if err != nil {
		b.t.Fatal(err)
	}
}

// restart is a crash and a start on the same data: sessions are gone.
func (b *fakeBroker) restart() {
	b.t.Helper()
	b.stop()
	b.mu.Lock()
	clear(b.sessions)
	b.mu.Unlock()
	b.start()
}

// store appends messages in one batch; the body of each is queue/offset.
func (b *fakeBroker) store(queue, n int, groups ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	builder, ids := batch.NewBuilder("t", queue), message.NewIDSource()
	for i := range n {
		m := message.Message{Topic: "t", ID: ids.Next(), BornTime: time.Now(), Body: fmt.Appendf(nil, "%d/%d", queue, b.end[queue]+int64(i))}
		if len(groups) > 0 {
			m.Group = groups[i%len(groups)]
		}
		builder.Add(&m)
	}
	raw := builder.Finish()
	batch.SetStored(raw, 1, b.end[queue], time.Now().UnixMilli(), 1)
	b.log[queue] = append(b.log[queue], raw)
	b.end[queue] += int64(n)
	b.wakeLocked()
}

func (b *fakeBroker) wakeLocked() {
	close(b.grown)
	b.grown = make(chan struct{})
}

// change runs fn with the state locked and wakes the pulls.
func (b *fakeBroker) change(fn func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fn()
	b.wakeLocked()
}

func (b *fakeBroker) look(fn func() bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fn()
}

// committedAt is the group's offset in a queue; -1: none.
func (b *fakeBroker) committedAt(q int) (offset int64) {
	b.look(func() bool { offset = b.committedLocked(q); return true })
	return offset
}

// nobody fails when a client has a session or a lease.
func (b *fakeBroker) nobody() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sessions) != 0 || len(b.owner) != 0 {
		b.t.Errorf("sessions %v and leases %v are left", b.sessions, b.owner)
	}
}

// grants are the fences of all queues.
func (b *fakeBroker) grants() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprint(b.fence)
}

// reset moves a group's offset as ResetOffsets does: the lease is gone.
func (b *fakeBroker) reset(queue int, offset int64) {
	b.change(func() {
		b.committed[queue] = offset
		delete(b.owner, queue)
	})
}

func (b *fakeBroker) notifyLocked(group string) {
	for _, s := range b.sessions {
		if err := b.conn.Publish(s.Inbox, protocol.MembersChanged, &protocol.MembersChangedEvent{Broker: fakeName, Group: group}); err != nil {
			b.t.Logf("notify: %v", err)
		}
	}
}

func (b *fakeBroker) heartbeat(_ context.Context, r *protocol.HeartbeatRequest) (*protocol.HeartbeatResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, known := b.sessions[r.ClientID]
	b.sessions[r.ClientID] = *r
	if !known && len(r.Consumers) > 0 {
		b.notifyLocked(r.Consumers[0].Group)
	}
	return &protocol.HeartbeatResponse{SessionMillis: 6000}, nil
}

func (b *fakeBroker) leave(_ context.Context, r *protocol.LeaveGroupRequest) (*protocol.Empty, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, r.ClientID)
	for q, owner := range b.owner {
		if owner == r.ClientID {
			delete(b.owner, q)
		}
	}
	b.notifyLocked(r.Group)
	b.wakeLocked()
	return &protocol.Empty{}, nil
}

func (b *fakeBroker) members(_ context.Context, r *protocol.ListMembersRequest) (*protocol.ListMembersResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := &protocol.ListMembersResponse{}
	for id, s := range b.sessions {
		for _, c := range s.Consumers {
			if c.Group == r.Group {
				resp.Members = append(resp.Members, protocol.Member{ClientID: id, Topics: c.Topics})
			}
		}
	}
	slices.SortFunc(resp.Members, func(a, b protocol.Member) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return resp, nil
}

func (b *fakeBroker) sync(_ context.Context, r *protocol.SyncLeasesRequest) (*protocol.SyncLeasesResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.sessions[r.ClientID]; !ok {
		return nil, protocol.Errorf(protocol.UnknownMember, "no session of %s", r.ClientID)
	}
	resp, released := &protocol.SyncLeasesResponse{}, false
	for q := range b.queues {
		wanted := slices.Contains(r.Queues, q)
		switch {
		case b.owner[q] == r.ClientID && !wanted:
			delete(b.owner, q)
			released = true
		case b.owner[q] == "" && wanted:
			b.fences++
			b.owner[q], b.fence[q] = r.ClientID, b.fences
		}
		if b.owner[q] == r.ClientID {
			resp.Leases = append(resp.Leases, protocol.Lease{Queue: q, Fence: b.fence[q], Committed: b.committedLocked(q)})
		}
	}
	if released {
		b.notifyLocked(r.Group)
	}
	return resp, nil
}

func (b *fakeBroker) committedLocked(q int) int64 {
	if c, ok := b.committed[q]; ok {
		return c
	}
	return -1
}

func (b *fakeBroker) heldLocked(q int, client string, fence uint64) bool {
	return b.owner[q] == client && b.fence[q] == fence
}

func (b *fakeBroker) commit(_ context.Context, r *protocol.CommitOffsetsRequest) (*protocol.CommitOffsetsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.commits++
	resp := &protocol.CommitOffsetsResponse{}
	for _, o := range r.Offsets {
		if !b.heldLocked(o.Queue, r.ClientID, o.Fence) {
			resp.Refused = append(resp.Refused, protocol.RefusedOffset{Topic: o.Topic, Queue: o.Queue, Err: protocol.Errorf(protocol.Fenced, "not held")})
			continue
		}
		b.committed[o.Queue] = max(b.committedLocked(o.Queue), o.Offset)
	}
	return resp, nil
}

func (b *fakeBroker) offsets(_ context.Context, r *protocol.QueryOffsetsRequest) (*protocol.QueryOffsetsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := &protocol.QueryOffsetsResponse{}
	for _, q := range r.Queues {
		o := protocol.QueueOffsets{Min: b.first[q.Queue], End: b.end[q.Queue], Committed: -1}
		o.At = b.atLocked(q.Queue, q.AtMillis)
		if q.Queue >= b.queues {
			o.Err = protocol.Errorf(protocol.QueueNotFound, "no queue %d", q.Queue)
		}
		resp.Queues = append(resp.Queues, o)
	}
	return resp, nil
}

func (b *fakeBroker) atLocked(queue int, millis int64) int64 {
	for _, raw := range b.log[queue] {
		if h, err := batch.ParseHeader(raw); err == nil && h.StoreMillis >= millis {
			return h.BaseOffset
		}
	}
	return b.end[queue]
}

func (b *fakeBroker) pull(ctx context.Context, r *protocol.PullRequest) (*protocol.PullResponse, error) {
	wait := time.NewTimer(time.Duration(r.WaitMillis) * time.Millisecond)
	defer wait.Stop()
	b.mu.Lock()
	b.pulls = append(b.pulls, *r)
	b.mu.Unlock()
	for {
		b.mu.Lock()
		resp, grown := b.readLocked(r), b.grown
		b.mu.Unlock()
		if len(resp.Queues) > 0 {
			return resp, nil
		}
		select {
		case <-grown:
		case <-wait.C:
			return resp, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// readLocked gives one batch of each queue that has some.
func (b *fakeBroker) readLocked(r *protocol.PullRequest) *protocol.PullResponse {
	resp := &protocol.PullResponse{}
	for i, q := range r.Queues {
		p := protocol.PulledQueue{Index: i, Next: q.Offset, Min: b.first[q.Queue], End: b.end[q.Queue]}
		p.Err = b.checkLocked(r, q)
		if p.Err == nil {
			p.Batches, p.Next = b.nextBatchLocked(q)
		}
		if p.Err != nil || len(p.Batches) > 0 {
			resp.Queues = append(resp.Queues, p)
		}
	}
	return resp
}

func (b *fakeBroker) checkLocked(r *protocol.PullRequest, q protocol.PullQueue) *protocol.Error {
	if b.refuse != nil {
		if err := b.refuse(q); err != nil {
			return err
		}
	}
	switch {
	case r.Group != "" && b.sessions[r.ClientID].ClientID == "":
		return protocol.Errorf(protocol.UnknownMember, "no session")
	case r.Group != "" && !b.heldLocked(q.Queue, r.ClientID, q.Fence):
		return protocol.Errorf(protocol.Fenced, "not held")
	case q.Offset < b.first[q.Queue] || q.Offset > b.end[q.Queue]:
		return protocol.Errorf(protocol.OffsetOutOfRange, "offset %d", q.Offset)
	}
	return nil
}

func (b *fakeBroker) nextBatchLocked(q protocol.PullQueue) ([]byte, int64) {
	for _, raw := range b.log[q.Queue] {
		if h, err := batch.ParseHeader(raw); err == nil && h.NextOffset() > q.Offset {
			return raw, h.NextOffset()
		}
	}
	return nil, q.Offset
}
