package admin

import (
	"context"
	"fmt"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

// GroupPatch changes some settings of a group; nil leaves one as it is.
type GroupPatch struct {
	ConsumeEnabled         *bool
	PerMemberSubscriptions *bool
	RetryMax               *int
	RetryPolicy            *protocol.RetryPolicy
}

func (p GroupPatch) apply(g protocol.GroupConfig) protocol.GroupConfig {
	set(&g.ConsumeEnabled, p.ConsumeEnabled)
	set(&g.PerMemberSubscriptions, p.PerMemberSubscriptions)
	set(&g.RetryMax, p.RetryMax)
	set(&g.RetryPolicy, p.RetryPolicy)
	return g
}

func set[T any](v *T, to *T) {
	if to != nil {
		*v = *to
	}
}

// PatchGroup changes some settings of a group on every broker of the target that
// has it. GroupNotFound is returned when none has.
func (a *Admin) PatchGroup(ctx context.Context, name string, p GroupPatch, t Target) ([]GroupChange, error) {
	existing, err := a.findGroup(ctx, name, t)
	if err != nil {
		return nil, err
	}
	changes := make([]GroupChange, len(existing))
	brokers := make([]string, len(existing))
	wanted := make(map[string]*protocol.GroupConfig, len(existing))
	for i, x := range existing {
		after := p.apply(x.value.GroupConfig)
		changes[i] = GroupChange{Broker: x.broker, Before: &x.value.GroupConfig, After: &after}
		brokers[i], wanted[x.broker] = x.broker, &after
	}
	if t.DryRun {
		return changes, nil
	}
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) (*protocol.Empty, error) {
		req := &protocol.PutGroupRequest{Group: *wanted[broker], Mode: protocol.PutAlter}
		return client.Call[protocol.Empty](ctx, a.client, broker, protocol.ClassAdmin, req)
	})
	return made(changes, answers), outcome(fmt.Sprintf("alter group %q", name), answers)
}
