package broker

import (
	"context"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
)

// remember records what a group subscribes now, if that is something else than was
// recorded. A group whose members may differ keeps what those subscribed that have
// left. What cannot be recorded does not keep anybody from consuming.
func (c *clients) remember(ctx context.Context, groupName string) {
	if _, changed := c.resubscribed(groupName); !changed {
		return
	}
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	s, changed := c.resubscribed(groupName)
	if !changed {
		return
	}
	data := group.EncodeSubscription(groupName, s)
	if len(data) > group.MaxSubscriptionBytes {
		c.logger.Warn("a subscription is too long to be remembered", "group", groupName, "bytes", len(data))
		return
	}
	if err := c.state.append(ctx, store.Record{Type: store.SubscribeRecord, Data: data}); err != nil {
		c.logger.Error("remember a subscription", "group", groupName, "err", err)
	}
}

// resubscribed is what is to be recorded of a group, and whether that is news.
func (c *clients) resubscribed(groupName string) (s group.Subscription, changed bool) {
	c.mu.Lock()
	s, online := c.sessions.Subscription(groupName)
	c.mu.Unlock()
	if !online {
		return s, false
	}
	before, known := c.state.groups.Subscription(groupName)
	if g, ok := c.state.groups.Config(groupName); ok && g.PerMemberSubscriptions {
		s = before.With(s, func(topic string) bool {
			_, there := c.state.topics.Lookup(topic)
			return there
		})
	}
	return s, !known || !s.Equal(before)
}

// subscription is what a group's members subscribe or, for topics that nobody
// subscribes now, have subscribed.
func (c *clients) subscription(groupName string) group.Subscription {
	c.mu.Lock()
	now, _ := c.sessions.Subscription(groupName)
	c.mu.Unlock()
	before, _ := c.state.groups.Subscription(groupName)
	return before.With(now, func(string) bool { return true })
}
