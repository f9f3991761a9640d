package admin

import (
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
)

var errSearch = errors.New("not searched")

// sequence yields a message for each time, an error for 0, and counts in ended
// that it came to an end or was left.
func sequence(ended *int, times ...int) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		defer func() { *ended++ }()
		for _, at := range times {
			var err error
			if at == 0 {
				err = errSearch
			}
			if !yield(message.Stored{StoreTime: time.UnixMilli(int64(at))}, err) {
				return
			}
		}
	}
}

func TestMergeNewest(t *testing.T) {
	for _, x := range []struct {
		sequences [][]int
		limit     int
		want      []int
	}{
		{nil, 9, nil},
		{[][]int{{}, {}}, 9, nil},
		{[][]int{{5, 3, 1}}, 9, []int{5, 3, 1}},
		{[][]int{{5, 3, 1}, {6, 4, 2}, {}}, 9, []int{6, 5, 4, 3, 2, 1}},
		{[][]int{{3, 3}, {3}}, 9, []int{3, 3, 3}},
		{[][]int{{0, 5, 0}, {0}, {4, 0, 3}}, 9, []int{0, 0, 5, 0, 4, 0, 3}},
		{[][]int{{5, 3, 1}, {6, 4, 2}}, 2, []int{6, 5}},
		{[][]int{{0, 5}, {6}}, 1, []int{0}},
		{[][]int{{5, 0, 4}, {3}}, 2, []int{5, 0}},
	} {
		var all []iter.Seq2[message.Stored, error]
		var got []int
		ended := 0
		for _, times := range x.sequences {
			all = append(all, sequence(&ended, times...))
		}
		mergeNewest(all, func(m message.Stored, err error) bool {
			at := int(m.StoreTime.UnixMilli())
			if err != nil {
				at = 0
			}
			got = append(got, at)
			return len(got) < x.limit
		})
		if !slices.Equal(got, x.want) {
			t.Errorf("%v: got %v, want %v", x.sequences, got, x.want)
		}
		if x.limit == 9 && ended != len(all) || ended > len(all) {
			t.Errorf("%v: %d sequences ended", x.sequences, ended)
		}
	}
}
