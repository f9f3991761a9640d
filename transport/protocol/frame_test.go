package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func sampleFrame() Frame {
	return Frame{Kind: KindRequest, Code: QueryRoute, ID: 0x0102030405060708,
		Timeout: 4567 * time.Millisecond, Payload: []byte(`{"topic":"orders"}`)}
}

// seal makes the payload length and the checksum of a frame right again.
func seal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[24:], uint32(len(b)-FrameHeader))
	binary.LittleEndian.PutUint32(b[frameCRCAt:], frameCRC(b))
	return b
}

func equalFrames(a, b Frame) bool {
	return a.Kind == b.Kind && a.Code == b.Code && a.ID == b.ID && a.Timeout == b.Timeout && bytes.Equal(a.Payload, b.Payload)
}

func TestFrame_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := Frame{
			Kind:    Kind(rapid.IntRange(1, 4).Draw(t, "kind")),
			Code:    Code(rapid.Uint16().Draw(t, "code")),
			ID:      rapid.Uint64().Draw(t, "id"),
			Payload: rapid.SliceOfN(rapid.Byte(), 0, 1000).Draw(t, "payload"),
		}
		f.Timeout = time.Duration(rapid.Uint64Range(0, maxTimeoutMillis).Draw(t, "timeout")) * time.Millisecond
		before := rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "before")
		b := AppendFrame(bytes.Clone(before), &f)
		if !bytes.HasPrefix(b, before) {
			t.Fatal("AppendFrame changed what was there")
		}
		b = b[len(before):]
		got, err := DecodeFrame(b)
		if err != nil || !equalFrames(got, f) {
			t.Fatalf("got %+v, %v, want %+v", got, err, f)
		}
		finished := append(make([]byte, FrameHeader), f.Payload...)
		FinishFrame(finished, &Frame{Kind: f.Kind, Code: f.Code, ID: f.ID, Timeout: f.Timeout})
		if !bytes.Equal(finished, b) {
			t.Fatalf("FinishFrame: got % x, want % x", finished, b)
		}
	})
}

// 0 on the wire is for ever: no other timeout may become it.
func TestFrame_TimeoutIsWholeMilliseconds(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{
		0: 0, 1: time.Millisecond, -1: time.Millisecond, math.MinInt64: time.Millisecond,
		time.Millisecond: time.Millisecond, 2*time.Millisecond - 1: time.Millisecond,
		math.MaxInt64: time.Duration(math.MaxInt64).Truncate(time.Millisecond),
	} {
		f, err := DecodeFrame(AppendFrame(nil, &Frame{Kind: KindRequest, Timeout: timeout}))
		if err != nil || f.Timeout != want {
			t.Errorf("%v: got %v, %v, want %v", timeout, f.Timeout, err, want)
		}
	}
}

func TestDecodeFrame_SharesThePayload(t *testing.T) {
	f := sampleFrame()
	b := AppendFrame(nil, &f)
	got, err := DecodeFrame(b)
	if err != nil || &got.Payload[0] != &b[FrameHeader] {
		t.Fatalf("got a copy of the payload, %v", err)
	}
}

func TestFrame_EveryFlippedBitIsRefused(t *testing.T) {
	f := sampleFrame()
	good := AppendFrame(nil, &f)
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if got, err := DecodeFrame(b); !errors.Is(err, ErrBadFrame) && !errors.Is(err, ErrFrameVersion) || got.Payload != nil {
				t.Fatalf("bit %d of byte %d flipped: got %+v, %v", bit, i, got, err)
			}
		}
	}
}

func TestFrame_EveryCutAndEveryExtensionIsRefused(t *testing.T) {
	f := sampleFrame()
	good := AppendFrame(nil, &f)
	for n := range good {
		if _, err := DecodeFrame(good[:n:n]); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("cut at %d: got %v", n, err)
		}
	}
	for _, extra := range []int{1, 8, FrameHeader, len(good)} {
		if _, err := DecodeFrame(append(bytes.Clone(good), make([]byte, extra)...)); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("%d bytes more: got %v", extra, err)
		}
	}
}

