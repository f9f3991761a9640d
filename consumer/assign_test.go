package consumer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

func queuesOf(n int) []message.Queue {
	queues := make([]message.Queue, n)
	for i := range queues {
		queues[i] = message.Queue{Topic: "t", Broker: fmt.Sprintf("b%d", i/4), ID: i % 4}
	}
	return queues
}

func membersOf(n int) []string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf("c%03d", i)
	}
	return members
}

// The counts are those of AllocateMessageQueueAveragely.
func TestAveragely(t *testing.T) {
	for _, c := range []struct {
		queues, members int
		want            []int
	}{
		{0, 1, []int{0}},
		{8, 1, []int{8}},
		{8, 2, []int{4, 4}},
		{8, 3, []int{3, 3, 2}},
		{7, 3, []int{3, 2, 2}},
		{2, 4, []int{1, 1, 0, 0}},
	} {
		queues, members := queuesOf(c.queues), membersOf(c.members)
		at := 0
		for i, want := range c.want {
			got := averagely(queues, members, members[i])
			if !slices.Equal(got, queues[at:at+want]) {
				t.Errorf("member %d of %d with %d queues: got %v, want %v", i, c.members, c.queues, got, queues[at:at+want])
			}
			at += want
		}
	}
	if got := averagely(queuesOf(8), membersOf(2), "stranger"); got != nil {
		t.Errorf("who is no member: got %v, want none", got)
	}
	if got := averagely(queuesOf(8), nil, "c000"); got != nil {
		t.Errorf("no members: got %v, want none", got)
	}
}

func TestAveragelyGivesEveryQueueOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		queues := queuesOf(rapid.IntRange(0, 40).Draw(t, "queues"))
		members := membersOf(rapid.IntRange(1, 20).Draw(t, "members"))
		var all []message.Queue
		least, most := len(queues), 0
		for _, m := range members {
			mine := averagely(queues, members, m)
			all = append(all, mine...)
			least, most = min(least, len(mine)), max(most, len(mine))
		}
		if !slices.Equal(all, queues) {
			t.Fatalf("all members together: got %v, want %v", all, queues)
		}
		if most-least > 1 {
			t.Fatalf("spread: got %d to %d queues a member, want a difference of 1 at most", least, most)
		}
	})
}
