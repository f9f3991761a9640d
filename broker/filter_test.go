package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func byTag(text string) protocol.Filter {
	return protocol.Filter{Kind: protocol.FilterTag, Text: text}
}

func TestFilters_AreCompiledOnce(t *testing.T) {
	var f filters
	first, err := f.of(byTag("a || b"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.of(byTag("a || b")); err != nil || again != first {
		t.Errorf("got another one, %v", err)
	}
	f.keep(&messageFilter{key: byTag("a || b")}) // as a pull does that came second
	if f.used.Len() != 1 || f.bytes != len("a || b") {
		t.Errorf("%d filters of %d bytes are kept", f.used.Len(), f.bytes)
	}
	if sql, err := f.of(protocol.Filter{Kind: protocol.FilterSQL, Text: "a = 'b'"}); err != nil || sql.expr == nil {
		t.Errorf("got %+v, %v", sql, err)
	}
}

func TestFilters_KeepsThoseUsedLast(t *testing.T) {
	var f filters
	of := func(text string) *messageFilter {
		m, err := f.of(byTag(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first, second := of("first"), of("second")
	for i := range maxFilters - 1 {
		of("first")
		of(fmt.Sprint(i))
	}
	if f.used.Len() != maxFilters || len(f.byKey) != maxFilters || of("first") != first {
		t.Errorf("%d filters are kept, or not the one that is used", f.used.Len())
	}
	if of("second") == second {
		t.Error("the one used least is kept")
	}
	for i := range 2 * maxFilterBytes / 4000 {
		of(fmt.Sprint(i) + strings.Repeat("x", 4000))
	}
	if total := 0; f.bytes > maxFilterBytes || f.bytes < maxFilterBytes-8000 {
		t.Errorf("filters of %d bytes are kept", f.bytes)
	} else {
		for key := range f.byKey {
			total += len(key.Text)
		}
		if total != f.bytes {
			t.Errorf("%d bytes are counted, they are %d", f.bytes, total)
		}
	}
}

func TestFilters_BadOnesAreRefusedWithTheirPlace(t *testing.T) {
	var f filters
	for _, tt := range []struct {
		filter protocol.Filter
		says   string
	}{
		{protocol.Filter{Kind: protocol.FilterSQL, Text: "a = "}, "column 5"},
		{protocol.Filter{Kind: protocol.FilterSQL, Text: "a > 'b'"}, "orders numbers"},
		{protocol.Filter{Kind: protocol.FilterSQL, Text: strings.Repeat("(", 9000)}, "the limit is 8192"},
		{protocol.Filter{Kind: protocol.FilterTag, Text: "a || || b"}, "column 5"},
		{protocol.Filter{Kind: "class", Text: "a"}, `"class"`},
		{protocol.Filter{}, "kind"},
	} {
		_, err := f.of(tt.filter)
		if !errors.Is(err, protocol.InvalidArgument) || !strings.Contains(fmt.Sprint(err), tt.says) {
			t.Errorf("%+v: got %v, want %q in it", tt.filter, err, tt.says)
		}
	}
	if f.used.Len() != 0 {
		t.Error("bad filters are kept")
	}
}

func TestMessageFilter_Judges(t *testing.T) {
	for _, tt := range []struct {
		filter protocol.Filter
		hash   uint32
		want   store.Verdict
	}{
		{byTag("a || b"), batch.TagHash("a"), store.Take},
		{byTag("a || b"), batch.TagHash("b"), store.Take},
		{byTag("a || b"), batch.TagHash("c"), store.Skip},
		{byTag("a || b"), batch.TagHash(""), store.Skip},
		{byTag("a || b"), 0, store.Look},
		{byTag("*"), batch.TagHash("c"), store.Take},
		{byTag("*"), 0, store.Take},
		{protocol.Filter{Kind: protocol.FilterSQL, Text: "TAGS = 'a'"}, batch.TagHash("c"), store.Look},
	} {
		m, err := compileFilter(tt.filter)
		if err != nil || m.Judge(tt.hash) != tt.want {
			t.Errorf("%+v of %d: got %v, %v, want %v", tt.filter, tt.hash, m.Judge(tt.hash), err, tt.want)
		}
	}
}

func TestScanBudget_LongExpressionsLookAtLess(t *testing.T) {
	long := protocol.Filter{Kind: protocol.FilterSQL, Text: strings.Repeat("x", 1024)}
	for _, tt := range []struct {
		filters []protocol.Filter
		steps   int
	}{
		{[]protocol.Filter{byTag(long.Text)}, scanSteps},
		{[]protocol.Filter{{Kind: protocol.FilterSQL, Text: "a = 1"}}, scanSteps},
		{[]protocol.Filter{byTag("a"), long, byTag("b")}, scanSteps / 3},
	} {
		if got := scanBudget(tt.filters); got.Steps != tt.steps || got.Bytes < got.Steps {
			t.Errorf("got %+v, want %d steps", got, tt.steps)
		}
	}
}

// What can wait to be told is kept, and told later unless it is out of date.
func TestSieve_Withholds(t *testing.T) {
	passed := protocol.PulledQueue{Index: 1, Next: 9, End: 9}
	full := store.Budget{Steps: 1, Bytes: 1}
	tests := []struct {
		name   string
		budget store.Budget
		queues []protocol.PulledQueue
		kept   bool
	}{
		{"nothing passed", full, nil, false},
		{"messages passed", full, []protocol.PulledQueue{passed}, true},
		{"to before the end", full, []protocol.PulledQueue{{Index: 1, Next: 9, End: 10}}, false},
		{"beside messages", full, []protocol.PulledQueue{passed, {Index: 0, Next: 5, End: 5, Size: 10}}, false},
		{"beside an error", full, []protocol.PulledQueue{passed, {Index: 0, Err: &protocol.Error{}}}, false},
		{"with the budget spent", store.Budget{}, []protocol.PulledQueue{passed}, false},
	}
	for _, tt := range tests {
		s, r := &sieve{budget: tt.budget}, &protocol.PullRequest{Queues: make([]protocol.PullQueue, 3)}
		resp := &protocol.PullResponse{Queues: tt.queues}
		if s.withhold(r, resp) != tt.kept || (len(resp.Queues) == 0) != (tt.kept || tt.queues == nil) {
			t.Errorf("%s: it is told %v", tt.name, resp.Queues)
		}
		if tt.kept && (r.Queues[1].Offset != 9 || s.withhold(r, &protocol.PullResponse{Queues: tt.queues})) {
			t.Errorf("%s: it goes on at %d, or keeps a second one for the first", tt.name, r.Queues[1].Offset)
		}
	}
	s := &sieve{budget: full}
	r := &protocol.PullRequest{Queues: make([]protocol.PullQueue, 3)}
	s.withhold(r, &protocol.PullResponse{Queues: []protocol.PulledQueue{passed, {Index: 2, Next: 4, End: 4}}})
	got := s.complete(&protocol.PullResponse{Queues: []protocol.PulledQueue{{Index: 2, Next: 6, End: 6, Size: 1}}})
	if len(got.Queues) != 2 || got.Queues[0].Next != 6 || got.Queues[1].Next != 9 {
		t.Errorf("complete: got %+v", got.Queues)
	}
	var none *sieve
	if resp := (&protocol.PullResponse{}); none.withhold(r, resp) || none.complete(resp) != resp {
		t.Error("a pull without filters withholds something")
	}
}
