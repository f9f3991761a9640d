package compress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var all = []message.Compression{message.Zlib, message.LZ4, message.Zstd}

func newEncoder(t testing.TB, how message.Compression) *Encoder {
	t.Helper()
	e, err := NewEncoder(how)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func noise(n int) []byte {
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func TestCompress_IsUndone(t *testing.T) {
	encoders := map[message.Compression]*Encoder{}
	for _, how := range append(all, message.None) {
		encoders[how] = newEncoder(t, how)
	}
	var d Decoder
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "piece")
		body := bytes.Repeat(piece, rapid.IntRange(0, 2000).Draw(t, "times"))
		want := bytes.Clone(body)
		e := encoders[rapid.SampledFrom(append(all, message.None)).Draw(t, "how")]
		small, how := e.Compress(body)
		if how == message.None && (len(small) != len(body) || len(body) > 0 && &small[0] != &body[0]) {
			t.Fatal("a body that is not compressed is not the one that came")
		}
		if how != message.None && (how != e.how || len(small) >= len(body)) {
			t.Fatalf("got %v of %d bytes for %d", how, len(small), len(body))
		}
		m := message.Message{Body: small, Compression: how, OriginalBytes: len(body)}
		if err := d.Open(&m); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Body, want) || !bytes.Equal(body, want) || m.Compression != message.None || how != message.None && m.OriginalBytes != 0 {
			t.Fatalf("got %d bytes, %v, %d declared; want the %d bytes that were compressed", len(m.Body), m.Compression, m.OriginalBytes, len(want))
		}
	})
}

func TestCompress_KeepsPlainWhatDoesNotGetSmaller(t *testing.T) {
	for _, how := range all {
		e := newEncoder(t, how)
		for _, n := range []int{0, 1, 7, 5000} {
			body := noise(n)
			if small, got := e.Compress(body); got != message.None || !bytes.Equal(small, body) {
				t.Errorf("%v: %d bytes of noise became %d bytes of %v", how, n, len(small), got)
			}
		}
		if small, got := e.Compress(make([]byte, 5000)); got != how || len(small) > 500 {
			t.Errorf("%v: 5000 zeros became %d bytes of %v", how, len(small), got)
		}
	}
}

func TestCompress_LargestBody(t *testing.T) {
	var d Decoder
	body := append(noise(message.MaxBodyBytes/2), make([]byte, message.MaxBodyBytes/2)...)
	for _, how := range all {
		small, got := newEncoder(t, how).Compress(body)
		plain, err := d.Decompress(small, got, len(body))
		if err != nil || got != how || !bytes.Equal(plain, body) {
			t.Errorf("%v: got %v of %d bytes, %d after, %v", how, got, len(small), len(plain), err)
		}
	}
}

func TestUnknownCompression(t *testing.T) {
	if _, err := NewEncoder(9); !errors.Is(err, ErrUnknown) {
		t.Errorf("encoder: got %v, want %v", err, ErrUnknown)
	}
	m := message.Message{Body: []byte("x"), Compression: 9, OriginalBytes: 1}
	var d Decoder
	if err := d.Open(&m); !errors.Is(err, ErrUnknown) || string(m.Body) != "x" || m.Compression != 9 || m.OriginalBytes != 1 {
		t.Errorf("got %v and %+v, want %v and the message as it came", err, m, ErrUnknown)
	}
}

// Every cut and every changed bit is either noticed or without effect on the
// size; a panic or a wrong size would not be.
func TestDecompress_DamagedBodies(t *testing.T) {
	body := append(bytes.Repeat([]byte("order paid "), 40), noise(60)...)
	var d Decoder
	for _, how := range all {
		small, _ := newEncoder(t, how).Compress(body)
		for n := range len(small) {
			if plain, err := d.Decompress(small[:n], how, len(body)); err == nil || plain != nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSize) {
				t.Errorf("%v cut at %d: got %d bytes, %v", how, n, len(plain), err)
			}
		}
		for i := range small {
			for bit := range 8 {
				damaged := bytes.Clone(small)
				damaged[i] ^= 1 << bit
				if plain, err := d.Decompress(damaged, how, len(body)); err == nil && len(plain) != len(body) ||
					err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSize) {
					t.Errorf("%v with bit %d of byte %d turned: got %d bytes, %v", how, bit, i, len(plain), err)
				}
			}
		}
		if _, err := d.Decompress(small, how, len(body)); err != nil {
			t.Errorf("%v: a whole body after all that: %v", how, err)
		}
	}
}

