package command

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/rmqio/rmq/message"
)

// maxLineBytes is more than a message of the largest size needs in base64 with
// all its properties.
const maxLineBytes = 32 << 20

// messages gives what is to be sent, without what the flags say of every
// message. An error ends it.
func (r *publication) messages(ctx context.Context) (iter.Seq2[*message.Message, error], error) {
	if r.flags.template == "" {
		return r.plain(ctx), nil
	}
	t, err := r.flags.parseTemplate()
	if err != nil {
		return nil, err
	}
	return templated(t, r.plain(ctx)), nil
}

// plain gives the messages with their bodies as they were given.
func (r *publication) plain(ctx context.Context) iter.Seq2[*message.Message, error] {
	if !r.flags.readsInput() {
		return repeated([]byte(r.flags.body), r.flags.count)
	}
	return func(yield func(*message.Message, error) bool) {
		in, stop := interruptible(ctx, r.app.in)
		defer stop()
		input(in, r.flags)(yield)
	}
}

// input reads messages in the form that the flags say.
func input(in io.Reader, f pubFlags) iter.Seq2[*message.Message, error] {
	switch f.in {
	case inLines:
		return lineInput(in, func(line []byte) (*message.Message, error) {
			return &message.Message{Body: bytes.Clone(line)}, nil
		})
	case inNDJSON:
		var d lineDecoder
		return lineInput(in, func(line []byte) (*message.Message, error) {
			if len(bytes.TrimSpace(line)) == 0 {
				return nil, nil
			}
			return d.message(line)
		})
	}
	return func(yield func(*message.Message, error) bool) {
		body, err := io.ReadAll(io.LimitReader(in, message.MaxBodyBytes+1))
		if err == nil && len(body) > message.MaxBodyBytes {
			err = fmt.Errorf("%w: stdin has more than %d bytes", message.ErrBodyTooLarge, message.MaxBodyBytes)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		repeated(body, f.count)(yield)
	}
}

// repeated gives a new message with the same body n times.
func repeated(body []byte, n int) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		for range n {
			if !yield(&message.Message{Body: body}, nil) {
				return
			}
		}
	}
}

// lineInput gives the message that parse makes of each line; none for nil. The
// first line that is wrong ends it.
func lineInput(in io.Reader, parse func([]byte) (*message.Message, error)) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		lines := lineReader{r: bufio.NewReaderSize(in, 256<<10)}
		for {
			line, err := lines.next()
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			m, err := parse(line)
			if err == nil && m != nil {
				err = m.Validate()
			}
			if err != nil {
				yield(nil, badInput(lines.number, err))
				return
			}
			if m != nil && !yield(m, nil) {
				return
			}
		}
	}
}

func badInput(line int, cause error) error {
	return &Failure{Code: "BAD_INPUT", Message: fmt.Sprintf("line %d: %v", line, cause), exit: exitUsage, cause: cause}
}

// lineReader gives one line after another, without the newline.
type lineReader struct {
	r      *bufio.Reader
	number int
	long   []byte // of a line that is longer than the reader's memory
}

// next is valid until the next call; io.EOF behind the last line.
func (l *lineReader) next() ([]byte, error) {
	l.long = l.long[:0]
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.long)+len(part) > maxLineBytes {
			return nil, badInput(l.number+1, fmt.Errorf("longer than %d bytes", maxLineBytes))
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			l.long = append(l.long, part...)
			continue
		}
		line := part
		if len(l.long) > 0 {
			l.long = append(l.long, part...)
			line = l.long
		}
		if err != nil && (err != io.EOF || len(line) == 0) {
			return nil, err
		}
		l.number++
		return bytes.TrimSuffix(line, []byte("\n")), nil
	}
}
