package consumer

import (
	"fmt"
	"slices"
	"strconv"
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
			got := Averagely(queues, members, members[i])
			if !slices.Equal(got, queues[at:at+want]) {
				t.Errorf("member %d of %d with %d queues: got %v, want %v", i, c.members, c.queues, got, queues[at:at+want])
			}
			at += want
		}
	}
	if got := Averagely(queuesOf(8), membersOf(2), "stranger"); got != nil {
		t.Errorf("who is no member: got %v, want none", got)
	}
	if got := Averagely(queuesOf(8), nil, "c000"); got != nil {
		t.Errorf("no members: got %v, want none", got)
	}
}

func roomOfBroker(b string) string { return "r" + b[1:] }

// roomOfMember has rooms r0 to r2; there are no members in r3 and on.
func roomOfMember(m string) string {
	n, _ := strconv.Atoi(m[1:])
	return fmt.Sprintf("r%d", n%3)
}

var strategies = map[string]Strategy{
	"averagely": Averagely, "circle": AveragelyByCircle, "consistent hash": ConsistentHash,
	"nearby": MachineRoomNearby(roomOfBroker, roomOfMember, nil), "nearby by circle": MachineRoomNearby(roomOfBroker, roomOfMember, AveragelyByCircle),
	"room": ByMachineRoom(roomOfBroker, "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10"),
}

func TestStrategies_GiveEveryQueueToOneMember(t *testing.T) {
	for name, assign := range strategies {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				queues := queuesOf(rapid.IntRange(0, 40).Draw(t, "queues"))
				members := membersOf(rapid.IntRange(1, 20).Draw(t, "members"))
				var all []message.Queue
				least, most := len(queues), 0
				for _, m := range members {
					mine := assign(queues, members, m)
					if !slices.IsSortedFunc(mine, message.Queue.Compare) {
						t.Fatalf("%s: got %v, which is not sorted", m, mine)
					}
					all = append(all, mine...)
					least, most = min(least, len(mine)), max(most, len(mine))
				}
				slices.SortFunc(all, message.Queue.Compare)
				if !slices.Equal(all, queues) {
					t.Fatalf("all members together: got %v, want %v", all, queues)
				}
				even := name == "averagely" || name == "circle" || name == "room"
				if even && most-least > 1 {
					t.Fatalf("spread: got %d to %d queues a member, want a difference of 1 at most", least, most)
				}
				if got := assign(queues, members, "stranger"); len(got) > 0 && name != "nearby" && name != "nearby by circle" {
					t.Fatalf("who is no member: got %v", got)
				}
			})
		})
	}
}

func TestAveragelyByCircle_DealsLikeCards(t *testing.T) {
	queues := queuesOf(5)
	got := AveragelyByCircle(queues, membersOf(2), "c001")
	if want := []message.Queue{queues[1], queues[3]}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestByConfig_OwnsWhatIsListed(t *testing.T) {
	mine := ByConfig(message.Queue{Topic: "t", Broker: "b0", ID: 1}, message.Queue{Broker: "b1", ID: 2}, message.Queue{Topic: "other", Broker: "b0", ID: 0})
	got := mine(queuesOf(8), membersOf(2), "c000")
	if want := []message.Queue{{Topic: "t", Broker: "b0", ID: 1}, {Topic: "t", Broker: "b1", ID: 2}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestByMachineRoom_LeavesOtherRoomsAlone(t *testing.T) {
	got := ByMachineRoom(roomOfBroker, "r1")(queuesOf(12), membersOf(2), "c000")
	if want := queuesOf(6)[4:]; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMachineRoomNearby_KeepsQueuesInTheirRoom(t *testing.T) {
	queues, members := queuesOf(16), membersOf(4) // rooms r0 (c000, c003), r1, r2; queues in r0 to r3
	assign := MachineRoomNearby(roomOfBroker, roomOfMember, nil)
	got := assign(queues, members, "c001")
	if want := append(queues[4:8:8], queues[13]); !slices.Equal(got, want) {
		t.Errorf("got %v, want those of its room and a quarter of the room without members: %v", got, want)
	}
}

func TestConsistentHash_MovesOnlyTheQueuesOfWhoLeaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		queues, members := queuesOf(40), membersOf(rapid.IntRange(2, 10).Draw(t, "members"))
		leaver := rapid.SampledFrom(members).Draw(t, "leaver")
		rest := slices.DeleteFunc(slices.Clone(members), func(m string) bool { return m == leaver })
		for _, m := range rest {
			after := ConsistentHash(queues, rest, m)
			for _, q := range ConsistentHash(queues, members, m) {
				if !slices.Contains(after, q) {
					t.Fatalf("%s lost %v because %s left", m, q, leaver)
				}
			}
		}
	})
}
