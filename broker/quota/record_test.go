package quota

import (
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/transport/protocol"
)

var update = flag.Bool("update", false, "write the golden files")

func quotaOf(scope protocol.QuotaScope, name string, messages, bytes int64) protocol.QuotaConfig {
	return protocol.QuotaConfig{Scope: scope, Name: name, Rates: protocol.Rates{MessagesPerSecond: messages, BytesPerSecond: bytes}}
}

// The bytes of a record never change: they are on disk.
func TestRecord_Bytes(t *testing.T) {
	var lines []string
	for _, q := range []protocol.QuotaConfig{
		quotaOf(protocol.QuotaOfGroup, "billing", 1000, 1<<20),
		quotaOf(protocol.QuotaOfClient, "", 0, MaxPerSecond),
		quotaOf(protocol.QuotaOfClient, "pod@7#ab", 0, 0),
	} {
		lines = append(lines, hex.EncodeToString(Encode(q)))
	}
	got, path := strings.Join(lines, "\n")+"\n", filepath.Join("testdata", "records.hex")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("got\n%s\nwant\n%s%v", got, want, err)
	}
}

func drawQuota(t *rapid.T) protocol.QuotaConfig {
	rate := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 5), rapid.Int64Range(0, MaxPerSecond))
	return quotaOf(rapid.SampledFrom([]protocol.QuotaScope{protocol.QuotaOfGroup, protocol.QuotaOfClient}).Draw(t, "scope"),
		rapid.SampledFrom([]string{"", "a", "b", strings.Repeat("c", maxNameBytes)}).Draw(t, "name"),
		rate.Draw(t, "messages"), rate.Draw(t, "bytes"))
}

func TestRecord_DecodesWhatWasEncoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuota(t)
		data := Encode(q)
		if got, err := Decode(data); err != nil || got != q {
			t.Fatalf("got %v, %v; want %v", got, err, q)
		}
		cut := rapid.IntRange(0, len(data)-1).Draw(t, "cut")
		if _, err := Decode(data[:cut]); !errors.Is(err, ErrRecord) {
			t.Fatalf("%x cut to %d: got %v", data, cut, err)
		}
		if _, err := Decode(append(data, 0)); !errors.Is(err, ErrRecord) {
			t.Fatalf("%x and a byte: got %v", data, err)
		}
	})
}

func TestRecord_Illegible(t *testing.T) {
	for what, data := range map[string]string{
		"no bytes": "", "another version": "0201016101 01", "scope 0": "0100016101 01", "scope 3": "0103016101 01",
		"name longer than the record": "0101ff01 61", "name of 256 bytes": "01018002" + strings.Repeat("61", 256) + "0101",
		"endless length": "0101ffffffffffffffffff7f", "rate above 2^63-1": "01010161 01 80808080808080808001",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(data, " ", ""))
		if err != nil {
			t.Fatal(what, err)
		}
		if q, err := Decode(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v, %v", what, q, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for _, q := range []protocol.QuotaConfig{
		quotaOf(protocol.QuotaOfGroup, "", 1, 0), quotaOf(protocol.QuotaOfGroup, "a|b%c", 0, MaxPerSecond),
		quotaOf(protocol.QuotaOfClient, "host@1#ab", 1, 1), quotaOf(protocol.QuotaOfClient, strings.Repeat("x", 255), 0, 0),
	} {
		if err := Validate(q); err != nil {
			t.Errorf("%v: %v", q, err)
		}
	}
	for text, q := range map[string]protocol.QuotaConfig{
		`scope "topic"`: quotaOf("topic", "a", 1, 1), `scope ""`: quotaOf("", "a", 1, 1),
		"character ' '":         quotaOf(protocol.QuotaOfGroup, "a b", 1, 1),
		"121 characters":        quotaOf(protocol.QuotaOfGroup, strings.Repeat("x", 121), 1, 1),
		"not printable":         quotaOf(protocol.QuotaOfClient, "a b", 1, 1),
		"256 bytes":             quotaOf(protocol.QuotaOfClient, strings.Repeat("x", 256), 1, 1),
		"-1 messages a second":  quotaOf(protocol.QuotaOfGroup, "a", -1, 1),
		"-7 bytes a second":     quotaOf(protocol.QuotaOfGroup, "a", 1, -7),
		"1099511627777 bytes a": quotaOf(protocol.QuotaOfGroup, "a", 1, MaxPerSecond+1),
	} {
		if err := Validate(q); !errors.Is(err, protocol.InvalidArgument) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: got %v, want %q", q, err, text)
		}
	}
}
