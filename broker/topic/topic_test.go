package topic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func config(name string, queues int) protocol.TopicConfig {
	return protocol.TopicConfig{Name: name, ReadQueues: queues, WriteQueues: queues, Perm: message.PermReadWrite}
}

func mustPut(t testing.TB, v *View, index uint64, cfg protocol.TopicConfig) {
	t.Helper()
	if err := v.ApplyPut(index, EncodePut(cfg)); err != nil {
		t.Fatalf("put %v: %v", cfg, err)
	}
}

func mustDelete(t testing.TB, v *View, index uint64, name string) {
	t.Helper()
	if err := v.ApplyDelete(index, EncodeDelete(name)); err != nil {
		t.Fatalf("delete %q: %v", name, err)
	}
}

func TestPutCreatesAndAlters(t *testing.T) {
	v := New()
	mustPut(t, v, 5, config("orders", 4))
	created := Topic{ID: 5, TopicConfig: config("orders", 4)}
	if got, ok := v.Lookup("orders"); !ok || got != created {
		t.Errorf("lookup: got %v, %v; want %v", got, ok, created)
	}
	mustPut(t, v, 8, config("orders", 16))
	altered := Topic{ID: 5, TopicConfig: config("orders", 16)}
	if got, ok := v.ByID(5); !ok || got != altered {
		t.Errorf("by ID: got %v, %v; want %v", got, ok, altered)
	}
	if got, ok := v.Lookup("orders"); !ok || got != altered {
		t.Errorf("lookup: got %v, %v; want %v", got, ok, altered)
	}
	if _, ok := v.ByID(8); ok {
		t.Error("the record that altered the topic made an ID")
	}
}

func TestTopicCreatedAgainIsAnother(t *testing.T) {
	v := New()
	mustPut(t, v, 1, config("a", 4))
	mustDelete(t, v, 2, "a")
	if _, ok := v.Lookup("a"); ok {
		t.Error("a deleted topic is found by name")
	}
	if _, ok := v.ByID(1); ok {
		t.Error("a deleted topic is found by ID")
	}
	mustPut(t, v, 3, config("a", 4))
	if got, _ := v.Lookup("a"); got.ID != 3 {
		t.Errorf("got ID %d, want 3", got.ID)
	}
	if _, ok := v.ByID(1); ok {
		t.Error("the ID of the deleted topic came back")
	}
}

func TestVersionIsTheLastChange(t *testing.T) {
	v := New()
	check := func(want uint64) {
		t.Helper()
		if got := v.Version(); got != want {
			t.Errorf("got version %d, want %d", got, want)
		}
	}
	check(0)
	mustDelete(t, v, 1, "unknown")
	check(0)
	mustPut(t, v, 2, config("a", 4))
	check(2)
	mustPut(t, v, 3, config("a", 4)) // as it is
	check(2)
	mustPut(t, v, 4, config("a", 5))
	check(4)
	mustDelete(t, v, 6, "a")
	check(6)
}

