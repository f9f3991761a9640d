package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/filter"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestSubscription_FiltersAreChecked(t *testing.T) {
	tests := []struct {
		name string
		subs []Subscription
		says string // empty: it is fine
	}{
		{"tags", []Subscription{{Topic: "t", Tag: "a || b"}}, ""},
		{"any tag", []Subscription{{Topic: "t", Tag: "*"}}, ""},
		{"an expression", []Subscription{{Topic: "t", SQL: "a > 1 AND b IS NOT NULL"}}, ""},
		{"a topic twice", []Subscription{{Topic: "t", Tag: "b||a"}, {Topic: "t", Tag: "a || b"}}, ""},
		{"both", []Subscription{{Topic: "t", Tag: "a", SQL: "a = 1"}}, "both tags and SQL"},
		{"both, one of which is any", []Subscription{{Topic: "t", Tag: "*", SQL: "a = 1"}}, "both tags and SQL"},
		{"bad tags", []Subscription{{Topic: "t", Tag: "a ||"}}, "column 5"},
		{"a bad expression", []Subscription{{Topic: "t", SQL: "a = = 1"}}, "column 5"},
		{"an expression that compares what cannot be", []Subscription{{Topic: "t", SQL: "1 = 'a'"}}, "cannot be compared"},
		{"two filters of a topic", []Subscription{{Topic: "t", Tag: "a"}, {Topic: "t", Tag: "b"}}, `topic "t" is subscribed with two filters`},
		{"one with and one without", []Subscription{{Topic: "t", Tag: "a"}, {Topic: "t"}}, `topic "t" is subscribed with two filters`},
	}
	for _, tt := range tests {
		push := Config{NameServers: []string{"127.0.0.1:1"}, Group: "g", Subscriptions: tt.subs}
		pull := PullConfig{NameServers: []string{"127.0.0.1:1"}, Subscriptions: tt.subs}
		_, pushErr := push.settings()
		_, pullErr := pull.settings()
		for kind, err := range map[string]error{"push": pushErr, "pull": pullErr} {
			switch {
			case tt.says == "" && err != nil:
				t.Errorf("%s, %s: %v", kind, tt.name, err)
			case tt.says != "" && (!errors.Is(err, ErrIllegalConfig) || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("%s, %s: got %v, want %q in it", kind, tt.name, err, tt.says)
			}
		}
	}
	_, err := filtersOf([]Subscription{{Topic: "t", SQL: "a = "}})
	if !errors.Is(err, filter.ErrFilter) {
		t.Errorf("got %v, want ErrFilter", err)
	}
}

func TestTopicFilters_AreAnnounced(t *testing.T) {
	f, err := filtersOf([]Subscription{{Topic: "z", Tag: "b||a"}, {Topic: "all"}, {Topic: "a", SQL: "p = 1"}, {Topic: "any", Tag: "*"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []protocol.TopicFilter{{Topic: "a", Kind: "sql", Text: "p = 1"}, {Topic: "z", Kind: "tag", Text: "a || b"}}
	if got := f.announced(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := (topicFilters{}).announced(); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}

// A pull has each filter once, and what it brings is looked at again.
func TestDraft_Sifts(t *testing.T) {
	filters, err := filtersOf([]Subscription{{Topic: "a", Tag: "x"}, {Topic: "b", SQL: "p = 1"}})
	if err != nil {
		t.Fatal(err)
	}
	var d draft
	for _, topic := range []string{"b", "c", "a", "b"} {
		d.queues = append(d.queues, newProcessQueue(message.Queue{Topic: topic}, 1, 0, -1, orderFree))
	}
	d.ask(bounds{count: 10, bytes: 1000})
	d.sift(filters)
	want := []protocol.Filter{{Kind: protocol.FilterSQL, Text: "p = 1"}, {Kind: protocol.FilterTag, Text: "x"}}
	var numbers []int
	for _, q := range d.request.Queues {
		numbers = append(numbers, q.Filter)
	}
	if !slices.Equal(d.request.Filters, want) || !slices.Equal(numbers, []int{1, 0, 2, 1}) {
		t.Errorf("got filters %v, numbers %v", d.request.Filters, numbers)
	}
	rapid.Check(t, func(t *rapid.T) {
		queue := rapid.IntRange(0, 3).Draw(t, "queue")
		var items []item
		var wanted []int64
		for i := range rapid.IntRange(0, 10).Draw(t, "messages") {
			var it item
			it.QueueOffset = int64(i)
			it.Tag = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tag")
			it.Properties = map[string]string{"p": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "p")}
			items = append(items, it)
			if queue == 1 || queue == 2 && it.Tag == "x" || queue%3 == 0 && it.Properties["p"] == "1" {
				wanted = append(wanted, it.QueueOffset)
			}
		}
		var got []int64
		for _, it := range d.wanted(queue, items) {
			got = append(got, it.QueueOffset)
		}
		if !slices.Equal(got, wanted) {
			t.Fatalf("queue %d: got %v, want %v", queue, got, wanted)
		}
	})
}

// What a broker passes over is passed over here: it is committed, and a reader that
// waits for the queue's end gets there.
func TestBuffer_PassesOverWhatIsFilteredOut(t *testing.T) {
	b := newBuffer(t.Context(), orderGroups, bounds{count: 10, bytes: 1000})
	t.Cleanup(b.close)
	queue := message.Queue{Topic: "t", Broker: "b"}
	q := newProcessQueue(queue, 1, 0, 0, b.order)
	b.hold(q, make(chan struct{}, 1))
	if !b.admit(pulled{queue: q, next: 7, end: 9}) {
		t.Error("an answer without messages that moves on is none")
	}
	if !q.behind {
		t.Error("the queue is not pulled again at once")
	}
	it := item{}
	it.QueueOffset = 7
	b.admit(pulled{queue: q, items: []item{it}, next: 9, end: 9, bytes: 10})
	if got := b.uncommitted(queue); len(got) != 1 || got[0].offset != 7 {
		t.Errorf("got %v to commit, want 7: the message is not finished", got)
	}
	started, _, err := b.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.finish(started)
	if got := b.uncommitted(queue); len(got) != 1 || got[0].offset != 9 {
		t.Errorf("got %v to commit, want 9", got)
	}
	if at, _ := b.position(queue); at != 9 || q.behind {
		t.Errorf("it is at %d, behind %t", at, q.behind)
	}
	if b.admit(pulled{queue: q, next: 9, end: 9}) {
		t.Error("an answer that says nothing is taken for one")
	}
}

// A consumer whose filter the broker does not know gets what it wants all the same.
func TestPull_FiltersWhatAnyBrokerSends(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 10)
	cfg := pullConfig(b)
	cfg.Subscriptions = []Subscription{{Topic: "t", SQL: "nothing IS NOT NULL"}}
	p := newTestPull(t, cfg)
	for d, err := range p.MessagesToEnd(t.Context()) {
		t.Fatalf("got %v, %v", d, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	last := b.pulls[len(b.pulls)-1]
	if fmt.Sprint(last.Filters) != "[{sql nothing IS NOT NULL}]" || last.Queues[0].Filter != 1 {
		t.Errorf("the broker is asked %+v", last)
	}
}
