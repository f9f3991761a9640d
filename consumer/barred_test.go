package consumer

import (
	"context"
	"strings"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// permit switches consuming of group g on or off.
func (s *site) permit(on bool) {
	s.Helper()
	_, err := s.admin.PatchGroup(s.Context(), "g", admin.GroupPatch{ConsumeEnabled: &on}, admin.Target{})
	s.check(err)
}

// A group that is switched off gets nothing more, its members are told once, and they
// go on by themselves.
func TestSwitch_StopsMembersAndLetsThemGoOn(t *testing.T) {
	s := newSite(t)
	var got gathering
	var told errs
	cfg := s.config("g", Subscription{})
	cfg.OnError = told.add
	s.push(cfg, got.handle)
	s.send(0, make([]message.Message, 20)...)
	s.gets("g", Subscription{}, &got)
	for round := range 2 {
		s.permit(false)
		harness.Eventually(t, "the member is told", func() bool { return told.count(protocol.NoPermission) == round+1 })
		before := got.count()
		s.send(0, make([]message.Message, 20)...)
		s.send(1, make([]message.Message, 20)...)
		lag, err := s.admin.DescribeGroup(t.Context(), "g", admin.Target{})
		s.check(err)
		if n := got.count(); n != before || lag.Lag() != 40 || lag.ConsumeEnabled {
			t.Errorf("switched off: %d messages, then %d; lag %d", before, n, lag.Lag())
		}
		s.permit(true)
		s.gets("g", Subscription{}, &got)
		if n := told.count(protocol.NoPermission); n != round+1 {
			t.Errorf("told %d times", n)
		}
	}
	if text := told.list[0].Error(); !strings.Contains(text, `consuming is switched off for group "g"`) {
		t.Errorf("told %q", text)
	}
}

// One that starts meanwhile waits.
func TestSwitch_AMemberThatStartsWaits(t *testing.T) {
	s := newSite(t)
	_, err := s.admin.CreateGroup(t.Context(), protocol.GroupConfig{Name: "g"}, admin.Target{})
	s.check(err)
	var told errs
	var got gathering
	cfg := s.config("g", Subscription{})
	cfg.OnError = told.add
	p, err := NewPush(t.Context(), cfg, got.handle)
	s.check(err)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for below
	harness.Eventually(t, "the member is told", func() bool { return told.count(protocol.NoPermission) == 1 })
	s.send(1, message.Message{})
	s.permit(true)
	s.gets("g", Subscription{}, &got)
	cancel()
	s.check(<-ran)
	if n := told.count(protocol.NoPermission); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestBarred_IsNewsOnce(t *testing.T) {
	var b barred
	for i, c := range []struct {
		broker    string
		off, news bool
	}{{"a", false, false}, {"a", true, true}, {"a", true, false}, {"b", true, true}, {"b", false, true}, {"a", true, false}, {"a", false, true}, {"a", false, false}} {
		if b.set(c.broker, c.off) != c.news {
			t.Errorf("%d: %+v", i, c)
		}
	}
}
