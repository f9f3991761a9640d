package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

type properties map[string]string

func (p properties) Property(name string) (string, bool) {
	v, ok := p[name]
	return v, ok
}

// cases are made from the rules of SQL92 (ISO 9075:1992, 8.2 to 8.12) and from
// RocketMQ's documentation of property filters.
var cases = []struct {
	expression string
	props      properties
	want       bool
}{
	{"a = 5", properties{"a": "5"}, true},
	{"a = 5", properties{"a": "5.0"}, true},
	{"a = 5", properties{"a": "6"}, false},
	{"a = 5", properties{}, false},
	{"a = 5", properties{"a": "five"}, false},
	{"a <> 5", properties{"a": "6"}, true},
	{"a <> 5", properties{"a": "5"}, false},
	{"a <> 5", properties{}, false}, // unknown is not true
	{"a <> 5", properties{"a": "five"}, false},
	{"NOT a = 5", properties{}, false}, // NOT unknown is unknown
	{"NOT a = 5", properties{"a": "6"}, true},
	{"NOT NOT a = 5", properties{"a": "5"}, true},
	{"a > 5", properties{"a": "10"}, true}, // a number, not a string
	{"a > 5", properties{"a": "5"}, false},
	{"a >= 5", properties{"a": "5"}, true},
	{"a < -1.5", properties{"a": "-2"}, true},
	{"a <= 1e3", properties{"a": "1000"}, true},
	{"5 < a", properties{"a": "6"}, true},
	{"5 >= a", properties{"a": "6"}, false},
	{"a > 5", properties{"a": "0x10"}, false}, // not a number of SQL
	{"a > 5", properties{"a": "Inf"}, false},
	{"a > 5", properties{"a": "NaN"}, false},
	{"a > 5", properties{"a": "1_0"}, false},
	{"a = 'x'", properties{"a": "x"}, true},
	{"a = 'x'", properties{"a": "X"}, false},
	{"a = 'it''s'", properties{"a": "it's"}, true},
	{"a = ''", properties{"a": ""}, true},
	{"a <> 'x'", properties{"a": "y"}, true},
	{"'x' = a", properties{"a": "x"}, true},
	{"a = b", properties{"a": "1", "b": "1.0"}, true},
	{"a = b", properties{"a": "x", "b": "x"}, true},
	{"a = b", properties{"a": "x"}, false},
	{"a < b", properties{"a": "9", "b": "10"}, true},
	{"a < b", properties{"a": "a", "b": "b"}, false}, // strings have no order
	{"a = TRUE", properties{"a": "true"}, true},
	{"a = TRUE", properties{"a": "TRUE"}, true},
	{"a = FALSE", properties{"a": "true"}, false},
	{"a <> TRUE", properties{"a": "false"}, true},
	{"a <> TRUE", properties{"a": "yes"}, false},
	{"a", properties{"a": "true"}, true},
	{"NOT a", properties{"a": "false"}, true},
	{"NOT a", properties{}, false},
	{"TRUE", properties{}, true},
	{"FALSE OR true", properties{}, true},
	{"a IS NULL", properties{}, true},
	{"a IS NULL", properties{"a": ""}, false},
	{"a IS NOT NULL", properties{"a": ""}, true},
	{"a is not null", properties{}, false},
	{"a BETWEEN 1 AND 3", properties{"a": "1"}, true},
	{"a BETWEEN 1 AND 3", properties{"a": "3"}, true},
	{"a BETWEEN 1 AND 3", properties{"a": "3.1"}, false},
	{"a BETWEEN 3 AND 1", properties{"a": "2"}, false},
	{"a NOT BETWEEN 1 AND 3", properties{"a": "4"}, true},
	{"a NOT BETWEEN 1 AND 3", properties{}, false},
	{"a BETWEEN 1 AND b", properties{"a": "0"}, false},
	{"a NOT BETWEEN 1 AND b", properties{"a": "0"}, true}, // 0 >= 1 is false: the unknown end does not matter
	{"a BETWEEN 1 AND 3 AND b = 2", properties{"a": "1", "b": "2"}, true},
	{"a IN ('x', 'y')", properties{"a": "y"}, true},
	{"a IN ('x', 'y')", properties{"a": "z"}, false},
	{"a IN (1, 2)", properties{"a": "2.0"}, true},
	{"a NOT IN ('x', 'y')", properties{"a": "z"}, true},
	{"a NOT IN ('x', 'y')", properties{}, false},
	{"a NOT IN ('x', b)", properties{"a": "z"}, false}, // z may be b
	{"a CONTAINS 'el'", properties{"a": "hello"}, true},
	{"a CONTAINS ''", properties{"a": ""}, true},
	{"a NOT CONTAINS 'el'", properties{"a": "world"}, true},
	{"a NOT CONTAINS 'el'", properties{}, false},
	{"a STARTSWITH 'he'", properties{"a": "hello"}, true},
	{"a ENDSWITH 'lo'", properties{"a": "hello"}, true},
	{"a ENDSWITH 'he'", properties{"a": "hello"}, false},
	{"'hello' CONTAINS 'ell'", properties{}, true},
	{"a = 1 OR b = 2 AND c = 3", properties{"a": "1"}, true}, // AND binds more than OR
	{"(a = 1 OR b = 2) AND c = 3", properties{"a": "1"}, false},
	{"NOT a = 1 AND b = 2", properties{"a": "2", "b": "2"}, true}, // NOT binds more than AND
	{"NOT (a = 1 AND b = 2)", properties{"a": "2"}, true},         // false AND unknown is false
	{"NOT (a = 1 OR b = 2)", properties{"a": "2"}, false},         // false OR unknown is unknown
	{"a = 1 OR b = 2", properties{"b": "2"}, true},                // unknown OR true is true
	{"a.b-c = 1 AND _d$ = 2 AND größe = 3", properties{"a.b-c": "1", "_d$": "2", "größe": "3"}, true},
	{"TAGS IN ('t') AND KEYS CONTAINS 'k2'", properties{"TAGS": "t", "KEYS": "k1 k2"}, true},
	{"1 = 1 AND 2 > 1 AND 'a' = 'a' AND NOT 'a' = 'b' AND TRUE = TRUE", properties{}, true},
	{" ( ( a=1 )\n)\t", properties{"a": "1"}, true},
}

