package consumer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
)

func validConfig() Config {
	return Config{NameServers: []string{"127.0.0.1:1"}, Group: "g", Subscriptions: []Subscription{{Topic: "b"}, {Topic: "a"}, {Topic: "b"}}}
}

func noEnv(string) (string, bool) { return "", false }

func ignore(context.Context, *Delivery) error { return nil }

func TestNewPushNamesEveryFault(t *testing.T) {
	cfg := Config{LookupEnv: noEnv, Group: "a b", Concurrency: -1, MaxPrefetch: -1, CommitInterval: -time.Second, From: AtOffset(-1)}
	_, err := NewPush(t.Context(), cfg, nil)
	for _, want := range []error{ErrNoNameServer, message.ErrIllegalName, ErrIllegalConfig} {
		if !errors.Is(err, want) {
			t.Errorf("got %v, want it to be %v too", err, want)
		}
	}
	for _, want := range []string{"concurrency", "prefetch", "commit interval", "start offset", "no subscription", "no handler"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %q", err, want)
		}
	}
}

func TestNewPushDefaults(t *testing.T) {
	c, err := NewPush(t.Context(), validConfig(), ignore)
	if err != nil {
		t.Fatal(err)
	}
	s := c.settings
	if c.cfg.Concurrency != 20 || s.maxPrefetch != 1000 || s.maxPrefetchBytes != 64<<20 || s.commitInterval != time.Second {
		t.Errorf("got concurrency %d, prefetch %d of %d bytes, commits every %v", c.cfg.Concurrency, s.maxPrefetch, s.maxPrefetchBytes, s.commitInterval)
	}
	if !slices.Equal(s.topics, []string{"%RETRY%g", "a", "b"}) {
		t.Errorf("topics: got %v, want a, b and the retry topic", s.topics)
	}
	if s.order != orderGroups {
		t.Errorf("order: got %v, want by message groups", s.order)
	}
}

func TestNewPullNeedsSubscriptionsInAGroupOnly(t *testing.T) {
	if _, err := NewPull(t.Context(), PullConfig{NameServers: []string{"127.0.0.1:1"}, Group: "g"}); !errors.Is(err, ErrIllegalConfig) {
		t.Errorf("group without subscription: got %v, want ErrIllegalConfig", err)
	}
	p, err := NewPull(t.Context(), PullConfig{NameServers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatalf("no group, to be assigned: %v", err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestDoubled(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1000: 30 * time.Second} {
		if got := doubled(time.Second, 30*time.Second, failures); got != want {
			t.Errorf("after %d failures: got %v, want %v", failures, got, want)
		}
	}
}
