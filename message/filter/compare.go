package filter

import (
	"fmt"
	"strings"
)

// comparisons say which orders a comparison takes.
var comparisons = map[string]func(order int) bool{
	"=":  func(o int) bool { return o == 0 },
	"<>": func(o int) bool { return o != 0 },
	">":  func(o int) bool { return o > 0 },
	">=": func(o int) bool { return o >= 0 },
	"<":  func(o int) bool { return o < 0 },
	"<=": func(o int) bool { return o <= 0 },
}

// compare makes a comparison, or says why there is none of these two.
func compare(left operand, op string, right operand) (n node, reason string) {
	if left.kind != name && right.kind == name {
		left, op, right = right, mirrored(op), left
	}
	ordered := op != "=" && op != "<>"
	holds := comparisons[op]
	switch {
	case ordered && (left.kind == text || right.kind == text || left.kind == word || right.kind == word):
		return nil, fmt.Sprintf("%s orders numbers, not %s and %s", op, left, right)
	case left.kind == name && right.kind == name:
		return compareProperties(left.text, right.text, op), ""
	case left.kind != name && left.kind != right.kind:
		return nil, fmt.Sprintf("%s and %s cannot be compared", left, right)
	case left.kind != name:
		t := truthOf(holds(orderOf(left.token, right.token)))
		return func(Source) truth { return t }, ""
	case right.kind == number:
		return compareNumber(left.text, holds, right.number), ""
	case right.kind == word:
		return propertyIs(left.text, (right.text == "TRUE") == (op == "=")), ""
	}
	property, want, equal := left.text, right.text, op == "="
	return func(s Source) truth {
		v, ok := s.Property(property)
		if !ok {
			return unknown
		}
		return truthOf((v == want) == equal)
	}, ""
}

func mirrored(op string) string {
	return strings.NewReplacer("<>", "<>", "<", ">", ">", "<").Replace(op)
}

// orderOf compares two literals of one kind.
func orderOf(a, b token) int {
	if a.kind == number {
		return order(a.number, b.number)
	}
	return strings.Compare(a.text, b.text)
}

func order(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func compareNumber(property string, holds func(int) bool, want float64) node {
	return func(s Source) truth {
		v, ok := s.Property(property)
		if !ok {
			return unknown
		}
		f, ok := parseNumber(v)
		if !ok {
			return unknown
		}
		return truthOf(holds(order(f, want)))
	}
}

func compareProperties(left, right, op string) node {
	holds, ordered := comparisons[op], op != "=" && op != "<>"
	return func(s Source) truth {
		a, ok := s.Property(left)
		b, both := s.Property(right)
		if !ok || !both {
			return unknown
		}
		x, numeric := parseNumber(a)
		y, too := parseNumber(b)
		switch {
		case numeric && too:
			return truthOf(holds(order(x, y)))
		case ordered:
			return unknown
		}
		return truthOf(holds(strings.Compare(a, b)))
	}
}

// propertyIs compares a property with TRUE or FALSE.
func propertyIs(property string, want bool) node {
	return func(s Source) truth {
		v, ok := s.Property(property)
		switch {
		case ok && strings.EqualFold(v, "true"):
			return truthOf(want)
		case ok && strings.EqualFold(v, "false"):
			return truthOf(!want)
		}
		return unknown
	}
}

func contains(o operand, op, part string) node {
	look := map[string]func(s, part string) bool{
		"CONTAINS": strings.Contains, "STARTSWITH": strings.HasPrefix, "ENDSWITH": strings.HasSuffix,
	}[op]
	if o.kind == text {
		t := truthOf(look(o.text, part))
		return func(Source) truth { return t }
	}
	property := o.text
	return func(s Source) truth {
		v, ok := s.Property(property)
		if !ok {
			return unknown
		}
		return truthOf(look(v, part))
	}
}
