package consumer

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

func TestRosterRemembersMembersOfABrokerThatWasAway(t *testing.T) {
	now, r := time.Now(), newRoster()
	tell := func(at time.Time, wantCertain bool, want int, members ...protocol.Member) {
		t.Helper()
		got, certain := r.told("b", members, at)
		if len(got) != want || certain != wantCertain {
			t.Fatalf("got %v, certain %v; want %d members, certain %v", got, certain, want, wantCertain)
		}
	}
	tell(now, true, 3, member("c1"), member("c2"), member("c3"))
	tell(now, true, 2, member("c1"), member("c2")) // c3 has left
	r.disturbed("b", now)
	tell(now.Add(time.Second), false, 2, member("c1"))
	tell(now.Add(2*time.Second), true, 2, member("c1"), member("c2"))
	tell(now.Add(3*time.Second), false, 3, member("c1"), member("c4"))
	tell(now.Add(sessionTimeout), true, 1, member("c1"))
}
