package protocol

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares text with testdata/name and returns what the file holds.
func golden(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("%s: the wire changed; got\n%swant\n%s", path, text, want)
	}
	return string(want)
}

// hexText is b in hexadecimal, 16 bytes a line.
func hexText(b []byte) string {
	var text strings.Builder
	for at := 0; at < len(b); at += 16 {
		fmt.Fprintf(&text, "% x\n", b[at:min(at+16, len(b))])
	}
	return text.String()
}

func bytesOf(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrame_GoldenBytes(t *testing.T) {
	request := sampleFrame()
	refusal := Frame{Kind: KindError, Code: QueryRoute, ID: request.ID, Payload: []byte(`{"code":17,"remark":"topic orders is not known"}`)}
	for name, f := range map[string]Frame{"frame-request.hex": request, "frame-error.hex": refusal} {
		got, err := DecodeFrame(bytesOf(t, golden(t, name, hexText(AppendFrame(nil, &f)))))
		if err != nil || !equalFrames(got, f) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestBinaryPayloads_GoldenBytes(t *testing.T) {
	for name, v := range samples() {
		b := bytesOf(t, golden(t, name+".hex", hexText(mustAppend(t, v))))
		got := decoders[name]()
		if err := got.UnmarshalBinary(b); err != nil || !reflect.DeepEqual(got, v) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, v)
		}
	}
}

// Names of JSON fields are for ever: testdata/payloads.json has each of them.
func TestJSONPayloads_Golden(t *testing.T) {
	filled := make(map[string]any)
	for name, v := range payloads() {
		if decoders[name] == nil {
			filled[name] = reflect.New(reflect.TypeOf(v).Elem()).Interface()
			fill(reflect.ValueOf(filled[name]).Elem(), name)
		}
	}
	var text bytes.Buffer
	if err := json.Indent(&text, mustMarshal(t, filled), "", "  "); err != nil {
		t.Fatal(err)
	}
	text.WriteByte('\n')
	var old map[string]json.RawMessage
	if err := json.Unmarshal([]byte(golden(t, "payloads.json", text.String())), &old); err != nil {
		t.Fatal(err)
	}
	for name, want := range filled {
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface()
		if err := Unmarshal(old[name], got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := Marshal(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fill sets every field of v to something that is not zero.
func fill(v reflect.Value, name string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), name)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), name)
	case reflect.String:
		v.SetString("some " + name)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(len(name)))
	case reflect.Uint16, reflect.Uint64:
		v.SetUint(uint64(len(name)))
	default:
		panic("no sample for " + v.Type().String())
	}
}
