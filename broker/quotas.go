package broker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/quota"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// maxFlowPause is the longest time that a sender is told to wait: quotas may have
// been changed by then.
const maxFlowPause = time.Second

// quotas holds senders to the quotas of topics, producer groups and clients, and
// sets those of the latter two. A batch counts with its messages and with its
// bytes as they are stored, when it is taken. A duplicate of what is stored, and
// what is refused, count nothing.
//
// All senders that name no group are one group, and likewise with clients.
type quotas struct {
	state   *state
	buckets *quota.Buckets

	mu sync.Mutex // one change at a time, from the look at the view to the record applied
}

func newQuotas(s *state) *quotas { return &quotas{state: s, buckets: quota.NewBuckets()} }

func (q *quotas) register(m *transport.Mux) {
	transport.Handle(m, q.putQuota)
	transport.Handle(m, q.listQuotas)
}

// bounds are the quotas of a topic, a producer group and a client, in this order.
type bounds struct {
	all [3]quota.Bound
	n   int
}

func (b *bounds) add(k quota.Key, r protocol.Rates) {
	if r != (protocol.Rates{}) {
		b.all[b.n] = quota.Bound{Key: k, Rates: r}
		b.n++
	}
}

// any reports whether there may be a quota for a batch. It costs a load.
func (q *quotas) any(p *parcel) bool {
	return p.topic.Quota != (protocol.Rates{}) || q.state.quotas.Any()
}

// of collects the quotas that hold for a batch.
func (q *quotas) of(p *parcel) (b bounds) {
	if p.topic.Quota != (protocol.Rates{}) {
		b.add(quota.Key{Topic: p.topic.ID}, p.topic.Quota)
	}
	if q.state.quotas.Any() {
		for _, k := range [...]quota.Key{{Scope: protocol.QuotaOfGroup, Name: p.group}, {Scope: protocol.QuotaOfClient, Name: p.client}} {
			r, _ := q.state.quotas.Lookup(k.Scope, k.Name)
			b.add(k, r)
		}
	}
	return b
}

// charge counts a batch against all quotas that hold for it, or, when one of them
// is used up, against none: the error is FlowControl with the time until all
// would take it.
func (q *quotas) charge(p *parcel) error {
	if !q.any(p) {
		return nil
	}
	b := q.of(p)
	wait, slowest := q.buckets.Take(q.state.now(), b.all[:b.n], sizeOf(p))
	if wait <= 0 {
		return nil
	}
	pause := min(wait, maxFlowPause)
	return &protocol.Error{
		Code: protocol.FlowControl, Remark: q.text(p, &b.all[slowest]),
		RetryAfterMillis: (pause + time.Millisecond - 1).Milliseconds(),
	}
}

// refund takes back what charge counted, for a batch that was refused after it.
func (q *quotas) refund(p *parcel) {
	if q.any(p) {
		b := q.of(p)
		q.buckets.Give(q.state.now(), b.all[:b.n], sizeOf(p))
	}
}

func sizeOf(p *parcel) quota.Size { return quota.Size{Messages: p.Count, Bytes: p.Length} }

// text names a quota that is used up.
func (q *quotas) text(p *parcel, b *quota.Bound) string {
	var whose string
	switch b.Key.Scope {
	case protocol.QuotaOfGroup:
		whose = fmt.Sprintf("producer group %q", p.group)
	case protocol.QuotaOfClient:
		whose = fmt.Sprintf("client %q", p.client)
	default:
		return fmt.Sprintf("the quota of topic %q is used up: %s", p.topic.Name, ratesText(b.Rates))
	}
	if _, own := q.state.quotas.Lookup(b.Key.Scope, b.Key.Name); !own {
		whose += ", which has none of its own,"
	}
	return fmt.Sprintf("the quota of %s is used up: %s", whose, ratesText(b.Rates))
}

func ratesText(r protocol.Rates) string {
	switch {
	case r.BytesPerSecond == 0:
		return fmt.Sprintf("%d messages a second", r.MessagesPerSecond)
	case r.MessagesPerSecond == 0:
		return fmt.Sprintf("%d bytes a second", r.BytesPerSecond)
	}
	return fmt.Sprintf("%d messages and %d bytes a second", r.MessagesPerSecond, r.BytesPerSecond)
}

// putQuota answers when the quota is on disk and holds.
func (q *quotas) putQuota(ctx context.Context, r *protocol.PutQuotaRequest) (*protocol.Empty, error) {
	if err := quota.Validate(r.Quota); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	before, exists := q.state.quotas.Get(r.Quota.Scope, r.Quota.Name)
	switch {
	case !exists && r.Quota.Rates == (protocol.Rates{}):
		return nil, protocol.Errorf(protocol.NotFound, "%s %q has no quota", r.Quota.Scope, r.Quota.Name)
	case before == r.Quota.Rates:
		return &protocol.Empty{}, nil
	}
	return &protocol.Empty{}, q.state.append(ctx, store.Record{Type: store.QuotaRecord, Data: quota.Encode(r.Quota)})
}

func (q *quotas) listQuotas(context.Context, *protocol.ListQuotasRequest) (*protocol.ListQuotasResponse, error) {
	return &protocol.ListQuotasResponse{Quotas: q.state.quotas.List()}, nil
}
