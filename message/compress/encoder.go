package compress

import (
	"bytes"
	"slices"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/rmqio/rmq/message"
)

const (
	// zlibLevel is RocketMQ's.
	zlibLevel = 5
	// zstdWindow bounds how far back an encoder looks, and with it the memory that
	// each one keeps.
	zstdWindow = 512 << 10
)

// Encoder compresses bodies in one way. It is safe for concurrent use, and keeps
// for the next body what it has made for earlier ones.
type Encoder struct {
	how  message.Compression
	zstd *zstd.Encoder
	zlib sync.Pool // of *zlib.Writer
	lz4  sync.Pool // of *lz4.Compressor
	room sync.Pool // of *[]byte, to compress into
}

// NewEncoder makes an encoder; one for None leaves every body as it is. The error
// is that of Check.
func NewEncoder(how message.Compression) (*Encoder, error) {
	if err := Check(how); err != nil {
		return nil, err
	}
	e := &Encoder{how: how}
	e.room.New = func() any { return new([]byte) }
	e.lz4.New = func() any { return &lz4.Compressor{} }
	e.zlib.New = func() any {
		w, _ := zlib.NewWriterLevel(nil, zlibLevel) // fails for a level that does not exist
		return w
	}
	if how != message.Zstd {
		return e, nil
	}
	var err error
	e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)) // batches have a checksum
	return e, err
}

// Compress returns the body in new memory of its size with how it is compressed;
// the body itself with None when it would not get smaller.
func (e *Encoder) Compress(body []byte) ([]byte, message.Compression) {
	if e.how == message.None || len(body) == 0 {
		return body, message.None
	}
	room := e.room.Get().(*[]byte)
	defer e.room.Put(room)
	*room = slices.Grow((*room)[:0], len(body))
	var small []byte
	switch e.how {
	case message.Zstd:
		small = e.zstd.EncodeAll(body, *room)
	case message.Zlib:
		small = e.deflate(body, *room)
	case message.LZ4:
		small = e.block(body, *room)
	}
	if len(small) == 0 || len(small) >= len(body) {
		return body, message.None
	}
	return bytes.Clone(small), e.how
}

func (e *Encoder) deflate(body, room []byte) []byte {
	w := e.zlib.Get().(*zlib.Writer)
	defer e.zlib.Put(w)
	small := bytes.NewBuffer(room)
	w.Reset(small)
	w.Write(body) // a buffer takes everything
	w.Close()
	return small.Bytes()
}

// block is LZ4 without a frame: the message says the size that a frame would.
func (e *Encoder) block(body, room []byte) []byte {
	c := e.lz4.Get().(*lz4.Compressor)
	defer e.lz4.Put(c)
	n, err := c.CompressBlock(body, room[:len(body)])
	if err != nil {
		return nil // it does not fit, so that it is not smaller
	}
	return room[:n]
}