func TestListIsSorted(t *testing.T) {
	v := New()
	if list := v.List(); list == nil || len(list) != 0 {
		t.Errorf("got %v, want an empty list", list)
	}
	for i, name := range []string{"b", "%RETRY%g", "c", "a"} {
		mustPut(t, v, uint64(i+1), config(name, 1))
	}
	var names []string
	for _, topic := range v.List() {
		names = append(names, topic.Name)
	}
	if want := []string{"%RETRY%g", "a", "b", "c"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	if v.Count() != 4 {
		t.Errorf("got count %d, want 4", v.Count())
	}
}

// overflow is 2^63 as a uvarint: one more than an int64 holds.
var overflow = binary.AppendUvarint(nil, 1<<63)

func TestIllegibleRecordChangesNothing(t *testing.T) {
	v := New()
	mustPut(t, v, 1, config("a", 4))
	good := EncodePut(config("a", 9))
	illegible := map[string][]byte{
		"nothing": nil,
		"version": append([]byte{2}, good[1:]...),
		"longer":  append(bytes.Clone(good), 0),

		"read queues":     {1, 1, 'a', 0x80, 0x80, 0x80, 0x80, 8, 9, 6, 0, 0, 0, 0, 0},
		"write queues":    {1, 1, 'a', 9, 0x80, 0x80, 0x80, 0x80, 8, 6, 0, 0, 0, 0, 0},
		"permission":      {1, 1, 'a', 9, 9, 0x80, 2, 0, 0, 0, 0, 0},
		"retention":       append([]byte{1, 1, 'a', 9, 9, 6}, bytes.Repeat([]byte{0x80}, 11)...),
		"flag":            {1, 1, 'a', 9, 9, 6, 0, 2, 0, 0, 0},
		"long type":       append(append([]byte{1, 1, 'a', 9, 9, 6, 0, 0, 0x80, 2}, make([]byte, 256)...), 0, 0),
		"type beyond":     {1, 1, 'a', 9, 9, 6, 0, 0, 3, 0, 0},
		"messages' rate":  append(append([]byte{1, 1, 'a', 9, 9, 6, 0, 0, 0}, overflow...), 0),
		"rate of bytes":   append([]byte{1, 1, 'a', 9, 9, 6, 0, 0, 0, 0}, overflow...),
		"before the type": {1, 1, 'a', 9, 9, 6, 0, 0},
	}
	for n := range good {
		illegible[fmt.Sprint("cut at ", n)] = good[:n]
	}
	for name, data := range illegible {
		if err := v.ApplyPut(2, data); !errors.Is(err, ErrRecord) {
			t.Errorf("put, %s: got %v, want ErrRecord", name, err)
		}
	}
	for _, data := range [][]byte{nil, {1, 2, 'a'}, {1, 1, 'a', 0}} {
		if err := v.ApplyDelete(2, data); !errors.Is(err, ErrRecord) {
			t.Errorf("delete %x: got %v, want ErrRecord", data, err)
		}
	}
	if got, _ := v.Lookup("a"); got.ReadQueues != 4 || v.Version() != 1 {
		t.Errorf("got %v at version %d", got, v.Version())
	}
}

func TestValidate(t *testing.T) {
	valid := []protocol.TopicConfig{
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: message.PermReadWrite},
		{Name: strings.Repeat("a", 127), ReadQueues: MaxQueues, WriteQueues: 1, Perm: message.PermRead},
		{Name: "a|b%c", ReadQueues: 1, WriteQueues: MaxQueues, Perm: 0},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, RetentionMillis: protocol.KeepForever, KeepUntilConsumed: true},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, RetentionMillis: protocol.MinRetentionMillis},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, RetentionMillis: maxRetentionMillis},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Quota: protocol.Rates{MessagesPerSecond: MaxRate, BytesPerSecond: MaxRate}},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Quota: protocol.Rates{BytesPerSecond: 1}},
	}
	for _, kind := range message.Kinds() {
		valid = append(valid, protocol.TopicConfig{Name: "a", ReadQueues: 1, WriteQueues: 1, Type: kind})
	}
	for _, cfg := range valid {
		if err := Validate(cfg); err != nil {
			t.Errorf("%v: %v", cfg, err)
		}
	}
	rw := message.PermReadWrite
	invalid := []protocol.TopicConfig{
		{Name: "", ReadQueues: 1, WriteQueues: 1, Perm: rw},
		{Name: "..", ReadQueues: 1, WriteQueues: 1, Perm: rw},
		{Name: strings.Repeat("a", 128), ReadQueues: 1, WriteQueues: 1, Perm: rw},
		{Name: "%DLQ%x", ReadQueues: 1, WriteQueues: 1, Perm: rw},
		{Name: "TBW102", ReadQueues: 1, WriteQueues: 1, Perm: rw},
		{Name: "a", ReadQueues: 0, WriteQueues: 1, Perm: rw},
		{Name: "a", ReadQueues: 1, WriteQueues: 0, Perm: rw},
		{Name: "a", ReadQueues: -1, WriteQueues: 1, Perm: rw},
		{Name: "a", ReadQueues: MaxQueues + 1, WriteQueues: 1, Perm: rw},
		{Name: "a", ReadQueues: 1, WriteQueues: MaxQueues + 1, Perm: rw},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: 1},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: -2},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, RetentionMillis: 1},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, RetentionMillis: protocol.MinRetentionMillis - 1},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, RetentionMillis: -2},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, RetentionMillis: maxRetentionMillis + 1},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, Type: "normal"},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, Type: "LITE"},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, Quota: protocol.Rates{MessagesPerSecond: -1}},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, Quota: protocol.Rates{BytesPerSecond: -1}},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, Quota: protocol.Rates{MessagesPerSecond: MaxRate + 1}},
		{Name: "a", ReadQueues: 1, WriteQueues: 1, Perm: rw, Quota: protocol.Rates{BytesPerSecond: MaxRate + 1}},
	}
	for _, cfg := range invalid {
		err := Validate(cfg)
		var e *protocol.Error
		if !errors.Is(err, protocol.InvalidArgument) || !errors.As(err, &e) {
			t.Errorf("%v: got %v, want InvalidArgument", cfg, err)
		}
	}
}