func TestDecompress_DeclaredSizeMustHold(t *testing.T) {
	var d Decoder
	for _, how := range append(all, message.None) {
		small, _ := newEncoder(t, how).Compress(make([]byte, 5000))
		for _, size := range []int{-1, 0, 4999, 5001, message.MaxBodyBytes, message.MaxBodyBytes + 1} {
			if plain, err := d.Decompress(small, how, size); !errors.Is(err, ErrSize) && !errors.Is(err, ErrCorrupt) || plain != nil {
				t.Errorf("%v of 5000 bytes, %d declared: got %d bytes, %v", how, size, len(plain), err)
			}
		}
		if size := message.MaxBodyBytes + 1; how != message.None {
			if _, err := d.Decompress(small, how, size); !errors.Is(err, ErrSize) {
				t.Errorf("%v, %d declared: got %v, want %v", how, size, err, ErrSize)
			}
		}
	}
}

// zstdBomb is a frame that says it holds size bytes, and has blocks that each make
// 128 KiB of one byte; no size: it does not say.
func zstdBomb(size uint64, blocks int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0b11_1_000_00}
	b = binary.LittleEndian.AppendUint64(b, size)
	if size == 0 {
		b = append(b[:4], 0b00_0_000_00, 8<<3) // a window of 256 KiB, no size
	}
	for i := range blocks {
		head := uint32(128<<10)<<3 | 1<<1 // run of one byte
		if i == blocks-1 {
			head |= 1
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 'x')
	}
	return b
}

func zeros(n int) []byte {
	var b bytes.Buffer
	w, _ := zlib.NewWriterLevel(&b, 9)
	for range n >> 20 {
		w.Write(make([]byte, 1<<20))
	}
	w.Close()
	return b.Bytes()
}

func TestDecompress_Bombs(t *testing.T) {
	const declared = 64 << 10
	chain := append([]byte{0x1f, 'x', 1, 0}, bytes.Repeat([]byte{255}, 60<<10)...) // one LZ4 match of 15 MiB
	for _, bomb := range []struct {
		name string
		how  message.Compression
		body []byte
	}{
		{"zstd of 10 GiB by its own word", message.Zstd, zstdBomb(10<<30, 250)},
		{"zstd of 31 MiB that says 64 KiB", message.Zstd, zstdBomb(declared, 250)},
		{"zstd of 31 MiB that says nothing", message.Zstd, zstdBomb(0, 250)},
		{"many frames", message.Zstd, bytes.Repeat(zstdBomb(0, 25), 10)},
		{"zlib of 20 MiB", message.Zlib, zeros(20 << 20)},
		{"lz4 of 15 MiB", message.LZ4, append(chain, 0)},
	} {
		var d Decoder
		if _, err := d.Decompress([]byte("x"), bomb.how, 1); err == nil { // so that the decoder is there
			t.Fatal("a letter is a compressed body")
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		plain, err := d.Decompress(bomb.body, bomb.how, declared)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrSize) && !(bomb.how == message.LZ4 && errors.Is(err, ErrCorrupt)) || plain != nil {
			t.Errorf("%s: got %d bytes, %v", bomb.name, len(plain), err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 2<<20 {
			t.Errorf("%s: %d bytes were allocated, %d declared", bomb.name, took, declared)
		}
	}
	// The bombs are bombs: with room they go off.
	r, _ := zstd.NewReader(nil)
	defer r.Close()
	if plain, err := r.DecodeAll(zstdBomb(0, 250), nil); err != nil || len(plain) != 250*128<<10 {
		t.Errorf("got %d bytes, %v", len(plain), err)
	}
}

func TestConcurrentUse(t *testing.T) {
	var d Decoder
	body := bytes.Repeat([]byte("order paid "), 1000)
	for _, how := range all {
		e := newEncoder(t, how)
		var users sync.WaitGroup
		for i := range 8 {
			users.Go(func() {
				own := body[:len(body)-i]
				for range 50 {
					small, got := e.Compress(own)
					if plain, err := d.Decompress(small, got, len(own)); err != nil || !bytes.Equal(plain, own) {
						t.Errorf("%v: got %d bytes, %v; want %d", got, len(plain), err, len(own))
					}
				}
			})
		}
		users.Wait()
	}
}

func FuzzDecompress(f *testing.F) {
	var d Decoder
	for _, how := range all {
		small, _ := newEncoder(f, how).Compress(make([]byte, 5000))
		f.Add(small, byte(how), 5000)
	}
	f.Add(zstdBomb(0, 250), byte(message.Zstd), 100)
	f.Fuzz(func(t *testing.T, body []byte, how byte, size int) {
		plain, err := d.Decompress(body, message.Compression(how), size)
		if err == nil && len(plain) != size || err != nil && plain != nil {
			t.Errorf("got %d bytes, %v; %d declared", len(plain), err, size)
		}
	})
}
