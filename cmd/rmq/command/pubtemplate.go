package command

import (
	"bytes"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"text/template"
	"time"

	"github.com/google/uuid"

	"github.com/rmqio/rmq/message"
)

// templateData is what a template of `rmq pub` knows of its message.
type templateData struct {
	N    int    // from 1
	Line string // of stdin, with --in lines
}

// parseTemplate also tries the template, so that what fails does so before
// anything is sent.
func (f *pubFlags) parseTemplate() (*template.Template, error) {
	t, err := template.New("body").Option("missingkey=error").Funcs(template.FuncMap{
		"now":  func() string { return time.Now().UTC().Format(time.RFC3339Nano) },
		"uuid": uuid.NewString,
		"random": func(limit int) (int, error) {
			if limit < 1 {
				return 0, fmt.Errorf("random %d: want a limit of at least 1", limit)
			}
			return rand.IntN(limit), nil
		},
	}).Parse(f.template)
	if err == nil {
		err = t.Execute(io.Discard, templateData{N: 1})
	}
	if err != nil {
		return nil, usagef("--template: %v", err)
	}
	return t, nil
}

func (f *pubFlags) checkTemplate() error {
	if f.template == "" {
		return nil
	}
	_, err := f.parseTemplate()
	return err
}

// templated gives the messages of in with bodies that the template makes; a
// template that reads no input makes count of them.
func templated(t *template.Template, in iter.Seq2[*message.Message, error]) iter.Seq2[*message.Message, error] {
	return func(yield func(*message.Message, error) bool) {
		n := 0
		for m, err := range in {
			if err == nil {
				n++
				var body bytes.Buffer
				err = t.Execute(&body, templateData{N: n, Line: string(m.Body)})
				m.Body = body.Bytes()
			}
			if err != nil {
				yield(nil, fmt.Errorf("message %d: %w", n, err))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}
