package consumer

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/rmqio/rmq/message/filter"
	"github.com/rmqio/rmq/transport/protocol"
)

// topicFilter is what a subscription lets through of its topic. Brokers look first,
// by the hash of a tag or by the expression, so that what is not wanted does not
// cross the network; the consumer looks again, exactly.
type topicFilter struct {
	wire protocol.Filter
	tags filter.Tags
	sql  *filter.Expression // nil: by tags
}

// filter compiles what the subscription says; nil: all messages are wanted.
func (s Subscription) filter() (*topicFilter, error) {
	if s.SQL == "" {
		tags, err := filter.ParseTags(s.Tag)
		if err != nil || tags.All() {
			return nil, err
		}
		return &topicFilter{wire: protocol.Filter{Kind: protocol.FilterTag, Text: tags.String()}, tags: tags}, nil
	}
	if s.Tag != "" {
		return nil, errors.New("it has both tags and SQL")
	}
	sql, err := filter.Compile(s.SQL)
	if err != nil {
		return nil, err
	}
	return &topicFilter{wire: protocol.Filter{Kind: protocol.FilterSQL, Text: sql.String()}, sql: sql}, nil
}

func (f *topicFilter) match(it *item) bool {
	if f.sql != nil {
		return f.sql.Match(filter.Of{Message: &it.Message})
	}
	return f.tags.Match(it.Tag)
}

// topicFilters are the filters of a consumer, by topic; a topic without one is read
// as a whole.
type topicFilters map[string]*topicFilter

// filtersOf compiles the filters of subscriptions. A topic may be there twice, with
// one filter.
func filtersOf(subscriptions []Subscription) (topicFilters, error) {
	var errs []error
	filters, first := topicFilters{}, map[string]protocol.Filter{}
	for _, s := range subscriptions {
		f, err := s.filter()
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: subscription of topic %q: %w", ErrIllegalConfig, s.Topic, err))
			continue
		}
		var wire protocol.Filter
		if f != nil {
			wire, filters[s.Topic] = f.wire, f
		}
		if before, twice := first[s.Topic]; twice && before != wire {
			errs = append(errs, fmt.Errorf("%w: topic %q is subscribed with two filters", ErrIllegalConfig, s.Topic))
		}
		first[s.Topic] = wire
	}
	return filters, errors.Join(errs...)
}

// announced is what brokers are told of them.
func (f topicFilters) announced() []protocol.TopicFilter {
	var list []protocol.TopicFilter
	for _, topic := range slices.Sorted(maps.Keys(f)) {
		list = append(list, protocol.TopicFilter{Topic: topic, Kind: f[topic].wire.Kind, Text: f[topic].wire.Text})
	}
	return list
}

// sift has the pull bring only what the filters let through.
func (d *draft) sift(filters topicFilters) {
	if len(filters) == 0 {
		return
	}
	numbers := map[string]int{}
	for i := range d.request.Queues {
		q := &d.request.Queues[i]
		f := filters[q.Topic]
		if f == nil {
			continue
		}
		if numbers[q.Topic] == 0 {
			d.filters = append(d.filters, f)
			d.request.Filters = append(d.request.Filters, f.wire)
			numbers[q.Topic] = len(d.filters)
		}
		q.Filter = numbers[q.Topic]
	}
}

// wanted takes what was pulled of a queue and is not wanted out.
func (d *draft) wanted(queue int, items []item) []item {
	if len(d.filters) == 0 {
		return items
	}
	n := d.request.Queues[queue].Filter
	if n == 0 {
		return items
	}
	kept := items[:0]
	for i := range items {
		if !d.filters[n-1].match(&items[i]) {
			continue
		}
		if len(kept) < i {
			items[len(kept)] = items[i]
		}
		kept = items[:len(kept)+1]
	}
	return kept
}
