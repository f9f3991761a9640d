package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/meter"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/quota"
	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/broker/view"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// state is the log and the views of it. Handlers read the views and append
// records; only apply changes a view, on the log's applier goroutine.
type state struct {
	log          *store.Log
	topics       *topic.View
	groups       *group.View
	pops         *pop.View
	quotas       *quota.View
	timers       *timer.View
	transactions *transaction.View
	sequences    *sequence.View
	keys         *dedup.View
	copies       *dedup.View // that were made of messages; see sendBacks
	once         *once
	meters       *meter.Meters
	logger       *slog.Logger
	now          func() time.Time
	// on says what applies the records of a type. Types that nothing applies were
	// written by a newer version.
	on map[store.Type][]func(store.Committed) error

	// mu is held by whoever changes the views or writes them.
	mu      sync.Mutex
	rows    *view.DB
	applied uint64    // index of the last record that the views have applied
	flushed time.Time // when rows was last written
	changed bool      // a view changed since then
	// gap says that damage in the log hid records from the views. They answer for
	// what they have, and are not written: a repaired log is to be applied from
	// before the gap.
	gap bool
}

// How often the views are written. It bounds what is replayed at a start; the
// longer pause is for a log that only gets messages.
const (
	flushChanged = time.Second
	flushIdle    = 10 * time.Second
)

// openState opens views and log, and applies to the views what they lack. Views
// that are damaged are built anew, if the log still has all of what they say.
func openState(logDir, viewsPath string, cfg Config) (*state, error) {
	first, err := store.FirstIndex(logDir)
	if err != nil {
		return nil, err
	}
	s, err := openViews(viewsPath, cfg)
	if errors.Is(err, view.ErrDamaged) && first == 1 {
		cfg.Logger.Error("views are built anew from the log", "err", err)
		if err := view.SetAside(viewsPath); err != nil {
			return nil, err
		}
		s, err = openViews(viewsPath, cfg)
	}
	switch {
	case errors.Is(err, view.ErrDamaged):
		return nil, fmt.Errorf("%w: %w; they cannot be built anew, because the log in %s begins at record %d",
			store.ErrDamaged, err, logDir, first)
	case errors.Is(err, view.ErrNewer):
		return nil, fmt.Errorf("%w: %w", store.ErrNewerVersion, err)
	case err != nil:
		return nil, err
	case s.applied+1 < first:
		return nil, errors.Join(fmt.Errorf("%w: %s has applied records up to %d, and the log in %s begins at record %d",
			store.ErrDamaged, viewsPath, s.applied, logDir, first), s.rows.Close())
	}
	return s, s.openLog(logDir, cfg)
}

func (s *state) openLog(logDir string, cfg Config) (err error) {
	o := cfg.Store
	o.Position, o.Apply, o.Dropped = s.applied, s.apply, s.once.drop
	if s.log, err = store.Open(logDir, o); err != nil {
		return errors.Join(err, s.rows.Close())
	}
	if status := s.log.Status(); status.LastIndex < s.rows.Position() && !errors.Is(status.Refusing, store.ErrDamaged) {
		return errors.Join(fmt.Errorf("%w: the log in %s ends at record %d, the views have applied %d",
			store.ErrDamaged, logDir, status.LastIndex, s.rows.Position()), s.close())
	}
	return nil
}

func openViews(path string, cfg Config) (*state, error) {
	s := &state{topics: topic.New(), groups: group.New(), pops: pop.New(), quotas: quota.New(), timers: timer.New(), transactions: transaction.New(), logger: cfg.Logger, now: cfg.Now, flushed: cfg.Now()}
	s.sequences = sequence.New(sequence.Config{Expiry: cfg.Idempotence.ProducerExpiry, Limit: cfg.Idempotence.MaxProducers})
	s.keys = dedup.New(dedup.Config{Window: cfg.Idempotence.DedupWindow, Limit: cfg.Idempotence.MaxDedupKeys})
	s.copies = dedup.New(dedup.Config{Name: "copies", Window: cfg.Idempotence.DedupWindow, Limit: cfg.Idempotence.MaxDedupKeys})
	s.once = newOnce(s.sequences, s.keys, cfg.Now)
	s.meters = meter.New()
	s.on = s.appliers()
	rows, err := view.Open(path, s.topics, s.groups, s.pops, s.quotas, s.timers, s.transactions, s.sequences, s.keys, s.copies)
	if err != nil {
		return nil, err
	}
	s.rows, s.applied = rows, rows.Position()
	return s, nil
}