func TestExpression_Cases(t *testing.T) {
	for _, c := range cases {
		e, err := Compile(c.expression)
		if err != nil {
			t.Errorf("%s: %v", c.expression, err)
			continue
		}
		if got := e.Match(c.props); got != c.want {
			t.Errorf("%s with %v: got %t", c.expression, c.props, got)
		}
	}
}

func TestCompile_SaysWhereAndWhatIsExpected(t *testing.T) {
	for _, c := range []struct{ expression, want string }{
		{"", "column 1: found the end, expected a property"},
		{"a =", "column 4: found the end, expected a property"},
		{"a = 1 AND", "column 10: found the end, expected a property"},
		{"a = 1 b", "column 7: found the name b, expected AND, OR or the end"},
		{"(a = 1", "column 7: found the end, expected )"},
		{"a = 1)", "column 6: found ), expected AND, OR or the end"},
		{"a BETWEEN 1 OR 2", "column 13: found OR, expected AND"},
		{"a BETWEEN 'a' AND 'b'", "column 3: BETWEEN: >= orders numbers"},
		{"a NOT = 1", "column 7: found =, expected BETWEEN, IN"},
		{"a IN 1", "column 6: found 1, expected ("},
		{"a IN ()", "column 7: found ), expected a property"},
		{"a IN (1", "column 8: found the end, expected )"},
		{"a IS 1", "column 6: found 1, expected NULL"},
		{"1 IS NULL", "column 3: IS NULL asks for a property"},
		{"a > 'x'", "column 3: > orders numbers, not the name a and 'x'"},
		{"a > TRUE", "column 3: > orders numbers"},
		{"1 = 'x'", "column 3: 1 and 'x' cannot be compared"},
		{"1 IN ('x')", "column 3: IN: 1 and 'x' cannot be compared"},
		{"1", "column 2: found the end, expected a comparison"},
		{"'x'", "column 4: found the end, expected a comparison"},
		{"a CONTAINS 1", "column 3: CONTAINS looks for a string"},
		{"1 CONTAINS 'x'", "column 3: CONTAINS looks for a string"},
		{"a = 'x", "column 5: the string has no closing quote"},
		{"a = 1.2.3", `column 5: "1.2.3" is not a number`},
		{"a = 1x", `column 5: "1x" is not a number`},
		{"a = 1e999", `column 5: "1e999" is not a number`},
		{"a ; b", `column 3: ";" begins nothing`},
		{"a = AND", "column 5: found AND, expected a property"},
		{strings.Repeat("(", MaxDepth+1), "nested more than 64 deep"},
		{strings.Repeat("NOT ", MaxDepth+1) + "a", "nested more than 64 deep"},
		{"a = 1" + strings.Repeat(" OR a = 1", MaxNodes/4), "more than 512 operators"},
		{strings.Repeat(" ", MaxBytes+1), "8193 bytes, the limit is 8192"},
	} {
		_, err := Compile(c.expression)
		if !errors.Is(err, ErrFilter) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40s: got %v, want %s", c.expression, err, c.want)
		}
	}
	if _, err := Compile(strings.Repeat("(", MaxDepth) + "a" + strings.Repeat(")", MaxDepth)); err != nil {
		t.Error(err)
	}
}

