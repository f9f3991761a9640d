package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
)

// seal makes the length and the checksum of a batch right again.
func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[crcAt:], checksum(b))
	return b
}

// forge is a sealed batch that says it holds count messages, with these bytes.
func forge(count uint32, messages ...[]byte) []byte {
	b := NewBuilder("t", 0).buf
	binary.LittleEndian.PutUint32(b[44:], count)
	return seal(append(b, bytes.Join(messages, nil)...))
}

// forgeSections is forge for a batch with flags and with these bytes behind its
// topic.
func forgeSections(flags byte, count uint32, parts ...[]byte) []byte {
	b := forge(count, parts...)
	b[3] = flags
	return seal(b)
}

// raw is one message with a head of any bytes.
func raw(body string, head ...byte) []byte {
	b := binary.AppendUvarint(nil, uint64(len(head)))
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(append(b, head...), body...)
}

// decoders are all ways into a batch that vouch for the producer's part.
var decoders = map[string]func([]byte) error{
	"Verify": func(b []byte) error { _, err := Verify(b); return err },
	"Check":  func(b []byte) error { _, err := Check(b); return err },
	"Decode": func(b []byte) error { _, _, err := Decode(nil, b, "a"); return err },
}

func TestBatch_EveryFlippedBitIsRefused(t *testing.T) {
	for name, good := range goodBatches() {
		t.Run(name, func(t *testing.T) { flipEveryBit(t, good) })
	}
}

func flipEveryBit(t *testing.T, good []byte) {
	padded := append(bytes.Clone(good), make([]byte, 64)...) // so that a longer length stays inside
	for i := range good {
		if i >= 8 && i < crcAt {
			continue // the broker's part, which the checksum leaves out
		}
		for bit := range 8 {
			for name, decode := range decoders {
				for _, b := range [][]byte{bytes.Clone(good), bytes.Clone(padded)} {
					b[i] ^= 1 << bit
					if err := decode(b); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrTooLarge) {
						t.Fatalf("%s with bit %d of byte %d flipped: got %v", name, bit, i, err)
					}
				}
			}
		}
	}
}

func TestBatch_EveryCutIsRefused(t *testing.T) {
	for name, good := range goodBatches() {
		t.Run(name, func(t *testing.T) { cutEverywhere(t, good) })
	}
}

func cutEverywhere(t *testing.T, good []byte) {
	for n := range good {
		for name, decode := range decoders {
			if err := decode(good[:n:n]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s of %d bytes: got %v", name, n, err)
			}
		}
		if n < fixedBytes {
			continue
		}
		// The same with a length and a checksum that fit the cut.
		b := seal(bytes.Clone(good[:n]))
		for _, name := range []string{"Check", "Decode"} {
			if err := decoders[name](b); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s of a batch sealed at %d bytes: got %v", name, n, err)
			}
		}
	}
}

func TestBatch_RefusesHeaders(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(b []byte)
		want  error
	}{
		{"magic", func(b []byte) { b[0]++ }, ErrCorrupt},
		{"newer version", func(b []byte) { b[2] = 2 }, ErrVersion},
		{"version 0", func(b []byte) { b[2] = 0 }, ErrVersion},
		{"last flag", func(b []byte) { b[3] = 1 << 7 }, ErrVersion},
		{"two purposes", func(b []byte) { b[3] = flagTimer | flagTransaction }, ErrCorrupt},
		{"release to a timer", func(b []byte) { b[3] = flagTimer | flagRelease }, ErrCorrupt},
		{"release of a half message", func(b []byte) { b[3] = flagTransaction | flagRelease }, ErrCorrupt},
		{"no message", func(b []byte) { binary.LittleEndian.PutUint32(b[44:], 0) }, ErrCorrupt},
		{"one message too many", func(b []byte) { binary.LittleEndian.PutUint32(b[44:], 4) }, ErrCorrupt},
		{"one message too few", func(b []byte) { binary.LittleEndian.PutUint32(b[44:], 2) }, ErrCorrupt},
		{"most messages", func(b []byte) { binary.LittleEndian.PutUint32(b[44:], MaxCount) }, ErrCorrupt},
		{"too many messages", func(b []byte) { binary.LittleEndian.PutUint32(b[44:], MaxCount+1) }, ErrCorrupt},
		{"negative count", func(b []byte) { binary.LittleEndian.PutUint32(b[44:], 1<<32-1) }, ErrCorrupt},
		{"topic longer than the batch", func(b []byte) { b[76] = 255 }, ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := build("orders", 3, sample()...)
			tt.spoil(b)
			seal(b)
			for _, name := range []string{"Check", "Decode"} {
				if err := decoders[name](b); !errors.Is(err, tt.want) {
					t.Errorf("%s: got %v, want %v", name, err, tt.want)
				}
			}
		})
	}
}

