package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"
)

// sourceFile is a file whose lines are the messages.
type sourceFile struct {
	path  string // relative to the root, with slashes: message group and key
	lines int
	open  bool // the last line has no newline
	sum   [sha256.Size]byte
}

// source is a part of a tree of Go files.
type source struct {
	root  string
	files []sourceFile
	lines int
}

// readSource takes Go files under root, in the order of their names, until they
// have at least atLeast lines. Empty files say nothing and are left out.
func readSource(root string, atLeast int) (*source, error) {
	s := &source{root: root}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		if s.lines >= atLeast {
			return fs.SkipAll
		}
		return s.add(path)
	})
	if err != nil {
		return nil, err
	}
	if s.lines < atLeast {
		return nil, fmt.Errorf("%s has %d lines of Go, want %d", root, s.lines, atLeast)
	}
	return s, nil
}

func (s *source) add(path string) error {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return err
	}
	name, err := filepath.Rel(s.root, path)
	if err != nil {
		return err
	}
	f := sourceFile{path: filepath.ToSlash(name), lines: bytes.Count(b, []byte("\n")), sum: sha256.Sum256(b)}
	if b[len(b)-1] != '\n' {
		f.open = true
		f.lines++
	}
	s.files = append(s.files, f)
	s.lines += f.lines
	return nil
}

// record is a message as `rmq pub --in ndjson` reads it and `rmq sub -o ndjson`
// prints it, without the fields that the demonstration has no use for.
type record struct {
	MessageID    string            `json:"messageId,omitempty"`
	Broker       string            `json:"broker,omitempty"`
	Queue        int               `json:"queue,omitempty"`
	Offset       int64             `json:"offset,omitempty"`
	Keys         []string          `json:"keys"`
	MessageGroup string            `json:"messageGroup"`
	Properties   map[string]string `json:"properties"`
	StoreTime    string            `json:"storeTime,omitempty"`
	Body         string            `json:"body"`
	BodyEncoding string            `json:"bodyEncoding"`
}

// makeRecord is one line of a file; a line that is not UTF-8 travels as base64.
func makeRecord(file string, line int, body []byte) record {
	r := record{Keys: []string{file}, MessageGroup: file, Body: string(body), BodyEncoding: "utf8",
		Properties: map[string]string{"line": strconv.Itoa(line)}}
	if !utf8.Valid(body) {
		r.Body, r.BodyEncoding = base64.StdEncoding.EncodeToString(body), "base64"
	}
	return r
}

func (r *record) body() ([]byte, error) {
	switch r.BodyEncoding {
	case "utf8":
		return []byte(r.Body), nil
	case "base64":
		return base64.StdEncoding.DecodeString(r.Body)
	}
	return nil, fmt.Errorf("body encoding %q is not known", r.BodyEncoding)
}

// writeTo writes every line as a record, one a line, each when pace lets it.
func (s *source) writeTo(w io.Writer, pace func() error) error {
	out := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, f := range s.files {
		b, err := os.ReadFile(filepath.Join(s.root, filepath.FromSlash(f.path)))
		if err != nil {
			return err
		}
		for n := 1; n <= f.lines; n++ {
			if err := pace(); err != nil {
				return err
			}
			line, rest, _ := bytes.Cut(b, []byte("\n"))
			if err := enc.Encode(makeRecord(f.path, n, line)); err != nil {
				return err
			}
			b = rest
		}
	}
	return out.Flush()
}