func TestDecodeFrame_Refuses(t *testing.T) {
	le := binary.LittleEndian
	tests := []struct {
		name  string
		spoil func(b []byte)
		want  error
	}{
		{"magic", func(b []byte) { b[0] = 'x' }, ErrBadFrame},
		{"version 0", func(b []byte) { b[2] = 0 }, ErrFrameVersion},
		{"newer version", func(b []byte) { b[2] = FrameVersion + 1 }, ErrFrameVersion},
		{"flags", func(b []byte) { b[7] = 1 }, ErrFrameVersion},
		{"kind 0", func(b []byte) { b[3] = 0 }, ErrBadFrame},
		{"kind 5", func(b []byte) { b[3] = 5 }, ErrBadFrame},
		{"timeout beyond what a duration holds", func(b []byte) { le.PutUint64(b[16:], maxTimeoutMillis+1) }, ErrBadFrame},
		{"timeout all ones", func(b []byte) { le.PutUint64(b[16:], math.MaxUint64) }, ErrBadFrame},
		{"payload length beyond the frame", func(b []byte) { le.PutUint32(b[24:], 1<<32-1) }, ErrBadFrame},
		{"payload length short", func(b []byte) { le.PutUint32(b[24:], 0) }, ErrBadFrame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := sampleFrame()
			b := AppendFrame(nil, &f)
			tt.spoil(b)
			le.PutUint32(b[frameCRCAt:], frameCRC(b))
			if got, err := DecodeFrame(b); !errors.Is(err, tt.want) || got.Payload != nil {
				t.Fatalf("got %+v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// A server must be able to refuse a damaged request by its id.
func TestDecodeFrame_NamesTheRequestBesideTheError(t *testing.T) {
	f := sampleFrame()
	good := AppendFrame(nil, &f)
	newer := bytes.Clone(good)
	newer[2]++
	damaged := bytes.Clone(good)
	damaged[FrameHeader] ^= 1
	for name, b := range map[string][]byte{"cut": good[:FrameHeader+3], "damaged": damaged, "newer": newer} {
		got, err := DecodeFrame(b)
		if err == nil || got.Kind != f.Kind || got.Code != f.Code || got.ID != f.ID || got.Payload != nil {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	frame := sampleFrame()
	good := AppendFrame(nil, &frame)
	f.Add([]byte{})
	f.Add(good)
	f.Add(good[:FrameHeader])
	f.Add(AppendFrame(nil, &Frame{Kind: KindError, Code: SendMessage, ID: 1, Payload: []byte(`{"code":2}`)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		frameRoundTrip(t, b)
		if len(b) >= FrameHeader {
			b = bytes.Clone(b)
			copy(b, good[:3])
			frameRoundTrip(t, seal(b))
		}
	})
}

// frameRoundTrip holds that one frame has one encoding.
func frameRoundTrip(t *testing.T, b []byte) {
	f, err := DecodeFrame(b)
	if err != nil {
		if !errors.Is(err, ErrBadFrame) && !errors.Is(err, ErrFrameVersion) || f.Payload != nil {
			t.Fatalf("got %+v, %v", f, err)
		}
		return
	}
	if again := AppendFrame(nil, &f); !bytes.Equal(again, b) {
		t.Fatalf("got % x, want % x", again, b)
	}
}

// FuzzCutFrame holds that nothing is lost between frames, and that whole ones are
// found.
func FuzzCutFrame(f *testing.F) {
	sample := sampleFrame()
	good := AppendFrame(nil, &sample)
	f.Add([]byte{})
	f.Add(good)
	f.Add(append(bytes.Clone(good), good[:FrameHeader-1]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		for all := b; len(all) > 0; {
			frame, rest := CutFrame(all)
			if len(frame) == 0 || !bytes.Equal(append(bytes.Clone(frame), rest...), all) {
				t.Fatalf("%x was cut into %x and %x", all, frame, rest)
			}
			all = rest
		}
		if frame, rest := CutFrame(append(bytes.Clone(good), b...)); !bytes.Equal(frame, good) || !bytes.Equal(rest, b) {
			t.Fatalf("got %x and %x", frame, rest)
		}
	})
}
