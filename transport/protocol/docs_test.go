package protocol

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wireDoc is docs/wire.md.
func wireDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "wire.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDocs_HaveEveryCode(t *testing.T) {
	doc := wireDoc(t)
	for _, x := range exchanges {
		c := x.request.RequestCode()
		row := fmt.Sprintf("\n| %d | %s | %s | %s | %s |\n", c, c, x.class, nameOf(x.request), nameOf(x.response))
		if !strings.Contains(doc, row) {
			t.Errorf("docs/wire.md lacks the row%s", row)
		}
	}
	for c, payload := range events {
		if row := regexp.MustCompile(fmt.Sprintf(`\n\| %d \| %s \| .* \| %s \|\n`, c, c, nameOf(payload))); !row.MatchString(doc) {
			t.Errorf("docs/wire.md lacks the row %s", row)
		}
	}
	for _, e := range errorCodes {
		retry := map[bool]string{true: "yes", false: "no"}[e.retryable]
		if row := fmt.Sprintf("\n| %d | %s | %s | ", e.number, e.name, retry); !strings.Contains(doc, row) {
			t.Errorf("docs/wire.md lacks the row%s", row)
		}
	}
}

func TestDocs_HaveEverySubject(t *testing.T) {
	doc := wireDoc(t)
	subjects := []string{NameServerEvents, "rmq.c.<connection>"}
	for _, x := range exchanges {
		switch x.class {
		case ClassRoute, ClassBroker:
			subjects = append(subjects, NameServerSubject(x.class))
		case toClients:
			subjects = append(subjects, ReplySubject("rmq.c.<connection>"))
		default:
			subjects = append(subjects, strings.Replace(BrokerSubject("name", 7, x.class), "name.7", "<name>.<id>", 1))
		}
	}
	for _, s := range subjects {
		if !strings.Contains(doc, "\n| `"+s+"` | ") {
			t.Errorf("docs/wire.md lacks the subject %s", s)
		}
	}
}

// Each JSON type has a heading and a row for each field, in the order of the code.
func TestDocs_HaveEveryJSONField(t *testing.T) {
	doc := wireDoc(t)
	seen := make(map[reflect.Type]bool)
	for name, v := range payloads() {
		if decoders[name] == nil && name != "Empty" {
			collect(reflect.TypeOf(v).Elem(), seen)
		}
	}
	rows := regexp.MustCompile(`(?m)^\| (\S+|\*all of\*) \| ([^|]*) \| `)
	for typ := range seen {
		_, section, ok := strings.Cut(doc, "\n#### "+typ.Name()+"\n")
		if !ok {
			t.Errorf("docs/wire.md lacks %s", typ.Name())
			continue
		}
		section, _, _ = strings.Cut(section, "\n##")
		var got []string
		for _, row := range rows.FindAllStringSubmatch(section, -1) {
			if row[1] != "field" && row[1] != "---" {
				got = append(got, row[1]+" "+row[2])
			}
		}
		if want := fieldsOf(typ); !slices.Equal(got, want) {
			t.Errorf("%s: docs/wire.md has %q, the code %q", typ.Name(), got, want)
		}
	}
	if got := strings.Count(doc, "\n#### "); got != len(seen) {
		t.Errorf("docs/wire.md has %d JSON types, the code %d", got, len(seen))
	}
}

// collect adds typ and the structs in its fields to seen.
func collect(typ reflect.Type, seen map[reflect.Type]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		collect(typ.Elem(), seen)
	case reflect.Struct:
		seen[typ] = true
		for i := range typ.NumField() {
			collect(typ.Field(i).Type, seen)
		}
	}
}

func fieldsOf(typ reflect.Type) []string {
	var all []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			all = append(all, "*all of* "+f.Type.Name())
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		text := "`" + name + "` " + jsonType(f.Type)
		if options != "" { // omitempty or omitzero
			text += ", optional"
		}
		all = append(all, text)
	}
	return all
}

func jsonType(typ reflect.Type) string {
	switch {
	case typ.Kind() == reflect.Slice:
		return "list of " + jsonType(typ.Elem())
	case typ.Kind() == reflect.Pointer:
		return jsonType(typ.Elem())
	case typ.PkgPath() != "":
		return typ.Name()
	case typ.Kind() == reflect.String:
		return "string"
	case typ.Kind() == reflect.Bool:
		return "boolean"
	default:
		return "integer"
	}
}

// The bytes in the page, without their remarks, are those of the golden files.
func TestDocs_BytesAreTheGoldenFiles(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```hex (\\S+)\n(.*?)```").FindAllStringSubmatch(wireDoc(t), -1)
	if len(blocks) != 19 {
		t.Errorf("got %d blocks of bytes, want 19", len(blocks))
	}
	for _, block := range blocks {
		want, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(block[1])))
		if err != nil {
			t.Error(err)
			continue
		}
		var text strings.Builder
		for line := range strings.Lines(block[2]) {
			bytes, _, _ := strings.Cut(line, "  ")
			text.WriteString(bytes + " ")
		}
		if got := hex.EncodeToString(bytesOf(t, text.String())); got != hex.EncodeToString(bytesOf(t, string(want))) {
			t.Errorf("%s: docs/wire.md shows %s", block[1], got)
		}
	}
}