func TestBatch_RefusesLengths(t *testing.T) {
	good := build("orders", 3, sample()...)
	for _, length := range []uint32{0, 1, fixedBytes, uint32(len(good)) + 1, MaxBytes, MaxBytes + 1, 1<<31 - 1, 1 << 31, 1<<32 - 1} {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[4:], length)
		want := ErrCorrupt
		if length > MaxBytes {
			want = ErrTooLarge
		}
		if _, err := ParseHeader(b); !errors.Is(err, want) {
			t.Errorf("length %d: got %v, want %v", length, err, want)
		}
	}
}

// What a producer that breaks the rules could send: the broker must not store
// what consumers cannot decode.
func TestCheck_RefusesMessages(t *testing.T) {
	full := strings.Repeat("x", message.MaxBodyBytes)
	property := func(value int) message.Message {
		return message.Message{Properties: map[string]string{"a": strings.Repeat("v", value)}}
	}
	tests := []struct {
		name string
		b    []byte
		want error
	}{
		{"empty message", forge(1, raw("", 0, 0, 0)), nil},
		{"largest body", build("t", 0, message.Message{Body: []byte(full)}), nil},
		{"body too large", build("t", 0, message.Message{Body: []byte(full + "x")}), ErrTooLarge},
		{"largest properties", build("t", 0, property(message.MaxPropertiesBytes-3)), nil},
		{"properties too large", build("t", 0, property(message.MaxPropertiesBytes-2)), ErrTooLarge},
		{"largest keys", build("t", 0, message.Message{Keys: []string{"a", strings.Repeat("k", message.MaxPropertiesBytes-3)}}), nil},
		{"keys too large", build("t", 0, message.Message{Keys: []string{"a", strings.Repeat("k", message.MaxPropertiesBytes-2)}}), ErrTooLarge},
		{"most keys", build("t", 0, message.Message{Keys: slices.Repeat([]string{"k"}, message.MaxKeys)}), nil},
		{"too many keys", build("t", 0, message.Message{Keys: slices.Repeat([]string{"k"}, message.MaxKeys+1)}), message.ErrIllegalMessage},
		{"largest group", build("t", 0, message.Message{Group: strings.Repeat("g", message.MaxGroupNameBytes)}), nil},
		{"group too large", build("t", 0, message.Message{Group: strings.Repeat("g", message.MaxGroupNameBytes+1)}), message.ErrIllegalMessage},
		{"reserved property", build("t", 0, message.Message{Properties: map[string]string{"KEYS": "v"}}), message.ErrIllegalMessage},
		{"most messages", forge(MaxCount, bytes.Repeat(raw("", 0, 0, 0), MaxCount)), nil},
		{"too many messages", forge(MaxCount+1, bytes.Repeat(raw("", 0, 0, 0), MaxCount+1)), ErrCorrupt},
		{"head too large", forge(1, raw("", make([]byte, maxHeadBytes+1)...)), ErrTooLarge},
		{"batch too large", seal(append(forge(1), make([]byte, MaxBytes)...)), ErrTooLarge},
		{"no bytes", forge(1), ErrCorrupt},
		{"head of no bytes", forge(1, raw("")), ErrCorrupt},
		{"head without a time", forge(1, raw("", 0, 0)), ErrCorrupt},
		{"head longer than its fields", forge(1, raw("", 0, 0, 0, 0)), ErrCorrupt},
		{"head length beyond the batch", forge(1, []byte{200, 1, 0, 0, 0, 0}), ErrCorrupt},
		{"body length beyond the batch", forge(1, []byte{3, 200, 1, 0, 0, 0}), ErrCorrupt},
		{"both lengths overflow", forge(1, binary.AppendUvarint(binary.AppendUvarint(nil, 1<<63), 1<<63), []byte{0, 0, 0}), ErrCorrupt},
		{"length that never ends", forge(1, bytes.Repeat([]byte{0xff}, 20)), ErrCorrupt},
		{"unknown flag", forge(1, raw("", 1<<6, 0, 0)), ErrVersion},
		{"all flags", forge(1, raw("", 0xff, 0, 0)), ErrVersion},
		{"tag cut", forge(1, raw("", hasTag, 0, 0, 5, 'a')), ErrCorrupt},
		{"instance cut", forge(1, raw("", hasInstance, 0, 0)), ErrCorrupt},
		{"more keys than bytes", forge(1, raw("", hasKeys, 0, 0, 9, 1, 'a')), ErrCorrupt},
		{"empty key", forge(1, raw("", hasKeys, 0, 0, 1, 0)), message.ErrIllegalMessage},
		{"key with a space", forge(1, raw("", hasKeys, 0, 0, 1, 2, 'a', ' ')), message.ErrIllegalMessage},
		{"property without a name", forge(1, raw("", hasProperties, 0, 0, 1, 0, 1, 'v')), message.ErrIllegalMessage},
		{"property without a value", forge(1, raw("", hasProperties, 0, 0, 1, 1, 'n')), ErrCorrupt},
		{"bytes after the last message", forge(1, raw("", 0, 0, 0), []byte{0}), ErrCorrupt},
		{"second message bad", forge(2, raw("", 0, 0, 0), raw("", hasTag, 0, 0)), ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Check(tt.b)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			_, _, decodeErr := Decode(nil, tt.b, "a")
			if err == nil && decodeErr != nil {
				t.Errorf("Check accepts it and Decode does not: %v", decodeErr)
			}
			if (tt.want == ErrCorrupt || tt.want == ErrVersion) && !errors.Is(decodeErr, tt.want) {
				t.Errorf("Decode: got %v, want %v", decodeErr, tt.want)
			}
		})
	}
}

