package consumer

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// sessionTimeout is how long a broker keeps a member that is silent. After a
// broker was away, its members have that long to report to it again.
const sessionTimeout = 6 * time.Second

// roster remembers the members of a group as each broker tells them. A broker
// that has just started knows only those that have reported already: for a
// while, those that it knew before count too, so that its restart does not send
// queues around. It is safe for concurrent use.
type roster struct {
	mu      sync.Mutex
	members map[string][]protocol.Member // by broker
	away    map[string]time.Time         // when it last did not answer, or did not know us
}

func newRoster() *roster {
	return &roster{members: map[string][]protocol.Member{}, away: map[string]time.Time{}}
}

// disturbed notes that a broker did not answer, or had no session of this client.
func (r *roster) disturbed(broker string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away[broker] = now
}

// told takes a broker's answer and returns the members that count, by client
// id. Certain is false when some of them are remembered only.
func (r *roster) told(broker string, members []protocol.Member, now time.Time) (all []protocol.Member, certain bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all = slices.Clone(members)
	if away, ok := r.away[broker]; ok && now.Sub(away) < sessionTimeout {
		for _, m := range r.members[broker] {
			if !slices.ContainsFunc(members, func(o protocol.Member) bool { return o.ClientID == m.ClientID }) {
				all = append(all, m)
			}
		}
	}
	slices.SortFunc(all, func(a, b protocol.Member) int { return cmp.Compare(a.ClientID, b.ClientID) })
	r.members[broker] = all
	return all, len(all) == len(members)
}
