package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// DefaultBroadcastRetries is how often a broadcasting consumer tries a message again
// that keeps no place: GroupConfig.RetryMax as it is by default.
const DefaultBroadcastRetries = 16

// BroadcastGroup names the group whose offsets are those of one member, with
// BrokerOffsets: GROUP%BROADCAST%CLIENT, in which each byte of the client id that is
// not a letter, a digit, "-" or "_" is %XX. It is an ordinary group with that one
// member: its lag can be asked for, it can be reset, and it should be deleted when
// the member will not come back.
func BroadcastGroup(group, clientID string) string {
	return group + "%BROADCAST%" + escaped(clientID, "-_")
}

// broadcasting makes the settings those of a member that reads everything. Group is
// that of its offsets on the brokers then, or none.
func (s *settings) broadcasting(dir string, onBroker bool) error {
	s.broadcast = s.group
	if s.client.ClientID == "" {
		s.client.ClientID = hostID(s.group)
	}
	if onBroker {
		if dir != "" {
			return fmt.Errorf("%w: offsets are kept in %q or on the brokers, not both", ErrIllegalConfig, dir)
		}
		s.group = BroadcastGroup(s.group, s.client.ClientID)
		return message.CheckGroup(s.group)
	}
	s.group, s.offsetsDir = "", dir
	if dir == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return fmt.Errorf("%w: no folder for offsets: %w; set OffsetsDir", ErrIllegalConfig, err)
		}
		s.offsetsDir = filepath.Join(config, "rmq", "offsets")
	}
	return nil
}

// hostID is the client id of a host's member of a group; it is the same after each
// start.
func hostID(group string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%.100s@%s", escaped(host, "-_."), group)
}

// checkBroadcast refuses fields that have a meaning for broadcasting alone.
func checkBroadcast(broadcast bool, dir string, onBroker bool) error {
	if !broadcast && (dir != "" || onBroker) {
		return fmt.Errorf("%w: OffsetsDir and BrokerOffsets are for Broadcast", ErrIllegalConfig)
	}
	return nil
}

// announcedGroup is the group whose member the consumer is.
func (s *settings) announcedGroup() string { return cmp.Or(s.broadcast, s.group) }

// openLedger opens the file of offsets, if the consumer has one.
func (s *settings) openLedger() (*ledger, error) {
	if s.offsetsDir == "" {
		return nil, nil
	}
	return openLedger(s.offsetsDir, s.client.ClientID, s.broadcast)
}

// announce tells the brokers of the consumer, or what has changed of it.
func (e *engine) announce() { e.client.Announce(nil, e.subscriptions()) }

// subscriptions are what brokers are told. The member of a broadcast group that keeps
// its offsets on the brokers is in two groups: the one it is of, so that others can
// be compared with it, and that of its offsets.
func (e *engine) subscriptions() []protocol.Subscription {
	own := protocol.Subscription{Group: e.group, Topics: e.topics, Filters: e.filters.announced(), Start: e.starts.announced()}
	suspended, perSecond := e.buffer.throttled()
	own.Suspended, own.RatePerHour = suspended, int64(math.Round(min(perSecond*3600, 1<<53)))
	if e.broadcast == "" {
		return []protocol.Subscription{own}
	}
	all := own
	all.Group, all.Broadcast = e.broadcast, true
	if e.group == "" {
		return []protocol.Subscription{all}
	}
	return []protocol.Subscription{all, own}
}

// keep writes offsets to the member's file: not that of a queue which is lost, for it
// may be forgotten already.
func (e *engine) keep(offsets []pending) error {
	err := e.ledger.change(func(all map[message.Queue]int64) {
		for _, p := range offsets {
			if e.buffer.get(p.queue.queue) == p.queue {
				all[p.queue.queue] = p.offset
			}
		}
	})
	if err != nil {
		return err
	}
	for _, p := range offsets {
		e.buffer.markCommitted(p)
	}
	return nil
}

// forget takes a queue out of the member's file that its broker does not have.
func (e *engine) forget(q message.Queue, err error) {
	if e.ledger == nil || !errors.Is(err, protocol.TopicNotFound) && !errors.Is(err, protocol.QueueNotFound) {
		return
	}
	if err := e.ledger.forget(q); err != nil {
		e.log.Warn("offset of a queue that is gone stays in the file", "topic", q.Topic, "broker", q.Broker, "queue", q.ID, "error", err)
	}
}

// judgeAlone decides what is to become of a message of a broadcast that failed: no
// other member can be asked, so it is tried again here, or dropped.
func (c *Push) judgeAlone(it *item, err error) verdict {
	limit := c.cfg.MaxReconsumeTimes
	if limit == 0 && !it.laned {
		limit = DefaultBroadcastRetries
	}
	v := verdict{pause: c.cfg.SuspendTime}
	if !it.laned {
		v.pause = doubled(handlerRetryFirst, handlerRetryMost, it.Attempt)
	}
	var after *retryAfter
	if errors.As(err, &after) {
		v.pause = after.pause
	}
	v.drop = errors.Is(err, ErrReject) || limit != 0 && it.Attempt > max(limit, 0)
	return v
}

// dropped tells of a message that is given up.
func (e *engine) dropped(it *item, err error) {
	if e.onFault == nil {
		return
	}
	q := it.queue.queue
	e.onFault(client.Wrap("process", q.Topic, q.Broker,
		fmt.Errorf("%w: %s at %v offset %d, after %d attempts: %w", ErrDropped, it.ID, q, it.offset, it.Attempt, err)))
}
