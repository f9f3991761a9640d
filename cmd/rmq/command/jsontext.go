package command

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// errCut is returned for JSON that ends too early.
var errCut = errors.New("the JSON ends too early")

// maxJSONDepth bounds the nesting of values that are skipped.
const maxJSONDepth = 64

// jsonText walks over one JSON text, which must be UTF-8. What it accepts is
// valid JSON; unlike encoding/json it refuses half of a surrogate pair, which
// it could only replace.
type jsonText struct {
	b       []byte
	at      int
	scratch []byte // of the last string that had escapes
}

func (t *jsonText) reset(b []byte) { t.b, t.at = b, 0 }

// next skips white space and gives the next byte without taking it; 0 at the end.
func (t *jsonText) next() byte {
	for ; t.at < len(t.b); t.at++ {
		switch c := t.b[t.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take takes the next byte if it is c.
func (t *jsonText) take(c byte) bool {
	if t.next() != c {
		return false
	}
	t.at++
	return true
}

func (t *jsonText) want(c byte) error {
	if t.take(c) {
		return nil
	}
	if t.at >= len(t.b) {
		return errCut
	}
	return fmt.Errorf("column %d: %q where %q is expected", t.at+1, t.b[t.at], c)
}

// end fails when something follows.
func (t *jsonText) end() error {
	if c := t.next(); t.at < len(t.b) {
		return fmt.Errorf("column %d: %q behind the end of the object", t.at+1, c)
	}
	return nil
}

// object calls member for each name; member takes the value. The name is valid
// until the next string is taken.
func (t *jsonText) object(member func(name []byte) error) error {
	if err := t.want('{'); err != nil || t.take('}') {
		return err
	}
	for {
		name, err := t.string("a name")
		if err != nil {
			return err
		}
		if err := t.want(':'); err != nil {
			return err
		}
		if err := member(name); err != nil {
			return err
		}
		if !t.take(',') {
			return t.want('}')
		}
	}
}

// array calls element for each; element takes the value.
func (t *jsonText) array(what string, element func() error) error {
	if t.next() != '[' {
		return t.wrong(what, "an array")
	}
	t.at++
	if t.take(']') {
		return nil
	}
	for {
		if err := element(); err != nil {
			return err
		}
		if !t.take(',') {
			return t.want(']')
		}
	}
}

func (t *jsonText) wrong(what, wanted string) error {
	if t.next(); t.at >= len(t.b) {
		return errCut
	}
	return fmt.Errorf("column %d: %q wants %s", t.at+1, what, wanted)
}

// null takes a null if it is next.
func (t *jsonText) null() bool { return t.next() == 'n' && t.literal("null") == nil }

func (t *jsonText) literal(s string) error {
	if len(t.b)-t.at < len(s) || string(t.b[t.at:t.at+len(s)]) != s {
		return fmt.Errorf("column %d: not a JSON value", t.at+1)
	}
	t.at += len(s)
	return nil
}

// optionalString is string; nil for null.
func (t *jsonText) optionalString(what string) ([]byte, error) {
	if t.null() {
		return nil, nil
	}
	return t.string(what)
}

// string takes a string. The bytes are valid until the next call.
func (t *jsonText) string(what string) ([]byte, error) {
	if t.next() != '"' {
		return nil, t.wrong(what, "a string")
	}
	t.at++
	for i := t.at; i < len(t.b); i++ {
		switch c := t.b[i]; {
		case c == '"':
			s := t.b[t.at:i]
			t.at = i + 1
			return s, nil
		case c == '\\':
			return t.escaped(i)
		case c < ' ':
			return nil, fmt.Errorf("column %d: control character %#02x in a string", i+1, c)
		}
	}
	return nil, errCut
}

// escaped takes the rest of a string whose first escape is at i.
func (t *jsonText) escaped(i int) ([]byte, error) {
	t.scratch = append(t.scratch[:0], t.b[t.at:i]...)
	t.at = i
	for t.at < len(t.b) {
		c := t.b[t.at]
		switch {
		case c == '"':
			t.at++
			return t.scratch, nil
		case c < ' ':
			return nil, fmt.Errorf("column %d: control character %#02x in a string", t.at+1, c)
		case c != '\\':
			t.scratch = append(t.scratch, c)
			t.at++
		default:
			if err := t.escape(); err != nil {
				return nil, err
			}
		}
	}
	return nil, errCut
}

// escape takes one escape.
func (t *jsonText) escape() error {
	if t.at+1 >= len(t.b) {
		return errCut
	}
	c := t.b[t.at+1]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return t.unicode()
	default:
		return fmt.Errorf("column %d: escape \\%c does not exist", t.at+1, c)
	}
	t.scratch = append(t.scratch, c)
	t.at += 2
	return nil
}

// unicode takes \uXXXX, or two of them that make one character.
func (t *jsonText) unicode() error {
	r, ok := t.hex4(t.at)
	if !ok {
		return fmt.Errorf("column %d: \\u wants four hexadecimal digits", t.at+1)
	}
	size := 6
	if utf16.IsSurrogate(r) {
		second, ok := t.hex4(t.at + 6)
		if r = utf16.DecodeRune(r, second); !ok || r == utf8.RuneError {
			return fmt.Errorf("column %d: half of a surrogate pair", t.at+1)
		}
		size = 12
	}
	t.scratch = utf8.AppendRune(t.scratch, r)
	t.at += size
	return nil
}

func (t *jsonText) hex4(at int) (rune, bool) {
	if len(t.b) < at+6 || t.b[at] != '\\' || t.b[at+1] != 'u' {
		return 0, false
	}
	for _, c := range t.b[at+2 : at+6] {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(string(t.b[at+2:at+6]), 16, 32)
	return rune(n), err == nil
}

// skip takes any value.
func (t *jsonText) skip(depth int) error {
	if depth > maxJSONDepth {
		return fmt.Errorf("column %d: nested more than %d deep", t.at+1, maxJSONDepth)
	}
	switch c := t.next(); {
	case c == '"':
		_, err := t.string("")
		return err
	case c == '{':
		return t.object(func([]byte) error { return t.skip(depth + 1) })
	case c == '[':
		return t.array("", func() error { return t.skip(depth + 1) })
	case c == 't':
		return t.literal("true")
	case c == 'f':
		return t.literal("false")
	case c == 'n':
		return t.literal("null")
	case c == '-' || c >= '0' && c <= '9':
		return t.number()
	case t.at >= len(t.b):
		return errCut
	}
	return fmt.Errorf("column %d: not a JSON value", t.at+1)
}

// number takes a number, by the letter of the grammar.
func (t *jsonText) number() error {
	begin := t.at
	if t.b[t.at] == '-' {
		t.at++
	}
	zero := t.at < len(t.b) && t.b[t.at] == '0'
	n := t.digits()
	ok := n > 0 && (!zero || n == 1)
	if ok && t.at < len(t.b) && t.b[t.at] == '.' {
		t.at++
		ok = t.digits() > 0
	}
	if ok && t.at < len(t.b) && (t.b[t.at] == 'e' || t.b[t.at] == 'E') {
		t.at++
		if t.at < len(t.b) && (t.b[t.at] == '+' || t.b[t.at] == '-') {
			t.at++
		}
		ok = t.digits() > 0
	}
	if !ok {
		return fmt.Errorf("column %d: not a number", begin+1)
	}
	return nil
}

func (t *jsonText) digits() int {
	begin := t.at
	for t.at < len(t.b) && t.b[t.at] >= '0' && t.b[t.at] <= '9' {
		t.at++
	}
	return t.at - begin
}

// integer reads a number without a fraction.
func (t *jsonText) integer(what string) (int64, error) {
	if t.next() == 0 {
		return 0, errCut
	}
	from := t.at
	if err := t.number(); err != nil {
		return 0, t.wrong(what, "a number")
	}
	v, err := strconv.ParseInt(string(t.b[from:t.at]), 10, 64)
	if err != nil {
		t.at = from
		return 0, t.wrong(what, "a whole number")
	}
	return v, nil
}
