package client

import (
	"errors"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// Refusal is that a broker takes no session of the client: another client has its
// id, or the members of a group subscribe otherwise (protocol.Conflict).
type Refusal struct {
	Err error
	// Final is set when the client never had a session at the broker, and will not
	// have one as long as the others are there. Otherwise its session has ended, as
	// after a pause of the program, others came meanwhile, and it goes on asking.
	Final bool
}

// refusals follows what brokers answer to heartbeats.
type refusals struct {
	mu      sync.Mutex
	brokers map[string]*standing
	fn      func(Refusal)
}

// standing is how a client stands at one broker.
type standing struct {
	accepted bool // at least once
	told     bool // of the refusals since then
	over     bool // told that it is final
	// final is when a refusal is final: the session that is in the way of the first
	// one is over by then, unless its client goes on.
	final time.Time
}

// OnRefused has fn called when a broker refuses the client's heartbeats: once each
// time that it begins, and when it turns out to be Final. It replaces an earlier fn,
// and must not block.
func (c *Client) OnRefused(fn func(Refusal)) {
	c.refusals.mu.Lock()
	defer c.refusals.mu.Unlock()
	c.refusals.fn = fn
}

// answered takes a broker's answer to a heartbeat. What nobody wants to be told is
// returned.
func (r *refusals) answered(broker string, err error, now time.Time) *Refusal {
	refusal, fn := r.judge(broker, err, now)
	if refusal == nil || fn == nil {
		return refusal
	}
	fn(*refusal)
	return nil
}

// judge is what is to be told, if anything.
func (r *refusals) judge(broker string, err error, now time.Time) (*Refusal, func(Refusal)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.brokers[broker]
	if s == nil {
		s = &standing{}
		if r.brokers == nil {
			r.brokers = map[string]*standing{}
		}
		r.brokers[broker] = s
	}
	var conflict *protocol.Error
	switch {
	case err == nil:
		*s = standing{accepted: true}
		return nil, nil
	case !errors.As(err, &conflict) || conflict.Code != protocol.Conflict:
		return nil, nil
	case s.final.IsZero():
		s.final = now.Add(conflict.RetryAfter())
	}
	final := !s.accepted && !now.Before(s.final)
	if s.over || s.told && !final {
		return nil, nil
	}
	s.told, s.over = true, final
	return &Refusal{Err: Wrap("heartbeat", "", broker, err), Final: final}, r.fn
}