// allocated is how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestBatch_FalseCountsAllocateNothingLarge(t *testing.T) {
	huge := binary.AppendUvarint(nil, 1<<62)
	head := func(flag byte, count []byte) []byte { return append([]byte{flag, 0, 0}, count...) }
	tests := map[string][]byte{
		"messages":   forge(MaxCount, raw("", 0, 0, 0)),
		"keys":       forge(1, raw("", head(hasKeys, huge)...)),
		"properties": forge(1, raw("", head(hasProperties, huge)...)),
		"tag":        forge(1, raw("", head(hasTag, huge)...)),
		"some keys":  forge(1, raw("", head(hasKeys, append([]byte{100}, make([]byte, 99)...))...)),
		"properties within the head": forge(1, raw("", head(hasProperties,
			append(binary.AppendUvarint(nil, 30_000), bytes.Repeat([]byte{0xff}, 30_000)...))...)),
		"extras":         forge(1, raw("", head(hasExtras, huge)...)),
		"some extras":    forge(1, raw("", head(hasExtras, append([]byte{100}, make([]byte, 99)...))...)),
		"extra":          forge(1, raw("", head(hasExtras, append([]byte{1, extraCorrelation}, huge...))...)),
		"released":       forgeSections(flagRelease, 1, make([]byte, 8), []byte{1}, huge),
		"other released": forgeSections(flagRelease, 1, []byte{1, 0, 0, 0, 0, 0, 0, 0}, huge),
		"many released": forgeSections(flagRelease, 1, []byte{1, 0, 0, 0, 0, 0, 0, 0}, binary.AppendUvarint(nil, 1<<20),
			make([]byte, 1<<20)),
		"head": forge(1, huge, []byte{0, 0, 0, 0}),
		"body": forge(1, []byte{3}, huge, []byte{0, 0, 0}),
	}
	for name, b := range tests {
		t.Run(name, func(t *testing.T) {
			for decoder, decode := range decoders {
				var err error
				if n := allocated(func() { err = decode(b) }); n > 64<<10 {
					t.Errorf("%s: %d bytes allocated for a batch of %d", decoder, n, len(b))
				}
				if err == nil && decoder != "Verify" {
					t.Errorf("%s: accepted", decoder)
				}
			}
		})
	}
}

func TestCheck_AllocatesOnlyTheTopic(t *testing.T) {
	lead, held := special()
	for name, b := range map[string][]byte{
		"plain":  build("orders", 3, sample()...),
		"extras": buildLead(lead, slices.Concat(held, held, held, held)...),
		"long names": build("orders", 3, message.Message{Properties: map[string]string{
			strings.Repeat("n", 100): "v", strings.Repeat("m", 1000): "v"}}),
	} {
		if n := testing.AllocsPerRun(100, func() { Check(b) }); n > 1 {
			t.Errorf("%s: got %v allocations, want 1", name, n)
		}
	}
}
