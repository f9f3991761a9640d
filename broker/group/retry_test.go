package group

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestRetryMax(t *testing.T) {
	for in, want := range map[int]int{0: 16, protocol.NoRetry: 0, 1: 1, 100: 100} {
		if got := RetryMax(protocol.GroupConfig{RetryMax: in}); got != want {
			t.Errorf("%d: got %d, want %d", in, got, want)
		}
	}
}

func TestValidate_Retry(t *testing.T) {
	policy := func(kind protocol.RetryKind, first, most int64) protocol.GroupConfig {
		return protocol.GroupConfig{Name: "g", RetryPolicy: protocol.RetryPolicy{Kind: kind, FirstMillis: first, MaxMillis: most}}
	}
	longest := message.MaxDelay.Milliseconds()
	for _, good := range []protocol.GroupConfig{
		{Name: "g", RetryMax: -1}, {Name: "g", RetryMax: MaxRetryMax}, policy("table", 0, 0), policy("exponential", 0, 0),
		policy("exponential", 0, 1), policy("exponential", longest, longest),
	} {
		if err := Validate(good); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []protocol.GroupConfig{
		{Name: "g", RetryMax: -2}, {Name: "g", RetryMax: MaxRetryMax + 1}, policy("often", 0, 0), policy("table", 1, 0), policy("", 0, 1),
		policy("exponential", -1, 0), policy("exponential", 0, longest+1), policy("exponential", 2, 1), policy("exponential", longest, 0),
	} {
		if err := Validate(bad); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

func TestRetry_InRecordsAndRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := protocol.GroupConfig{
			Name: "g", ConsumeEnabled: rapid.Bool().Draw(t, "consume"), PerMemberSubscriptions: rapid.Bool().Draw(t, "per member"),
			RetryMax: rapid.IntRange(-1, MaxRetryMax).Draw(t, "max"),
			RetryPolicy: protocol.RetryPolicy{
				Kind:        rapid.SampledFrom([]protocol.RetryKind{"", protocol.RetryTable, protocol.RetryExponential}).Draw(t, "kind"),
				FirstMillis: rapid.Int64Min(0).Draw(t, "first"), MaxMillis: rapid.Int64Min(0).Draw(t, "most"),
			},
		}
		data := EncodePut(cfg)
		if got, err := DecodePut(data); err != nil || got != cfg {
			t.Fatalf("got %+v, %v, want %+v", got, err, cfg)
		}
		for n := range data {
			if _, err := DecodePut(data[:n]); !errors.Is(err, ErrRecord) {
				t.Fatalf("cut to %d bytes: got %v", n, err)
			}
		}
		v := New()
		if err := v.Load(row{group: "g", config: true}.key(), appendConfig(nil, cfg)); err != nil || v.groups["g"].config != cfg {
			t.Fatalf("row: got %+v, %v", v.groups["g"], err)
		}
	})
	if got := EncodePut(protocol.GroupConfig{Name: "g", RetryMax: 5, RetryPolicy: protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 1000}}); string(got) != "\x01\x01g\x04\x06\x02\xe8\x07\x00" {
		t.Errorf("got % x", got)
	}
}

func TestAgreement_TheRetryTopicDoesNotCount(t *testing.T) {
	if got := subscribed([]string{"%RETRY%g", "%RETRY%h", "a"}, "g"); len(got) != 2 || got[0] != "%RETRY%h" {
		t.Errorf("got %v", got)
	}
}
