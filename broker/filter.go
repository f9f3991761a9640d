package broker

import (
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/message/filter"
	"github.com/rmqio/rmq/transport/protocol"
)

// Limits of the filters that are kept compiled.
const (
	maxFilters     = 1024
	maxFilterBytes = 1 << 20 // of their texts
)

// filters keeps filters compiled that were used last: a pull brings the text of its
// filter each time. Its zero value is ready for use, by any goroutine.
type filters struct {
	mu    sync.Mutex
	byKey map[protocol.Filter]*list.Element
	used  list.List // of *messageFilter, those used last in front
	bytes int       // of all texts
}

// of is a filter compiled. The error is a *protocol.Error with InvalidArgument that
// says at which column the filter is wrong.
func (f *filters) of(key protocol.Filter) (*messageFilter, error) {
	if m := f.kept(key); m != nil {
		return m, nil
	}
	m, err := compileFilter(key)
	if err == nil {
		f.keep(m)
	}
	return m, err
}

func (f *filters) kept(key protocol.Filter) *messageFilter {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.byKey[key]
	if e == nil {
		return nil
	}
	f.used.MoveToFront(e)
	return e.Value.(*messageFilter)
}

func (f *filters) keep(m *messageFilter) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byKey[m.key] != nil {
		return // another pull was quicker
	}
	if f.byKey == nil {
		f.byKey = map[protocol.Filter]*list.Element{}
	}
	f.byKey[m.key] = f.used.PushFront(m)
	f.bytes += len(m.key.Text)
	for f.used.Len() > maxFilters || f.bytes > maxFilterBytes {
		oldest := f.used.Remove(f.used.Back()).(*messageFilter)
		delete(f.byKey, oldest.key)
		f.bytes -= len(oldest.key.Text)
	}
}

// messageFilter is a compiled filter: by tags, or by an expression. It is a
// store.Filter.
type messageFilter struct {
	key  protocol.Filter
	tags filter.Tags
	expr *filter.Expression // nil: by tags
}

func compileFilter(key protocol.Filter) (m *messageFilter, err error) {
	m = &messageFilter{key: key}
	switch key.Kind {
	case protocol.FilterTag:
		m.tags, err = filter.ParseTags(key.Text)
	case protocol.FilterSQL:
		m.expr, err = filter.Compile(key.Text)
	default:
		return nil, protocol.Errorf(protocol.InvalidArgument, "a filter is of kind %.20q; tag and sql are known", key.Kind)
	}
	if err != nil {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%s filter: %v", key.Kind, err)
	}
	return m, nil
}

// all reports whether every message matches.
func (m *messageFilter) all() bool { return m.expr == nil && m.tags.All() }

// Judge implements store.Filter. Two tags may have one hash: what is taken by it
// is looked at by the consumer.
func (m *messageFilter) Judge(tagHash uint32) store.Verdict {
	switch {
	case m.all():
		return store.Take
	case m.expr != nil || tagHash == 0:
		return store.Look
	case m.tags.MayMatch(tagHash):
		return store.Take
	}
	return store.Skip
}

// Select implements store.Filter.
func (m *messageFilter) Select(dst, b []byte) ([]byte, int, error) {
	return batch.Select(dst, b, m.match)
}

// Count implements store.Filter.
func (m *messageFilter) Count(b []byte, from, to int) (int, error) {
	return batch.Count(b, from, to, m.match)
}

func (m *messageFilter) match(g *batch.Glance) bool {
	if m.expr != nil {
		return m.expr.Match(g)
	}
	return m.tags.Match(string(g.Tag()))
}

const (
	// tellAfter is for how long a pull that waits keeps to itself that its filters
	// have let nothing through: so late a group's offset may move past that.
	tellAfter = time.Second
	// scanSteps and scanBytes are the most that one pull looks at for filters.
	scanSteps = 20_000
	scanBytes = 16 << 20
	// weighBytes is a length of an expression: one of n times as much takes about n
	// times as long for a message, and so looks at an n-th.
	weighBytes = 512
)

// scanBudget is what a pull with the filters may look at.
func scanBudget(list []protocol.Filter) store.Budget {
	weight := 1
	for _, f := range list {
		if f.Kind == protocol.FilterSQL {
			weight = max(weight, 1+len(f.Text)/weighBytes)
		}
	}
	return store.Budget{Steps: scanSteps / weight, Bytes: scanBytes / weight}
}

// sieve is the filters of one pull, and what they have come to. It is the pull's
// goroutine's; nil is that of a pull without filters.
type sieve struct {
	filters []*messageFilter
	budget  store.Budget
	// withheld are, by their index, queues that have moved on while the pull waited,
	// without a message.
	withheld map[int]protocol.PulledQueue
}

func (p *puller) newSieve(r *protocol.PullRequest) (*sieve, error) {
	if len(r.Filters) == 0 {
		return nil, nil
	}
	s := &sieve{filters: make([]*messageFilter, len(r.Filters)), budget: scanBudget(r.Filters)}
	for i, f := range r.Filters {
		var err error
		if s.filters[i], err = p.filters.of(f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// find looks in a queue, and is not to use more than its part of the budget when so
// many queues are left.
func (s *sieve) find(log *store.Log, key store.QueueKey, q *protocol.PullQueue, maxBytes, maxCount, left int) (found store.Found, err error) {
	if q.Filter == 0 || s.filters[q.Filter-1].all() {
		return log.Find(key, q.Offset, maxBytes, maxCount)
	}
	s.budget.Spend(left, func(part *store.Budget) {
		found, err = log.FindMatching(key, q.Offset, maxBytes, maxCount, s.filters[q.Filter-1], part)
	})
	return found, err
}

// withhold takes from an answer what can wait to be told: queues that have moved on
// to their ends without a message, if there is nothing else. It reports whether
// these are the first. The request goes on behind them.
func (s *sieve) withhold(r *protocol.PullRequest, resp *protocol.PullResponse) (first bool) {
	if s == nil || s.budget.Spent() || len(resp.Queues) == 0 {
		return false
	}
	for _, q := range resp.Queues {
		if q.Err != nil || q.Size > 0 || q.Next < q.End {
			return false
		}
	}
	if s.withheld == nil {
		s.withheld, first = map[int]protocol.PulledQueue{}, true
	}
	for _, q := range resp.Queues {
		s.withheld[q.Index] = q
		r.Queues[q.Index].Offset = q.Next
	}
	resp.Queues = nil
	return first
}

// complete adds what was withheld to an answer, unless it says something newer.
func (s *sieve) complete(resp *protocol.PullResponse) *protocol.PullResponse {
	if s == nil {
		return resp
	}
	for i, q := range s.withheld {
		if !slices.ContainsFunc(resp.Queues, func(o protocol.PulledQueue) bool { return o.Index == i }) {
			resp.Queues = append(resp.Queues, q)
		}
	}
	return resp
}
