package consumer

import (
	"context"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// policyAge is how long a group's retry policy is believed to be what it was.
	policyAge = 10 * time.Second
	// policyTimeout is how long a message that failed waits for the policy.
	policyTimeout = 2 * time.Second
)

// policies remembers the retry policy of a group. It is safe for concurrent use: who has
// the turn looks and asks, and others wait for the answer.
type policies struct {
	turn   chan struct{} // holds one
	policy protocol.RetryPolicy
	asked  time.Time
}

func newPolicies() *policies { return &policies{turn: make(chan struct{}, 1)} }

// get returns the policy, and asks for it when it is old. While there is no answer the
// last one holds, at first RetryTable.
func (p *policies) get(ctx context.Context, ask func() (protocol.RetryPolicy, error)) protocol.RetryPolicy {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return protocol.RetryPolicy{}
	}
	defer func() { <-p.turn }()
	if !p.asked.IsZero() && time.Since(p.asked) < policyAge {
		return p.policy
	}
	if policy, err := ask(); err == nil {
		p.policy = policy
	}
	p.asked = time.Now()
	return p.policy
}

// retryDelay is the time from a message's failing to its next delivery, as the group's
// policy at the message's broker has it.
func (s *Simple) retryDelay(ctx context.Context, p *Popped) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	policy := s.policies.get(ctx, func() (protocol.RetryPolicy, error) {
		req := &protocol.ListGroupsRequest{Group: s.settings.group}
		resp, err := client.Call[protocol.ListGroupsResponse](ctx, s.client, p.queue.Broker, protocol.ClassAdmin, req)
		if err != nil || len(resp.Groups) != 1 {
			return protocol.RetryPolicy{}, err
		}
		return resp.Groups[0].RetryPolicy, nil
	})
	return policy.Delay(p.Attempt)
}
