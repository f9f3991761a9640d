package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/transport/protocol"
)

// Retention says how long a broker keeps messages. Zero values mean the defaults.
type Retention struct {
	// MaxAge is for topics that have no retention of their own; default
	// DefaultMaxAge, at least a second, negative: for ever.
	MaxAge time.Duration
	// MaxBytes bounds the files of the log, whatever the age of what is in them;
	// 0: no limit. What is needed still stays all the same: the newest segments, and
	// messages of topics that are kept until they are consumed.
	MaxBytes int64
	// Interval is how often the broker looks; default 10 s, as RocketMQ's
	// cleanResourceInterval.
	Interval time.Duration
}

// DefaultMaxAge is RocketMQ's fileReservedTime.
const DefaultMaxAge = 72 * time.Hour

const (
	retentionInterval = 10 * time.Second
	// forcedSegments is how many segments a look drops because the disk is almost
	// full, so that an operator has a moment left: RocketMQ deletes 10 files.
	forcedSegments = 10
)

func (r Retention) withDefaults() (Retention, error) {
	if r.MaxAge == 0 {
		r.MaxAge = DefaultMaxAge
	}
	if r.Interval == 0 {
		r.Interval = retentionInterval
	}
	switch {
	case r.MaxAge > 0 && r.MaxAge < protocol.MinRetentionMillis*time.Millisecond:
		return r, fmt.Errorf("retention of %v; at least %v are allowed", r.MaxAge, protocol.MinRetentionMillis*time.Millisecond)
	case r.MaxBytes < 0:
		return r, fmt.Errorf("retention of %d bytes", r.MaxBytes)
	case r.Interval < 0:
		return r, fmt.Errorf("retention that looks every %v", r.Interval)
	}
	return r, nil
}

// retention lets messages go whose time is over, and looks after the disk: it
// drops whole segments that nobody needs, and hides messages whose segment stays
// for the sake of others.
type retention struct {
	state  *state
	cfg    Retention
	now    func() time.Time
	logger *slog.Logger

	failure string // of the last look
}

func newRetention(s *state, cfg Config) *retention {
	return &retention{state: s, cfg: cfg.Retention, now: cfg.Now, logger: cfg.Logger}
}

// run looks from time to time until ctx ends.
func (r *retention) run(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			r.look(ctx)
		}
	}
}

// look does what is to be done now. What fails is tried again by the next look,
// and logged when it fails in another way than before.
func (r *retention) look(ctx context.Context) {
	text := ""
	if err := r.clean(ctx); err != nil && ctx.Err() == nil {
		text = err.Error()
	}
	if text != r.failure && text != "" {
		r.logger.Error("retention", "err", text)
	}
	r.failure = text
}

func (r *retention) clean(ctx context.Context) error {
	if refusing := r.state.log.Status().Refusing; errors.Is(refusing, store.ErrDamaged) {
		return nil // what is left of a damaged log stays as it is
	}
	unconsumed := sync.OnceValue(r.state.groups.Unconsumed)
	limits := r.limits(unconsumed)
	return errors.Join(r.state.settle(), r.carry(ctx, limits), r.drop(limits), r.hide(ctx, unconsumed))
}

// limits are those of store.Retention but KeepFrom.
func (r *retention) limits(unconsumed func() group.Unconsumed) store.Retention {
	return store.Retention{
		MaxAge: r.maxAgeOf, MaxBytes: r.cfg.MaxBytes,
		NeededFrom: func(q store.QueueKey) int64 {
			if t, ok := r.state.topics.ByID(q.Topic); ok && t.KeepUntilConsumed {
				return unconsumed().From(q.Topic, int(q.Queue))
			}
			return math.MaxInt64
		},
		Unknown: r.unknown,
	}
}

// unknown is what holds whatever the topic.
func (r *retention) unknown() store.Unknown {
	u := store.Unknown{MaxAge: max(r.cfg.MaxAge, 0)}
	for _, t := range r.state.topics.List() {
		u.Needed = u.Needed || t.KeepUntilConsumed
		if age := r.maxAge(t); u.MaxAge > 0 && (age == 0 || age > u.MaxAge) {
			u.MaxAge = age
		}
	}
	return u
}

