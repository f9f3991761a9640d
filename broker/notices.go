package broker

import (
	"context"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// noticePace is the time between two notices, on average. Each has a member look at
// its group and its leases, which costs more than to send it.
const noticePace = 500 * time.Microsecond

// notices are the groups whose members are to be told of a change. When many members
// come or go at once, every one of them changes the group, and all would be told each
// time: changes of a group gather while others are told.
type notices struct {
	wake chan struct{} // holds one

	mu  sync.Mutex
	due map[string]struct{}
}

func newNotices() *notices {
	return &notices{wake: make(chan struct{}, 1), due: map[string]struct{}{}}
}

func (n *notices) add(group string) {
	n.mu.Lock()
	n.due[group] = struct{}{}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *notices) take() map[string]struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	due := n.due
	n.due = map[string]struct{}{}
	return due
}

// notify has the members of a group told that members or leases changed.
func (c *clients) notify(groupName string) { c.notices.add(groupName) }

// runNotices tells members until ctx ends.
func (c *clients) runNotices(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C: // the last notices are paid for
		}
		select {
		case <-ctx.Done():
			return
		case <-c.notices.wake:
		}
		told := 0
		for g := range c.notices.take() {
			told += c.tell(g)
		}
		pause.Reset(time.Duration(told) * noticePace)
	}
}

// tell tells all members of a group at once, and returns how many they are.
func (c *clients) tell(groupName string) int {
	c.mu.Lock()
	var inboxes []string
	for _, m := range c.sessions.Members(groupName) {
		inboxes = append(inboxes, c.sessions.Inbox(m.ClientID))
	}
	c.mu.Unlock()
	event := protocol.MembersChangedEvent{Broker: c.broker, Group: groupName}
	for _, inbox := range inboxes {
		if err := c.conn.Publish(inbox, protocol.MembersChanged, &event); err != nil {
			// Members look by themselves from time to time.
			c.logger.Warn("notify member", "inbox", inbox, "err", err)
		}
	}
	return len(inboxes)
}
