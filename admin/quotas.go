package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Quota bounds what a producer group or a client sends to one broker.
type Quota struct {
	Broker string
	protocol.QuotaConfig
}

// RatesPatch is a change of a quota; nil fields stay as they are, 0 takes a bound
// away.
type RatesPatch struct {
	MessagesPerSecond *int64
	BytesPerSecond    *int64
}

func (p RatesPatch) apply(r protocol.Rates) protocol.Rates {
	if p.MessagesPerSecond != nil {
		r.MessagesPerSecond = *p.MessagesPerSecond
	}
	if p.BytesPerSecond != nil {
		r.BytesPerSecond = *p.BytesPerSecond
	}
	return r
}

// QuotaChange is what a change did, or with DryRun would do, on one broker.
type QuotaChange struct {
	Broker string
	// Before is nil for a quota that is new.
	Before *protocol.Rates
	// After is nil for a quota that is removed.
	After *protocol.Rates
}

// ListQuotas gives the quotas of producer groups and clients on all brokers of the
// target, sorted by scope, name and broker. Those of topics are in their settings.
func (a *Admin) ListQuotas(ctx context.Context, t Target) ([]Quota, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	answers := request[protocol.ListQuotasResponse](ctx, a, brokers, &protocol.ListQuotasRequest{})
	if err := firstError(answers); err != nil {
		return nil, err
	}
	var list []Quota
	for _, x := range answers {
		for _, q := range x.value.Quotas {
			list = append(list, Quota{Broker: x.broker, QuotaConfig: q})
		}
	}
	slices.SortFunc(list, func(a, b Quota) int {
		return cmp.Or(cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Broker, b.Broker))
	})
	return list, nil
}

// SetQuota changes a quota on every broker of the target; one without any rate is
// removed. An empty name is the quota of each group or client that has none of its
// own. NotFound is returned when there is nothing to remove on any of them.
func (a *Admin) SetQuota(ctx context.Context, scope protocol.QuotaScope, name string, p RatesPatch, t Target) ([]QuotaChange, error) {
	if err := checkQuota(scope, name); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	before, err := a.quotaOn(ctx, scope, name, brokers)
	if err != nil {
		return nil, err
	}
	var changes []QuotaChange
	for _, b := range brokers {
		old, had := before[b]
		next := p.apply(old)
		if !had && next == (protocol.Rates{}) {
			continue
		}
		c := QuotaChange{Broker: b}
		if had {
			c.Before = &old
		}
		if next != (protocol.Rates{}) {
			c.After = &next
		}
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return nil, protocol.Errorf(protocol.NotFound, "%s has no quota", quotaOwner(scope, name))
	}
	return a.putQuota(ctx, scope, name, changes, t.DryRun)
}

// DeleteQuota removes a quota from every broker of the target that has it; NotFound
// when none has.
func (a *Admin) DeleteQuota(ctx context.Context, scope protocol.QuotaScope, name string, t Target) ([]QuotaChange, error) {
	return a.SetQuota(ctx, scope, name, RatesPatch{MessagesPerSecond: new(int64), BytesPerSecond: new(int64)}, t)
}

func checkQuota(scope protocol.QuotaScope, name string) error {
	switch {
	case scope != protocol.QuotaOfGroup && scope != protocol.QuotaOfClient:
		return protocol.Errorf(protocol.InvalidArgument, "quota scope %q; it is %s or %s", scope, protocol.QuotaOfGroup, protocol.QuotaOfClient)
	case name == "":
		return nil
	case scope == protocol.QuotaOfGroup:
		return message.CheckGroup(name)
	}
	return message.CheckClientID(name)
}

// quotaOwner names whom a quota is for.
func quotaOwner(scope protocol.QuotaScope, name string) string {
	kind := "producer group"
	if scope == protocol.QuotaOfClient {
		kind = "client"
	}
	if name == "" {
		return "a " + kind + " without a quota of its own"
	}
	return fmt.Sprintf("%s %q", kind, name)
}

// quotaOn is a quota by those of the brokers that have it.
func (a *Admin) quotaOn(ctx context.Context, scope protocol.QuotaScope, name string, brokers []string) (map[string]protocol.Rates, error) {
	answers := request[protocol.ListQuotasResponse](ctx, a, brokers, &protocol.ListQuotasRequest{})
	if err := firstError(answers); err != nil {
		return nil, err
	}
	found := map[string]protocol.Rates{}
	for _, x := range answers {
		for _, q := range x.value.Quotas {
			if q.Scope == scope && q.Name == name {
				found[x.broker] = q.Rates
			}
		}
	}
	return found, nil
}

func (a *Admin) putQuota(ctx context.Context, scope protocol.QuotaScope, name string, changes []QuotaChange, dryRun bool) ([]QuotaChange, error) {
	if dryRun {
		return changes, nil
	}
	wanted := make(map[string]protocol.Rates, len(changes))
	brokers := make([]string, len(changes))
	for i, c := range changes {
		brokers[i] = c.Broker
		if c.After != nil {
			wanted[c.Broker] = *c.After
		}
	}
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) (*protocol.Empty, error) {
		req := &protocol.PutQuotaRequest{Quota: protocol.QuotaConfig{Scope: scope, Name: name, Rates: wanted[broker]}}
		return client.Call[protocol.Empty](ctx, a.client, broker, protocol.ClassAdmin, req)
	})
	return made(changes, answers), outcome("set the quota of "+quotaOwner(scope, name), answers)
}