// tree is an expression as the slow evaluator has it: it knows the rules by name
// and computes each value with nil for unknown.
type tree struct {
	op    string
	parts []*tree
	name  string // of the property that a leaf looks at
	value string // literal, as written
}

func (x *tree) String() string {
	switch x.op {
	case "AND", "OR":
		return "(" + x.parts[0].String() + " " + x.op + " " + x.parts[1].String() + ")"
	case "NOT":
		return "NOT (" + x.parts[0].String() + ")"
	case "IS NULL", "IS NOT NULL":
		return x.name + " " + x.op
	}
	return x.name + " " + x.op + " " + x.value
}

func (x *tree) eval(p properties) *bool {
	is := func(b bool) *bool { return &b }
	switch x.op {
	case "IS NULL", "IS NOT NULL":
		_, ok := p[x.name]
		return is(ok == (x.op == "IS NOT NULL"))
	case "NOT":
		if v := x.parts[0].eval(p); v != nil {
			return is(!*v)
		}
		return nil
	case "AND", "OR":
		a, b := x.parts[0].eval(p), x.parts[1].eval(p)
		decisive := x.op == "OR"
		switch {
		case a != nil && *a == decisive, b != nil && *b == decisive:
			return is(decisive)
		case a == nil || b == nil:
			return nil
		}
		return is(!decisive)
	}
	v, ok := p[x.name]
	if !ok {
		return nil
	}
	if x.value[0] == '\'' {
		s := strings.Trim(x.value, "'")
		switch x.op {
		case "=":
			return is(v == s)
		case "<>":
			return is(v != s)
		case "CONTAINS":
			return is(strings.Contains(v, s))
		case "STARTSWITH":
			return is(strings.HasPrefix(v, s))
		}
		return is(strings.HasSuffix(v, s))
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return nil
	}
	n, _ := strconv.ParseFloat(x.value, 64)
	return is(map[string]bool{"=": f == n, "<>": f != n, ">": f > n, ">=": f >= n, "<": f < n, "<=": f <= n}[x.op])
}

var values = []string{"0", "1", "2.5", "-1", "x", "xy", "yx", ""}

