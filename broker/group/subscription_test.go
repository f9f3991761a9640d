package group

import (
	"errors"
	"slices"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

// subscriptionOf is what a member has that subscribes the text.
func subscriptionOf(text string) Subscription {
	s := NewSessions(0)
	req := subscribing("c", text)
	if _, err := s.Heartbeat(at(0), req); err != nil {
		panic(err)
	}
	all, _ := s.Subscription(req.Consumers[0].Group)
	return all
}

func TestSubscription_OfAGroup(t *testing.T) {
	s := agreeing(false)
	if _, ok := s.Subscription("g"); ok {
		t.Error("nobody subscribes")
	}
	beat(t, s, at(0), subscribing("a", "g:x=t,%RETRY%g"), "g")
	beat(t, s, at(0), subscribing("b", "g:y,x=t"), "g")
	beat(t, s, at(0), subscribing("c", "h:z"), "h")
	got, ok := s.Subscription("g")
	f, filtered := got.Filter("x")
	if _, other := got.Filter("y"); !ok || !slices.Equal(got.Topics(), []string{"x", "y"}) || !filtered || f.Text != "t" || other {
		t.Errorf("got %v", got)
	}
	if got.Has("z") || got.Has("%RETRY%g") || !got.Has("y") {
		t.Errorf("got %v", got)
	}
	s.Leave(at(1), "a", "g")
	s.Leave(at(1), "b", "g")
	if got, ok := s.Subscription("g"); ok {
		t.Errorf("got %v of nobody", got)
	}
}

func TestSubscription_With(t *testing.T) {
	before, now := subscriptionOf("g:a=x,b=y,c,d"), subscriptionOf("g:b=z,e")
	got := before.With(now, func(topic string) bool { return topic != "d" })
	if want := subscriptionOf("g:a=x,b=z,c,e"); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !now.Equal(subscriptionOf("g:e,b=z")) || now.Equal(subscriptionOf("g:e,b=y")) || now.Equal(subscriptionOf("g:b=z")) {
		t.Error("equal is not equal")
	}
	if all := (Subscription{}).With(before, nil); !all.Equal(before) {
		t.Errorf("got %v, want %v", all, before)
	}
}

// restarted are the sessions of a broker that was started at second 0, and gave
// queues of group g to clients a and b before.
func restarted(must bool, remembered string) *Sessions {
	s := agreeing(must)
	s.Remembered = func(group string) (Subscription, bool) {
		if group != "g" || remembered == "" {
			return Subscription{}, false
		}
		return subscriptionOf(remembered), true
	}
	for _, client := range []string{"a", "b"} {
		s.Adopt(at(0), client, "g")
	}
	return s
}

// Whoever reports first after a restart of the broker cannot push out those who
// were there before it.
func TestRemembered_HoldsWhileMembersMayComeBack(t *testing.T) {
	s := restarted(true, "g:x=t")
	if e := refused(t, s, at(1), subscribing("new", "g:y"), `"new" subscribes y`, "subscribed x (tag t)"); e.RetryAfterMillis != 6000 {
		t.Errorf("asked to try again after %d ms", e.RetryAfterMillis)
	}
	beat(t, s, at(1), subscribing("new", "h:y"), "h") // of another group nothing is known
	refused(t, s, at(1), subscribing("new", "g:x"))
	refused(t, s, at(1), subscribing("a", "g:y"), "subscribed x (tag t)") // b may come back
	beat(t, s, at(2), subscribing("a", "g:x=t"), "g")
	refused(t, s, at(3), subscribing("new", "g:y"))
	s.Leave(at(3), "b", "g")
	beat(t, s, at(4), subscribing("a", "g:y"), "g") // it is alone
	beat(t, s, at(4), subscribing("new", "g:y"), "g", "h")
}

func TestRemembered_EndsWhenNobodyComesBack(t *testing.T) {
	s := restarted(true, "g:x")
	refused(t, s, at(5), subscribing("new", "g:y"))
	s.Expire(at(6))
	beat(t, s, at(6), subscribing("new", "g:y"), "g")
}

// Who is expected back alone has nobody to agree with.
func TestRemembered_TheOnlyMemberMayChange(t *testing.T) {
	s := restarted(true, "g:x")
	s.Leave(at(1), "b", "")
	beat(t, s, at(1), subscribing("a", "g:y"), "g")
	beat(t, s, at(1), subscribing("new", "g:y"), "g")
}

func TestRemembered_LetsMembersDifferIfTheyMay(t *testing.T) {
	s := restarted(false, "g:x=t,y")
	refused(t, s, at(1), subscribing("new", "g:x,z"))
	beat(t, s, at(1), subscribing("new", "g:x=t,z"), "g")
}

func TestRemembered_NothingRefusesNobody(t *testing.T) {
	s := restarted(true, "")
	if _, err := s.Heartbeat(at(1), subscribing("new", "g:y")); err != nil {
		t.Error(err)
	}
	if _, err := s.Heartbeat(at(1), subscribing("a", "g:x")); !errors.Is(err, protocol.Conflict) {
		t.Errorf("got %v", err)
	}
}
