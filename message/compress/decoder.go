package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/rmqio/rmq/message"
)

// Decoder undoes every compression. Its zero value is ready; it is safe for
// concurrent use and must not be copied.
type Decoder struct {
	once sync.Once
	zstd *zstd.Decoder
	zlib sync.Pool // of io.ReadCloser that are zlib.Resetter
}

// Open replaces the body of a message by what it was before it was compressed, in
// new memory, and clears Compression and OriginalBytes. A message with
// compression None is left alone, as is one that fails with ErrUnknown, ErrCorrupt
// or ErrSize.
func (d *Decoder) Open(m *message.Message) error {
	if m.Compression == message.None {
		return nil
	}
	body, err := d.Decompress(m.Body, m.Compression, m.OriginalBytes)
	if err != nil {
		return err
	}
	m.Body, m.Compression, m.OriginalBytes = body, message.None, 0
	return nil
}

// Decompress returns what body was before it was compressed, in new memory of the
// size that it is said to have had. One that would grow further is given up within
// a block of 128 KiB, whatever it would grow to.
func (d *Decoder) Decompress(body []byte, how message.Compression, size int) ([]byte, error) {
	if err := Check(how); err != nil {
		return nil, err
	}
	if size < 0 || size > message.MaxBodyBytes {
		return nil, fmt.Errorf("%w: %d bytes are declared; 0 to %d are allowed", ErrSize, size, message.MaxBodyBytes)
	}
	plain, err := d.grow(body, how, size)
	switch {
	case errors.Is(err, ErrSize):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %v: %w", ErrCorrupt, how, err)
	case len(plain) != size:
		return nil, fmt.Errorf("%w: %v of %d bytes gives %d; %d are declared", ErrSize, how, len(body), len(plain), size)
	}
	return plain, nil
}

func (d *Decoder) grow(body []byte, how message.Compression, size int) ([]byte, error) {
	switch how {
	case message.Zstd:
		return d.unzstd(body, size)
	case message.Zlib:
		return d.inflate(body, size)
	case message.LZ4:
		return unblock(body, size)
	}
	return bytes.Clone(body), nil
}

func (d *Decoder) unzstd(body []byte, size int) ([]byte, error) {
	d.once.Do(func() { // the options are good, so that it cannot fail
		d.zstd, _ = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(message.MaxBodyBytes), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderLowmem(true))
	})
	plain, err := d.zstd.DecodeAll(body, make([]byte, 0, size))
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return nil, tooLarge(message.Zstd, body, size)
	}
	return plain, err
}

func (d *Decoder) inflate(body []byte, size int) ([]byte, error) {
	r, err := d.reader(body)
	if err != nil {
		return nil, err
	}
	defer d.zlib.Put(r)
	plain := make([]byte, size)
	if n, err := io.ReadFull(r, plain); err != nil {
		return plain[:n], endOf(err)
	}
	var more [1]byte
	n, err := io.ReadFull(r, more[:]) // the checksum is looked at here
	if n > 0 {
		return nil, tooLarge(message.Zlib, body, size)
	}
	return plain, endOf(err)
}

// endOf is nil for the end of a body that is whole.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (d *Decoder) reader(body []byte) (io.ReadCloser, error) {
	from := bytes.NewReader(body)
	if r, ok := d.zlib.Get().(io.ReadCloser); ok {
		return r, r.(zlib.Resetter).Reset(from, nil)
	}
	return zlib.NewReader(from)
}

func unblock(body []byte, size int) ([]byte, error) {
	plain := make([]byte, size)
	n, err := lz4.UncompressBlock(body, plain)
	return plain[:max(n, 0)], err
}

func tooLarge(how message.Compression, body []byte, size int) error {
	return fmt.Errorf("%w: %v of %d bytes gives more than the %d that are declared", ErrSize, how, len(body), size)
}
