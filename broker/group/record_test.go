package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// TestRecordBytes pins the bytes that the package comment shows.
func TestRecordBytes(t *testing.T) {
	offsets := []Offset{
		{TopicID: 300, Queue: 7, Offset: 1000, Fence: 5},
		{TopicID: 1, Queue: 0, Offset: 0, Reset: true},
	}
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"put", EncodePut(Default("g1")), []byte{1, 2, 'g', '1', 1}},
		{"put of a disabled group", EncodePut(protocol.GroupConfig{Name: "g1"}), []byte{1, 2, 'g', '1', 0}},
		{"delete", EncodeDelete("g1"), []byte{1, 2, 'g', '1'}},
		{"offsets", EncodeOffsets("g1", offsets), []byte{1, 2, 'g', '1', 2, 0xac, 0x02, 7, 0, 0xe8, 0x07, 5, 1, 0, 1, 0, 0}},
		{"grant", EncodeLeases("g1", 300, "c", []int{1, 200}), []byte{1, 0, 2, 'g', '1', 0xac, 0x02, 1, 'c', 2, 1, 0xc8, 0x01}},
		{"release of any", EncodeLeases("g1", 300, "", []int{1}), []byte{1, 1, 2, 'g', '1', 0xac, 0x02, 0, 1, 1}},
		{"release", EncodeRelease("g1", 300, "c", []int{1}), []byte{1, 1, 2, 'g', '1', 0xac, 0x02, 1, 'c', 1, 1}},
		{"subscription", EncodeSubscription("g1", subscriptionOf("g1:a,b=x,c")), []byte{1, 2, 'g', '1', 3, 1, 'a', 0, 1, 'b', 1, 1, 'x', 1, 'c', 0}},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: got %x, want %x", c.name, c.got, c.want)
		}
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	group := strings.Repeat("g", message.MaxGroupBytes)
	client := strings.Repeat("c", message.MaxClientIDBytes)
	offsets := []Offset{{TopicID: math.MaxUint64, Queue: math.MaxInt32, Offset: math.MaxInt64, Reset: true, Fence: math.MaxUint64}}
	if g, got, err := DecodeOffsets(EncodeOffsets(group, offsets)); err != nil || g != group || !reflect.DeepEqual(got, offsets) {
		t.Errorf("offsets: got %q, %v, %v", g, got, err)
	}
	want := Leases{Group: group, TopicID: math.MaxUint64, Client: client, Queues: []int{0, math.MaxInt32}}
	if got, err := DecodeLeases(EncodeLeases(group, want.TopicID, client, want.Queues)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("grant: got %v, %v", got, err)
	}
	want.Release = true
	if got, err := DecodeLeases(EncodeRelease(group, want.TopicID, client, want.Queues)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("release: got %v, %v", got, err)
	}
	cfg := protocol.GroupConfig{Name: group}
	if got, err := DecodePut(EncodePut(cfg)); err != nil || got != cfg {
		t.Errorf("put: got %v, %v", got, err)
	}
	if got, err := DecodeDelete(EncodeDelete(group)); err != nil || got != group {
		t.Errorf("delete: got %q, %v", got, err)
	}
}

// TestCutRecords shows that no record can lose its end unnoticed.
func TestCutRecords(t *testing.T) {
	records := map[string]struct {
		data   []byte
		decode func([]byte) error
	}{
		"put":          {EncodePut(Default("g1")), func(b []byte) error { _, err := DecodePut(b); return err }},
		"delete":       {EncodeDelete("g1"), func(b []byte) error { _, err := DecodeDelete(b); return err }},
		"offsets":      {EncodeOffsets("g1", []Offset{{TopicID: 300, Queue: 7}}), func(b []byte) error { _, _, err := DecodeOffsets(b); return err }},
		"subscription": {EncodeSubscription("g1", subscriptionOf("g1:a,b=x,c")), func(b []byte) error { _, _, err := DecodeSubscription(b); return err }},
		"leases":       {EncodeLeases("g1", 300, "c", []int{1, 2}), func(b []byte) error { _, err := DecodeLeases(b); return err }},
	}
	for name, r := range records {
		for n := range r.data {
			if err := r.decode(r.data[:n]); !errors.Is(err, ErrRecord) {
				t.Errorf("%s cut to %d bytes: got %v, want ErrRecord", name, n, err)
			}
		}
		if err := r.decode(append(r.data, 0)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s with a byte too many: got %v, want ErrRecord", name, err)
		}
	}
}

