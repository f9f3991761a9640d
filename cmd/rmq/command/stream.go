package command

import (
	"errors"
	"io"
	"strconv"
	"syscall"

	"go.yaml.in/yaml/v3"
)

// streamBytes is how much a stream gathers before it writes by itself.
const streamBytes = 256 << 10

// stream prints items one after another, in the form that was asked for, as
// they come. Nothing is shown before Flush or until much has gathered.
type stream struct {
	w     io.Writer
	form  string
	buf   []byte
	items int
	err   error // of the first write that failed

	// truncated says in the JSON form that there is more than was printed.
	truncated bool
}

func newStream(a *app) *stream {
	s := &stream{w: a.out, form: a.output}
	if s.form == outJSON {
		s.buf = append(s.buf, `{"items":[`...)
	}
	return s
}

// item is one thing in its three forms. Each appends without a final newline.
type item interface {
	appendJSON(dst []byte) []byte
	appendName(dst []byte) []byte
	appendText(dst []byte) []byte
}

// add appends one item.
func (s *stream) add(it item) error {
	switch s.form {
	case outJSON:
		if s.items > 0 {
			s.buf = append(s.buf, ',')
		}
		s.buf = it.appendJSON(append(s.buf, '\n'))
	case outNDJSON:
		s.buf = append(it.appendJSON(s.buf), '\n')
	case outYAML:
		s.buf = append(s.buf, "---\n"...)
		s.buf = appendYAML(s.buf, it.appendJSON(nil))
	case outName:
		s.buf = append(it.appendName(s.buf), '\n')
	default:
		s.buf = append(it.appendText(s.buf), '\n')
	}
	s.items++
	if len(s.buf) >= streamBytes {
		return s.flush()
	}
	return nil
}

// flush writes what has gathered.
func (s *stream) flush() error {
	if s.err == nil && len(s.buf) > 0 {
		_, s.err = s.w.Write(s.buf)
	}
	s.buf = s.buf[:0]
	return s.err
}

// close ends the output so that it is whole.
func (s *stream) close() error {
	if s.form == outJSON {
		s.buf = append(s.buf, "\n],\"truncated\":"...)
		s.buf = append(strconv.AppendBool(s.buf, s.truncated), "}\n"...)
	}
	return s.flush()
}

func appendYAML(dst, line []byte) []byte {
	var doc yaml.Node
	if err := yaml.Unmarshal(line, &doc); err != nil {
		return append(dst, line...) // JSON is YAML too
	}
	plain(&doc)
	text, err := yaml.Marshal(&doc)
	if err != nil {
		return append(dst, line...)
	}
	return append(dst, text...)
}

// readerGone reports that whoever read stdout has left, which is no failure:
// `rmq sub orders | head -1`.
func readerGone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}