func TestValidTopicsCanBeDecoded(t *testing.T) {
	cfg := protocol.TopicConfig{Name: strings.Repeat("a", 127), ReadQueues: MaxQueues, WriteQueues: MaxQueues, Perm: message.PermReadWrite,
		RetentionMillis: maxRetentionMillis, KeepUntilConsumed: true, Type: message.Transaction,
		Quota: protocol.Rates{MessagesPerSecond: MaxRate, BytesPerSecond: MaxRate}}
	if err := Validate(cfg); err != nil {
		t.Fatal(err)
	}
	if got, err := DecodePut(EncodePut(cfg)); err != nil || got != cfg {
		t.Errorf("got %v, %v", got, err)
	}
	reserved := config(strings.Repeat("%", message.MaxReservedTopicBytes), 1)
	if got, err := DecodePut(EncodePut(reserved)); err != nil || got != reserved {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestRecordBytes pins the bytes that the package comment shows.
func TestRecordBytes(t *testing.T) {
	cfg := protocol.TopicConfig{Name: "orders", ReadQueues: 8, WriteQueues: 300, Perm: message.PermReadWrite,
		RetentionMillis: 3_600_000, KeepUntilConsumed: true, Type: message.FIFO,
		Quota: protocol.Rates{MessagesPerSecond: 1000, BytesPerSecond: 1 << 20}}
	put := []byte{1, 6, 'o', 'r', 'd', 'e', 'r', 's', 8, 0xac, 0x02, 6, 0x80, 0xba, 0xb7, 0x03, 1,
		4, 'F', 'I', 'F', 'O', 0xe8, 0x07, 0x80, 0x80, 0x40}
	if got := EncodePut(cfg); !bytes.Equal(got, put) {
		t.Errorf("put: got %x, want %x", got, put)
	}
	if got, err := DecodePut(put); err != nil || got != cfg {
		t.Errorf("decode put: got %v, %v", got, err)
	}
	del := []byte{1, 6, 'o', 'r', 'd', 'e', 'r', 's'}
	if got := EncodeDelete("orders"); !bytes.Equal(got, del) {
		t.Errorf("delete: got %x, want %x", got, del)
	}
	if got, err := DecodeDelete(del); err != nil || got != "orders" {
		t.Errorf("decode delete: got %q, %v", got, err)
	}
}

// TestRowBytes pins the rows that the package comment shows.
func TestRowBytes(t *testing.T) {
	v := New()
	mustPut(t, v, 0x0102, config("a", 4))
	mustPut(t, v, 300, config("b", 4))
	mustDelete(t, v, 301, "b")
	got := map[string]string{}
	v.Changes(
		func(key, value []byte) { got[fmt.Sprintf("%x", key)] = fmt.Sprintf("%x", value) },
		func(key []byte) { got[fmt.Sprintf("%x", key)] = "deleted" },
	)
	want := map[string]string{
		"740000000000000102": "0101610404060000000000",
		"74000000000000012c": "deleted",
		"76":                 "ad02",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	v.Changes(
		func(key, _ []byte) { t.Errorf("key %x was handed over twice", key) },
		func(key []byte) { t.Errorf("key %x was deleted twice", key) },
	)
}

func TestLoadRefusesIllegibleRows(t *testing.T) {
	put := EncodePut(config("a", 4))
	id := append([]byte{rowTopic}, make([]byte, 8)...)
	for _, row := range []struct{ key, value []byte }{
		{nil, put},
		{[]byte{'x'}, put},
		{id[:8], put},
		{append(id, 0), put},
		{id, put[:len(put)-1]},
		{id, nil},
		{[]byte{rowVersion}, nil},
		{[]byte{rowVersion}, []byte{1, 1}},
		{[]byte{rowVersion, 0}, []byte{1}},
	} {
		if err := New().Load(row.key, row.value); !errors.Is(err, ErrRecord) {
			t.Errorf("row %x = %x: got %v, want ErrRecord", row.key, row.value, err)
		}
	}
}

func TestReadersRunBesideTheApplier(t *testing.T) {
	v := New()
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if topic, ok := v.Lookup("t1"); ok && topic.Name != "t1" {
					t.Errorf("got %v", topic)
				}
				for _, topic := range v.List() {
					v.ByID(topic.ID)
				}
				v.Count()
				v.Version()
			}
		})
	}
	for i := range uint64(2000) {
		name := fmt.Sprint("t", i%7)
		if i%3 == 0 {
			mustDelete(t, v, i+1, name)
		} else {
			mustPut(t, v, i+1, config(name, int(i%9)+1))
		}
		if i%100 == 0 {
			v.Changes(func(_, _ []byte) {}, func(_ []byte) {})
		}
	}
	close(done)
	readers.Wait()
}

func FuzzDecode(f *testing.F) {
	f.Add(EncodePut(config("orders", 300)))
	f.Add(EncodePut(protocol.TopicConfig{Name: "a", RetentionMillis: protocol.KeepForever, KeepUntilConsumed: true}))
	f.Add(EncodePut(protocol.TopicConfig{Name: "a", Type: message.Delayed, Quota: protocol.Rates{MessagesPerSecond: 1, BytesPerSecond: MaxRate}}))
	f.Add(EncodeDelete("orders"))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if cfg, err := DecodePut(data); err == nil {
			if again, err := DecodePut(EncodePut(cfg)); err != nil || again != cfg {
				t.Errorf("put %v came back as %v, %v", cfg, again, err)
			}
		} else if !errors.Is(err, ErrRecord) {
			t.Errorf("got %v, want ErrRecord", err)
		}
		if name, err := DecodeDelete(data); err == nil {
			if again, err := DecodeDelete(EncodeDelete(name)); err != nil || again != name {
				t.Errorf("delete %q came back as %q, %v", name, again, err)
			}
		} else if !errors.Is(err, ErrRecord) {
			t.Errorf("got %v, want ErrRecord", err)
		}
	})
}