func TestFieldsOutOfRange(t *testing.T) {
	big := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}
	offsets := func(fields ...[]byte) error {
		_, _, err := DecodeOffsets(append([]byte{1, 1, 'g', 1}, bytes.Join(fields, nil)...))
		return err
	}
	leases := func(fields ...[]byte) error {
		_, err := DecodeLeases(append([]byte{1}, bytes.Join(fields, nil)...))
		return err
	}
	subscription := func(fields ...[]byte) error {
		_, _, err := DecodeSubscription(append([]byte{1, 1, 'g'}, bytes.Join(fields, nil)...))
		return err
	}
	one := []byte{1}
	if err := subscription([]byte{2, 1, 'a', 0, 1, 'b', 2, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	if err := offsets(one, one, one, one, one); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"queue":               offsets(one, big, one, one, one),
		"kind":                offsets(one, one, []byte{2}, one, one),
		"offset":              offsets(one, one, one, big, one),
		"number of queues":    leases([]byte{0, 1, 'g', 1, 1, 'c'}, big, one),
		"grant to nobody":     leases([]byte{0, 1, 'g', 1, 0, 1, 1}),
		"length of the group": leases([]byte{0}, big, one),
		"topics not sorted":   subscription([]byte{2, 1, 'b', 0, 1, 'a', 0}),
		"a topic twice":       subscription([]byte{2, 1, 'a', 0, 1, 'a', 0}),
		"kind of a filter":    subscription([]byte{1, 1, 'a', 3, 1, 'x'}),
		"number of topics":    subscription(big),
		"length of a filter":  subscription([]byte{1, 1, 'a', 1}, binary.AppendUvarint(nil, maxFilterBytes+1), make([]byte, maxFilterBytes+1)),
	} {
		if !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(EncodePut(Default("g1")))
	f.Add(EncodeDelete("g1"))
	f.Add(EncodeOffsets("g1", []Offset{{TopicID: 300, Queue: 7, Offset: 1000, Fence: 9}, {Reset: true}}))
	f.Add(EncodeLeases("g1", 300, "client", []int{1, 200}))
	f.Add(EncodeRelease("g1", 300, "", []int{1}))
	f.Add(EncodeSubscription("g1", subscriptionOf("g1:a,b=x")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if cfg, err := DecodePut(data); err == nil {
			if again, err := DecodePut(EncodePut(cfg)); err != nil || again != cfg {
				t.Errorf("put %v came back as %v, %v", cfg, again, err)
			}
		}
		if group, offsets, err := DecodeOffsets(data); err == nil {
			g, again, err := DecodeOffsets(EncodeOffsets(group, offsets))
			if err != nil || g != group || !reflect.DeepEqual(again, offsets) {
				t.Errorf("offsets %v came back as %v, %v", offsets, again, err)
			}
		}
		if l, err := DecodeLeases(data); err == nil {
			kind := byte(kindGrant)
			if l.Release {
				kind = kindRelease
			}
			again, err := DecodeLeases(encodeLeases(kind, l.Group, l.TopicID, l.Client, l.Queues))
			if err != nil || !reflect.DeepEqual(again, l) {
				t.Errorf("leases %v came back as %v, %v", l, again, err)
			}
		}
		if group, s, err := DecodeSubscription(data); err == nil {
			g, again, err := DecodeSubscription(EncodeSubscription(group, s))
			if err != nil || g != group || !reflect.DeepEqual(again, s) {
				t.Errorf("subscription %v came back as %v, %v", s, again, err)
			}
		}
		v := New()
		for _, apply := range []func(uint64, []byte) error{v.ApplyPut, v.ApplyOffsets, v.ApplyLeases, v.ApplySubscription, v.ApplyDelete} {
			if err := apply(1, data); err != nil && !errors.Is(err, ErrRecord) {
				t.Errorf("got %v, want ErrRecord", err)
			}
		}
	})
}

func TestValidate(t *testing.T) {
	if err := Validate(Default("g")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "a b", "a.b", strings.Repeat("g", 121)} {
		err := Validate(Default(name))
		var e *protocol.Error
		if !errors.Is(err, protocol.InvalidArgument) || !errors.As(err, &e) {
			t.Errorf("%q: got %v, want InvalidArgument", name, err)
		}
	}
}
