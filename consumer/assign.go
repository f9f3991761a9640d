package consumer

import (
	"cmp"
	"hash/fnv"
	"slices"
	"sort"
	"strconv"

	"github.com/rmqio/rmq/message"
)

// Strategy says which of a topic's queues a member of a group should own. Queues
// and members are sorted and without doubles. Every member computes it for itself
// from the same input, so that it must be a pure function, and all members must
// have the same one; a queue that two of them claim goes to the first that takes
// its lease. Who is not among the members gets none. It must not change the
// slices; the result may share memory with queues.
type Strategy func(queues []message.Queue, members []string, self string) []message.Queue

// Averagely is the default (RocketMQ's AllocateMessageQueueAveragely): the
// queues, in their order, are cut into one run for each member, in the order of
// the members; the first runs are longer by one when it does not come out even.
// Members that come after the last queue get none.
func Averagely(queues []message.Queue, members []string, self string) []message.Queue {
	at, found := slices.BinarySearch(members, self)
	if !found {
		return nil
	}
	size, longer := len(queues)/len(members), len(queues)%len(members)
	from := at*size + min(at, longer)
	if at < longer {
		size++
	}
	return queues[from : from+size]
}

// AveragelyByCircle deals the queues out like cards
// (AllocateMessageQueueAveragelyByCircle).
func AveragelyByCircle(queues []message.Queue, members []string, self string) (mine []message.Queue) {
	at, found := slices.BinarySearch(members, self)
	if !found {
		return nil
	}
	for ; at < len(queues); at += len(members) {
		mine = append(mine, queues[at])
	}
	return mine
}

// ByConfig owns the queues that are listed, whoever else is a member
// (AllocateMessageQueueByConfig): the members' lists must not overlap, and a
// queue that none lists is read by nobody. The topic of a listed queue may be
// empty: of every topic.
func ByConfig(mine ...message.Queue) Strategy {
	return func(queues []message.Queue, _ []string, _ string) (found []message.Queue) {
		for _, q := range queues {
			everyTopic := message.Queue{Broker: q.Broker, ID: q.ID}
			if slices.Contains(mine, q) || slices.Contains(mine, everyTopic) {
				found = append(found, q)
			}
		}
		return found
	}
}

// ByMachineRoom shares only the queues of brokers in some rooms, averagely
// (AllocateMessageQueueByMachineRoom). Queues in other rooms are for groups there.
func ByMachineRoom(roomOf func(broker string) string, rooms ...string) Strategy {
	return func(queues []message.Queue, members []string, self string) []message.Queue {
		var near []message.Queue
		for _, q := range queues {
			if slices.Contains(rooms, roomOf(q.Broker)) {
				near = append(near, q)
			}
		}
		return Averagely(near, members, self)
	}
}

// MachineRoomNearby shares the queues of each room among the members of that room,
// and those of rooms without members among all (AllocateMachineRoomNearby), with
// the inner strategy each time; nil: Averagely.
func MachineRoomNearby(roomOfBroker, roomOfMember func(string) string, inner Strategy) Strategy {
	if inner == nil {
		inner = Averagely
	}
	return func(queues []message.Queue, members []string, self string) (mine []message.Queue) {
		inRoom := map[string][]string{}
		for _, m := range members {
			room := roomOfMember(m)
			inRoom[room] = append(inRoom[room], m)
		}
		rooms := map[string][]message.Queue{}
		for _, q := range queues {
			room := roomOfBroker(q.Broker)
			rooms[room] = append(rooms[room], q)
		}
		for room, there := range rooms {
			switch near := inRoom[room]; {
			case len(near) == 0:
				mine = append(mine, inner(there, members, self)...)
			case slices.Contains(near, self):
				mine = append(mine, inner(there, near, self)...)
			}
		}
		slices.SortFunc(mine, message.Queue.Compare)
		return mine
	}
}

// virtualNodes is how often a member stands on the ring of ConsistentHash;
// RocketMQ's default is 10, with which members differ by a factor of two.
const virtualNodes = 100

// ConsistentHash moves few queues when members come and go
// (AllocateMessageQueueConsistentHash): each queue belongs to the member that
// follows it on a ring of hashes.
func ConsistentHash(queues []message.Queue, members []string, self string) (mine []message.Queue) {
	if _, found := slices.BinarySearch(members, self); !found {
		return nil
	}
	type point struct {
		hash   uint64
		member string
	}
	ring := make([]point, 0, len(members)*virtualNodes)
	for _, m := range members {
		for i := range virtualNodes {
			ring = append(ring, point{spread(m + "-" + strconv.Itoa(i)), m})
		}
	}
	slices.SortFunc(ring, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.member, b.member))
	})
	for _, q := range queues {
		h := spread(q.String())
		at := sort.Search(len(ring), func(i int) bool { return ring[i].hash >= h })
		if ring[at%len(ring)].member == self {
			mine = append(mine, q)
		}
	}
	return mine
}

// spread is FNV-1a, mixed so that names that differ in the last character lie far
// apart (the finalizer of MurmurHash3).
func spread(s string) uint64 {
	f := fnv.New64a()
	f.Write([]byte(s))
	h := f.Sum64()
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