// appliers is the table of all types of records.
func (s *state) appliers() map[store.Type][]func(store.Committed) error {
	return map[store.Type][]func(store.Committed) error{
		store.BatchRecord:       {releasing(s.timers.ApplyRelease), releasing(s.transactions.ApplyRelease), s.inTopic(s.applySent)},
		store.TimerRecord:       {s.inTopic(s.timers.ApplyTimer), s.inTopic(s.applyHeld)},
		store.RecallRecord:      {s.timers.ApplyRecall},
		store.HalfRecord:        {s.inTopic(s.transactions.ApplyHalf), s.inTopic(s.applyHeld)},
		store.DecisionRecord:    {s.transactions.ApplyDecision},
		store.CarryRecord:       {s.applyCarry},
		store.TopicRecord:       {data(s.topics.ApplyPut)},
		store.TopicDeleteRecord: {s.dropTopic, data(s.topics.ApplyDelete)},
		store.GroupRecord:       {data(s.groups.ApplyPut)},
		store.GroupDeleteRecord: {data(s.groups.ApplyDelete), s.dropGroup},
		store.OffsetsRecord:     {s.applyOffsets},
		store.LeasesRecord:      {s.applyLeases},
		store.SubscribeRecord:   {data(s.groups.ApplySubscription)},
		store.QuotaRecord:       {data(s.quotas.Apply)},
		store.PopRecord:         {s.applyHandout},
		store.AckRecord:         {s.applyAck},
	}
}

// data is an applier of a view that needs no more than the record's place and
// payload.
func data(apply func(index uint64, data []byte) error) func(store.Committed) error {
	return func(r store.Committed) error { return apply(r.Index, r.Data) }
}

// releasing is an applier of batches with a release, which few have.
func releasing(apply func(store.Committed) error) func(store.Committed) error {
	return func(r store.Committed) error {
		if !batch.HasRelease(r.Data) {
			return nil
		}
		return apply(r)
	}
}

// inTopic is an applier of records that mean nothing once their topic is deleted.
func (s *state) inTopic(apply func(store.Committed) error) func(store.Committed) error {
	return func(r store.Committed) error {
		if _, ok := s.topics.ByID(r.Queue.Topic); !ok {
			return nil
		}
		return apply(r)
	}
}

// dropTopic takes out of the views what belongs to a topic that is deleted.
func (s *state) dropTopic(r store.Committed) error {
	s.groups.DropTopic(r.Queue.Topic)
	s.pops.DropTopic(r.Queue.Topic)
	s.timers.DropTopic(r.Queue.Topic)
	s.transactions.DropTopic(r.Queue.Topic)
	s.sequences.DropTopic(r.Queue.Topic)
	s.keys.DropTopic(r.Queue.Topic)
	s.copies.DropTopic(r.Queue.Topic)
	return nil
}

// apply is store.Options.Apply.
func (s *state) apply(r store.Committed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gap = s.gap || r.Index != s.applied+1
	s.flushIfDue()
	s.applied = r.Index
	if r.Type == store.BatchRecord && batch.IsPlain(r.Data) {
		return nil
	}
	appliers, known := s.on[r.Type]
	if !known {
		return fmt.Errorf("%w: record %d is of type %d", store.ErrNewerVersion, r.Index, r.Type)
	}
	// Numbers change with every batch, and are few however many batches there are:
	// they are no reason to write sooner than for messages alone.
	s.changed = s.changed || r.Type != store.BatchRecord || !batch.IsNumbered(r.Data)
	var errs []error
	for _, apply := range appliers {
		errs = append(errs, apply(r))
	}
	return errors.Join(errs...)
}

func (s *state) flushIfDue() {
	since := s.now().Sub(s.flushed)
	if since < flushChanged || !s.changed && since < flushIdle {
		return
	}
	if err := s.flush(); err != nil {
		// The log has it all: it is only replayed from further back.
		s.logger.Error("write views", "err", err)
	}
}

func (s *state) flush() error {
	if s.gap {
		return nil
	}
	s.flushed, s.changed = s.now(), false
	return s.rows.Flush(s.applied)
}