// carry carries messages that are held back out of the segments that could go.
// Those that are too old go in any case: what is in them is carried once in that
// time. For room, only so many go that at most half of what they free is written
// again; else a broker that holds back as much as it may store would do nothing
// but carry.
func (r *retention) carry(ctx context.Context, limits store.Retention) error {
	old := limits
	old.MaxBytes = 0
	before := uint64(0)
	if spares := r.spares(old); len(spares) > 0 {
		before = spares[len(spares)-1].Next
	}
	level, err := r.state.log.CheckDisk()
	limits.Force = err == nil && level >= store.DiskClean
	spares := r.spares(limits)
	if limits.Force {
		spares = spares[:min(len(spares), forcedSegments)]
	}
	return r.state.carry(ctx, max(before, r.state.worthCarrying(spares)))
}

// spares are the segments that could go as far as that can be known: what is
// wrong with the next one, drop says.
func (r *retention) spares(limits store.Retention) []store.Spare {
	spares, _ := r.state.log.Spares(limits)
	return spares
}

// drop drops segments and, while the disk is too full, one more each time.
func (r *retention) drop(limits store.Retention) error {
	limits.KeepFrom = r.state.keepFrom()
	forced := 0
	for {
		level, err := r.state.log.CheckDisk()
		if err != nil {
			return err
		}
		limits.Force = level >= store.DiskClean && forced < forcedSegments
		dropped, err := r.state.log.Retain(limits)
		if err != nil || dropped == 0 || !limits.Force {
			return err
		}
		forced++
		r.logger.Warn("segments were dropped, whatever was in them: the disk is almost full", "segments", dropped)
	}
}

// maxAgeOf is store.Retention.MaxAge. Messages of a deleted topic are needed no
// more; what belongs to no topic goes by the default.
func (r *retention) maxAgeOf(id uint64) time.Duration {
	if id == 0 {
		return max(r.cfg.MaxAge, 0)
	}
	t, ok := r.state.topics.ByID(id)
	if !ok {
		return time.Millisecond
	}
	return r.maxAge(t)
}

// maxAge is how long a topic's messages are kept; 0: for ever.
func (r *retention) maxAge(t topic.Topic) time.Duration {
	switch {
	case t.RetentionMillis == protocol.KeepByDefault:
		return max(r.cfg.MaxAge, 0)
	case t.RetentionMillis < 0:
		return 0
	}
	return time.Duration(t.RetentionMillis) * time.Millisecond
}

// hide takes messages out of sight that are older than their topic keeps them.
// Topics are looked into only when the log has something that old.
func (r *retention) hide(ctx context.Context, unconsumed func() group.Unconsumed) error {
	oldest, err := r.state.log.Record(r.state.log.Status().FirstIndex)
	if errors.Is(err, store.ErrOutOfRange) {
		return nil // the log is empty
	}
	var errs []error
	for _, t := range r.state.topics.List() {
		age := r.maxAge(t)
		before := r.now().Add(-age).UnixMilli()
		if age == 0 || err == nil && before <= oldest.StoreMillis {
			continue
		}
		for q := range max(t.ReadQueues, t.WriteQueues) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			to := int64(math.MaxInt64)
			if t.KeepUntilConsumed {
				to = unconsumed().From(t.ID, q)
			}
			errs = append(errs, r.hideQueue(store.QueueKey{Topic: t.ID, Queue: uint32(q)}, before, to))
		}
	}
	return errors.Join(errs...)
}

// hideQueue hides what was stored before a time and lies below an offset.
func (r *retention) hideQueue(q store.QueueKey, before, below int64) error {
	if first, end := r.state.log.Bounds(q); first >= min(end, below) {
		return nil
	}
	young, err := r.state.log.OffsetAt(q, before)
	if err != nil {
		return fmt.Errorf("topic %d queue %d: %w", q.Topic, q.Queue, err)
	}
	r.state.log.Trim(q, min(young, below))
	return nil
}
