// Package compress makes the bodies of messages smaller, and undoes it. A
// producer has an Encoder and its receivers a Decoder each; a broker stores
// bodies as they come and has neither.
//
// A body grows to the size that its message declares, which is at most
// message.MaxBodyBytes, and is given up when it would grow further, so that a small message cannot fill the memory of
// the one who receives it. The package does no I/O and starts no goroutine.
package compress

import (
	"errors"
	"fmt"

	"github.com/rmqio/rmq/message"
)

// Errors of the decoder. A message that fails with one of them stays as it came.
var (
	// ErrUnknown is returned for a compression that this build does not have.
	ErrUnknown = errors.New("unknown compression")
	// ErrCorrupt is returned for a body that is not what its compression makes.
	ErrCorrupt = errors.New("compressed body is damaged")
	// ErrSize is returned when the declared size of a body is above
	// message.MaxBodyBytes, or is not the size that it has.
	ErrSize = errors.New("size of the compressed body is wrong")
)

// Check tells whether the compression is one that bodies may have.
func Check(c message.Compression) error {
	switch c {
	case message.None, message.Zlib, message.LZ4, message.Zstd:
		return nil
	}
	return fmt.Errorf("%w: %v", ErrUnknown, c)
}