// settle writes the views if they have changed and, if they have not, sees to it
// that the file stays as it is even if a page of it goes bad. What must be kept
// of the log then depends on no record to come.
func (s *state) settle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied > s.rows.Position() || s.gap {
		return s.flush()
	}
	return s.rows.Settle()
}

// keepFrom is the first record of the log that the views may need again, or that
// has messages that are held back.
func (s *state) keepFrom() uint64 { return min(s.rows.Certain()+1, s.keepHeldFrom()) }

// close closes the log, and then writes the views as of its end.
func (s *state) close() error {
	if s.log == nil {
		return s.rows.Close()
	}
	err := s.log.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(err, s.flush(), s.rows.Close())
}

// append puts a record into the log and waits until it is on disk and applied.
func (s *state) append(ctx context.Context, r store.Record) error {
	done := make(chan error, 1)
	if err := s.log.Append(r, func(_ store.Committed, err error) { done <- err }); err != nil {
		return refusal(err)
	}
	select {
	case err := <-done:
		return refusal(err)
	case <-ctx.Done():
		return protocol.Errorf(protocol.UnknownOutcome, "the disk has not answered: %v", ctx.Err())
	}
}

// busyPause is what a producer is told to wait when the disk does not keep up.
const busyPause = 20 * time.Millisecond

// refusal turns an error of the store into what clients are told; one that is that
// already stays as it is.
func refusal(err error) error {
	code := protocol.SystemError
	var refused *protocol.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, store.ErrBusy):
		return &protocol.Error{Code: protocol.Busy, Remark: err.Error(), RetryAfterMillis: busyPause.Milliseconds()}
	case errors.Is(err, store.ErrDiskFull), errors.Is(err, store.ErrNoSpace), errors.Is(err, store.ErrClosed), errors.Is(err, store.ErrPoisoned):
		code = protocol.Unavailable
	case errors.Is(err, store.ErrTooLarge):
		code = protocol.IllegalMessage
	case errors.Is(err, store.ErrOutOfRange):
		code = protocol.OffsetOutOfRange
	case errors.Is(err, store.ErrDamaged):
		code = protocol.Damaged
	}
	return protocol.Errorf(code, "%v", err)
}

// outcome is what clients are told of a record that was appended and not
// committed: only when there is no room for it, or when the log is closed, is it
// certain that it is not stored.
func outcome(err error) error {
	if err == nil || errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrClosed) {
		return refusal(err)
	}
	return protocol.Errorf(protocol.UnknownOutcome, "%v", err)
}

// within looks at something between a queue's bounds, and looks again when
// retention has moved them meanwhile.
func (s *state) within(q store.QueueKey, look func(first, end int64) error) error {
	for {
		if err := look(s.log.Bounds(q)); !errors.Is(err, store.ErrOutOfRange) {
			return refusal(err)
		}
	}
}

// readable finds a topic that may be read, and one of its queues.
func (s *state) readable(name string, queue int) (store.QueueKey, error) {
	t, err := s.topic(name)
	switch {
	case err != nil:
		return store.QueueKey{}, err
	case !t.Perm.CanRead():
		return store.QueueKey{}, protocol.Errorf(protocol.NoPermission, "topic %q is not readable", name)
	}
	return queueOf(t, queue, t.ReadQueues)
}

// consuming finds a group that may consume.
func (s *state) consuming(name string) (protocol.GroupConfig, error) {
	g, ok := s.groups.Config(name)
	switch {
	case !ok:
		return g, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", name)
	case !g.ConsumeEnabled:
		return g, protocol.Errorf(protocol.NoPermission, "consuming is switched off for group %q", name)
	}
	return g, nil
}

func (s *state) topic(name string) (topic.Topic, error) {
	t, ok := s.topics.Lookup(name)
	if !ok {
		return t, protocol.Errorf(protocol.TopicNotFound, "topic %q is not known", name)
	}
	return t, nil
}

func queueOf(t topic.Topic, queue, queues int) (store.QueueKey, error) {
	if queue < 0 || queue >= queues {
		return store.QueueKey{}, protocol.Errorf(protocol.QueueNotFound, "topic %q has no queue %d; it has %d", t.Name, queue, queues)
	}
	return store.QueueKey{Topic: t.ID, Queue: uint32(queue)}, nil
}
