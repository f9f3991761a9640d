package command

import (
	"encoding/base64"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/rmqio/rmq/message"
)

// lineDecoder reads messages from lines of JSON as lineEncoder writes them.
// Fields that only a broker knows, and fields it does not know, are skipped.
// Its zero value is ready to use, by one goroutine at a time.
type lineDecoder struct {
	text  jsonText
	names interner
	body  []byte
	born  struct {
		text string
		time time.Time
	}
}

// message reads one line. Nothing of the message shares the line's memory.
func (d *lineDecoder) message(line []byte) (*message.Message, error) {
	if !utf8.Valid(line) {
		return nil, fmt.Errorf("the line is not UTF-8; bodies that are not have \"bodyEncoding\": \"base64\"")
	}
	d.text.reset(line)
	d.body = d.body[:0]
	m := &message.Message{}
	encoding := "utf8"
	err := d.text.object(func(name []byte) error {
		if string(name) == "bodyEncoding" {
			return d.string("bodyEncoding", &encoding)
		}
		return d.field(m, name)
	})
	if err == nil {
		err = d.text.end()
	}
	if err == nil {
		m.Body, err = decodeBody(d.body, encoding)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d *lineDecoder) field(m *message.Message, name []byte) error {
	switch string(name) {
	case "messageId":
		return d.messageID(m)
	case "tag":
		return d.string("tag", &m.Tag)
	case "keys":
		return d.keys(m)
	case "messageGroup":
		return d.string("messageGroup", &m.Group)
	case "properties":
		return d.properties(m)
	case "bornTime":
		return d.bornTime(m)
	case "priority":
		n, err := d.text.integer("priority")
		m.Priority = int(min(n, message.MaxPriority+1))
		return err
	case "dedupKey":
		return d.string("dedupKey", &m.DedupKey)
	case "deliverAt":
		return d.deliverAt(m)
	case "delay":
		return d.delay(m)
	case "body":
		s, err := d.text.optionalString("body")
		d.body = append(d.body[:0], s...)
		return err
	}
	return d.text.skip(0)
}

func (d *lineDecoder) string(name string, to *string) error {
	s, err := d.text.optionalString(name)
	if err == nil && s != nil {
		*to = d.names.intern(s)
	}
	return err
}

func (d *lineDecoder) messageID(m *message.Message) error {
	s, err := d.text.optionalString("messageId")
	if err != nil || len(s) == 0 {
		return err
	}
	m.ID, err = message.ParseID(string(s))
	return err
}

func (d *lineDecoder) keys(m *message.Message) error {
	m.Keys = nil
	if d.text.null() {
		return nil
	}
	return d.text.array("keys", func() error {
		s, err := d.text.string("keys")
		m.Keys = append(m.Keys, d.names.intern(s))
		return err
	})
}

func (d *lineDecoder) properties(m *message.Message) error {
	m.Properties = nil
	if d.text.null() {
		return nil
	}
	return d.text.object(func(name []byte) error {
		key := d.names.intern(name) // before the value, which reuses the memory
		s, err := d.text.string(key)
		if m.Properties == nil {
			m.Properties = make(map[string]string, 4)
		}
		m.Properties[key] = string(s)
		return err
	})
}

func (d *lineDecoder) bornTime(m *message.Message) error {
	s, err := d.text.optionalString("bornTime")
	if err != nil || len(s) == 0 {
		return err
	}
	if string(s) != d.born.text {
		t, err := time.Parse(time.RFC3339, string(s))
		if err != nil {
			return fmt.Errorf(`"bornTime" %q is not a time in RFC 3339`, s)
		}
		d.born.text, d.born.time = string(s), t
	}
	m.BornTime = d.born.time
	return nil
}

func (d *lineDecoder) deliverAt(m *message.Message) error {
	s, err := d.text.optionalString("deliverAt")
	if err != nil || len(s) == 0 {
		return err
	}
	if m.DeliverAt, err = time.Parse(time.RFC3339, string(s)); err != nil {
		return fmt.Errorf(`"deliverAt" %q is not a time in RFC 3339`, s)
	}
	return nil
}

func (d *lineDecoder) delay(m *message.Message) error {
	s, err := d.text.optionalString("delay")
	if err != nil || len(s) == 0 {
		return err
	}
	if m.Delay, err = time.ParseDuration(string(s)); err != nil {
		return fmt.Errorf(`"delay" %q is not a duration`, s)
	}
	return nil
}

func decodeBody(text []byte, encoding string) ([]byte, error) {
	switch encoding {
	case "utf8":
		return append(make([]byte, 0, len(text)), text...), nil
	case "base64":
		body, err := base64.StdEncoding.AppendDecode(nil, text)
		if err != nil {
			return nil, fmt.Errorf(`"body" is not base64: %w`, err)
		}
		return body, nil
	}
	return nil, fmt.Errorf(`"bodyEncoding" %q: want utf8 or base64`, encoding)
}

// interner gives one string for all equal ones: tags, groups and names of
// properties repeat from line to line.
type interner struct{ known map[string]string }

// Limits of what an interner keeps.
const (
	maxInterned      = 4096
	maxInternedBytes = 256
)

func (n *interner) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := n.known[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) > maxInternedBytes {
		return s
	}
	if n.known == nil || len(n.known) >= maxInterned {
		n.known = make(map[string]string)
	}
	n.known[s] = s
	return s
}