func drawTree(t *rapid.T, depth int) *tree {
	ops := []string{"leaf", "leaf", "AND", "OR", "NOT"}
	op := "leaf"
	if depth > 0 {
		op = rapid.SampledFrom(ops).Draw(t, "op")
	}
	x := &tree{op: op, name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")}
	switch op {
	case "AND", "OR":
		x.parts = []*tree{drawTree(t, depth-1), drawTree(t, depth-1)}
	case "NOT":
		x.parts = []*tree{drawTree(t, depth-1)}
	default:
		x.op = rapid.SampledFrom([]string{"=", "<>", ">", ">=", "<", "<=", "CONTAINS", "STARTSWITH", "ENDSWITH", "IS NULL", "IS NOT NULL"}).Draw(t, "leaf")
		x.value = rapid.SampledFrom([]string{"0", "1", "-1", "2.5"}).Draw(t, "number")
		equality := x.op == "=" || x.op == "<>"
		if strings.Contains(x.op, "S") || equality && rapid.Bool().Draw(t, "string") {
			x.value = "'" + rapid.SampledFrom([]string{"x", "y", "1", ""}).Draw(t, "text") + "'"
		}
	}
	return x
}

func TestExpression_LikeTheSlowEvaluator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := drawTree(t, 5)
		props := properties{}
		for _, name := range []string{"a", "b", "c"} {
			if rapid.Bool().Draw(t, "has") {
				props[name] = rapid.SampledFrom(values).Draw(t, "value")
			}
		}
		e, err := Compile(x.String())
		if err != nil {
			t.Fatalf("%s: %v", x, err)
		}
		want := x.eval(props)
		if got := e.Match(props); got != (want != nil && *want) {
			t.Fatalf("%s with %v: got %t, want %v", x, props, got, want)
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, c := range cases {
		f.Add(c.expression)
	}
	props := properties{"a": "1", "b": "x"}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := Compile(text)
		if err != nil {
			if !errors.Is(err, ErrFilter) {
				t.Fatal(err)
			}
			return
		}
		e.Match(props)
		if again, err := Compile("(" + text + ")"); err == nil && again.Match(props) != e.Match(props) {
			t.Fatalf("parentheses change %q", text)
		}
	})
}

func TestOf_IsTheMessage(t *testing.T) {
	m := Of{&message.Message{Tag: "t", Keys: []string{"a", "b"}, Properties: map[string]string{"p": "v"}}}
	for name, want := range map[string]string{"TAGS": "t", "KEYS": "a b", "p": "v"} {
		if v, ok := m.Property(name); v != want || !ok {
			t.Errorf("%s: got %q, %t", name, v, ok)
		}
	}
	for _, name := range []string{"TAGS", "KEYS", "p"} {
		if _, ok := (Of{&message.Message{}}).Property(name); ok {
			t.Errorf("an empty message has %s", name)
		}
	}
}

func TestExpression_Names(t *testing.T) {
	e, err := Compile("a = 1 AND b IN ('x') OR a IS NULL")
	if err != nil || fmt.Sprint(e.Names()) != "[a b]" {
		t.Errorf("got %v, %v", e.Names(), err)
	}
}

func TestTags(t *testing.T) {
	f, err := ParseTags(" b||a || b ")
	if err != nil || f.String() != "a || b" || f.All() {
		t.Fatalf("got %v, %v", f, err)
	}
	for tag, want := range map[string]bool{"a": true, "b": true, "c": false, "": false, "A": false} {
		if f.Match(tag) != want || f.MayMatch(batch.TagHash(tag)) != want {
			t.Errorf("tag %q: got %t and %t", tag, f.Match(tag), f.MayMatch(batch.TagHash(tag)))
		}
	}
	if !f.MayMatch(0) {
		t.Error("a batch of several tags may match")
	}
	for _, all := range []string{"", "*", "  * "} {
		if f, err := ParseTags(all); err != nil || !f.All() || !f.Match("x") || !f.MayMatch(7) || f.String() != "*" {
			t.Errorf("%q: got %v, %v", all, f, err)
		}
	}
	for text, want := range map[string]string{
		"a ||": "column 5: a tag is expected", "||a": "column 1: a tag", "a || *": "column 5: * stands alone", "a b": "column 1: \"a b\" is not one tag", "a | b": "not one tag",
	} {
		if _, err := ParseTags(text); !errors.Is(err, ErrFilter) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
