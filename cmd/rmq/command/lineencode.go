package command

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rmqio/rmq/message"
)

// lineTime is RFC 3339 in UTC to the millisecond, which is all that is stored.
const lineTime = "2006-01-02T15:04:05.000Z"

// lineEncoder appends messages as objects of JSON on one line, each with all fields in the
// same order, whether they are set or not. It is written by hand because
// printing must keep up with a broker; its zero value is ready to use, by one
// goroutine at a time.
type lineEncoder struct {
	names       []string // of the properties, to sort them
	born, store stamp
}

// stamp is a time and its text: neighbouring messages often share it.
type stamp struct {
	millis int64
	text   string
}

func (s *stamp) appendTo(dst []byte, t time.Time) []byte {
	if ms := t.UnixMilli(); ms != s.millis || s.text == "" {
		s.millis, s.text = ms, t.UTC().Format(lineTime)
	}
	return append(dst, s.text...)
}

// message appends one message, without a newline. A priority of 0 is left out.
func (e *lineEncoder) message(dst []byte, m *message.Stored, reconsumeTimes int) []byte {
	dst = append(dst, `{"messageId":"`...)
	dst = hex.AppendEncode(dst, m.ID[:])
	dst = append(dst, `","topic":`...)
	dst = appendQuoted(dst, m.Topic)
	dst = append(dst, `,"broker":`...)
	dst = appendQuoted(dst, m.Queue.Broker)
	dst = append(dst, `,"queue":`...)
	dst = strconv.AppendInt(dst, int64(m.Queue.ID), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, m.QueueOffset, 10)
	dst = append(dst, `,"tag":`...)
	dst = appendQuoted(dst, m.Tag)
	dst = e.keys(append(dst, `,"keys":`...), m.Keys)
	dst = append(dst, `,"messageGroup":`...)
	dst = appendQuoted(dst, m.Group)
	if m.Priority != 0 {
		dst = strconv.AppendInt(append(dst, `,"priority":`...), int64(m.Priority), 10)
	}
	dst = e.properties(append(dst, `,"properties":`...), m.Properties)
	dst = e.born.appendTo(append(dst, `,"bornTime":"`...), m.BornTime)
	dst = e.store.appendTo(append(dst, `","storeTime":"`...), m.StoreTime)
	dst = append(dst, `","reconsumeTimes":`...)
	dst = strconv.AppendInt(dst, int64(reconsumeTimes), 10)
	if m.Origin != nil {
		dst = appendOrigin(dst, m.Origin)
	}
	return append(e.body(dst, m.Body), '}')
}

// appendOrigin says what a copy in a retry or dead-letter topic is a copy of.
func appendOrigin(dst []byte, o *message.Origin) []byte {
	dst = appendQuoted(append(dst, `,"origin":{"topic":`...), o.Topic)
	dst = strconv.AppendInt(append(dst, `,"queue":`...), int64(o.Queue), 10)
	dst = strconv.AppendInt(append(dst, `,"offset":`...), o.Offset, 10)
	dst = appendQuoted(append(dst, `,"lastError":`...), o.LastError)
	return append(dst, '}')
}

func (e *lineEncoder) keys(dst []byte, keys []string) []byte {
	dst = append(dst, '[')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendQuoted(dst, k)
	}
	return append(dst, ']')
}

// properties are sorted by name, so that a message is always the same line.
func (e *lineEncoder) properties(dst []byte, props map[string]string) []byte {
	e.names = e.names[:0]
	for name := range props {
		e.names = append(e.names, name)
	}
	if len(e.names) > 1 {
		slices.Sort(e.names)
	}
	dst = append(dst, '{')
	for i, name := range e.names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendQuoted(dst, name), ':')
		dst = appendQuoted(dst, props[name])
	}
	return append(dst, '}')
}

func (e *lineEncoder) body(dst, body []byte) []byte {
	dst = append(dst, `,"body":`...)
	if utf8.Valid(body) {
		dst = appendEscaped(append(dst, '"'), body)
		return append(dst, `","bodyEncoding":"utf8"`...)
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, '"'), body)
	return append(dst, `","bodyEncoding":"base64"`...)
}

// appendQuoted appends s as a JSON string. Bytes that are not UTF-8 have no
// form in JSON and become U+FFFD.
func appendQuoted(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return append(appendEscaped(append(dst, '"'), s), '"')
}

// appendEscaped appends valid UTF-8 with the escapes that JSON demands.
func appendEscaped[T string | []byte](dst []byte, s T) []byte {
	begin := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[begin:i]...)
		begin = i + 1
		dst = appendEscape(dst, c)
	}
	return append(dst, s[begin:]...)
}

func appendEscape(dst []byte, c byte) []byte {
	const digits = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
}
