package protocol

import "encoding/binary"

// FilterKind says what the text of a filter is.
type FilterKind string

// The kinds of filters; package message/filter has their languages.
const (
	FilterTag FilterKind = "tag" // a || b
	FilterSQL FilterKind = "sql" // an SQL92 expression over properties
)

// Filter says which messages are wanted.
type Filter struct {
	Kind FilterKind
	Text string
}

// TopicFilter is the filter of one topic of a subscription.
type TopicFilter struct {
	Topic string     `json:"topic"`
	Kind  FilterKind `json:"kind"`
	Text  string     `json:"text"`
}

// appendFilters appends the filters of a pull.
func appendFilters(dst []byte, filters []Filter) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(filters)))
	for _, f := range filters {
		dst = appendString(appendString(dst, string(f.Kind)), f.Text)
	}
	return dst
}

// filters reads what appendFilters wrote; none are nil.
func (f *fields) filters() ([]Filter, error) {
	n := f.count(2)
	switch {
	case n > MaxPullFilters:
		return nil, Errorf(InvalidArgument, "pull with %d filters, the limit is %d", n, MaxPullFilters)
	case n == 0:
		return nil, nil
	}
	filters := make([]Filter, n)
	for i := range filters {
		filters[i] = Filter{Kind: FilterKind(f.string()), Text: f.string()}
	}
	return filters, nil
}
