package command

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"
)

// The forms of output.
const (
	outTable  = "table"
	outWide   = "wide"
	outJSON   = "json"
	outYAML   = "yaml"
	outNDJSON = "ndjson"
	outName   = "name"
)

var outputs = []string{outTable, outWide, outJSON, outYAML, outNDJSON, outName}

// table says how values of a type are shown to people.
type table[T any] struct {
	// name is what -o name prints.
	name    func(T) string
	columns []column[T]
}

type column[T any] struct {
	title string
	cell  func(T) string
	// wide columns are shown with -o wide only.
	wide bool
}

// listing is the JSON form of every list.
type listing[T any] struct {
	Items     []T  `json:"items"`
	Truncated bool `json:"truncated"`
}

// printList prints a list in the form that was asked for.
func printList[T any](a *app, items []T, t table[T]) error {
	if items == nil {
		items = []T{}
	}
	switch a.output {
	case outJSON:
		return a.printJSON(listing[T]{Items: items})
	case outYAML:
		return a.printYAML(listing[T]{Items: items})
	case outNDJSON:
		return printLines(a.out, items)
	case outName:
		for _, v := range items {
			if _, err := fmt.Fprintln(a.out, t.name(v)); err != nil {
				return err
			}
		}
		return nil
	default:
		return t.write(a.out, items, a.output == outWide, !a.noHeaders)
	}
}

// printObject prints one value; table does it for people.
func printObject[T any](a *app, v T, name string, table func(io.Writer) error) error {
	switch a.output {
	case outJSON:
		return a.printJSON(v)
	case outYAML:
		return a.printYAML(v)
	case outNDJSON:
		return printLines(a.out, []T{v})
	case outName:
		_, err := fmt.Fprintln(a.out, name)
		return err
	default:
		return table(a.out)
	}
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printLines[T any](w io.Writer, items []T) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for _, v := range items {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	return nil
}

// printYAML has the fields of the JSON form in the same order.
func (a *app) printYAML(v any) error {
	j, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(j, &doc); err != nil {
		return err
	}
	plain(&doc)
	e := yaml.NewEncoder(a.out)
	e.SetIndent(2)
	return e.Encode(&doc)
}

// plain takes away the flow style and quotes that the JSON text had; the
// encoder puts back what is needed.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

func (t table[T]) write(w io.Writer, items []T, wide, headers bool) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cell func(column[T]) string) {
		var cells []string
		for _, c := range t.columns {
			if wide || !c.wide {
				cells = append(cells, cell(c))
			}
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	if headers {
		row(func(c column[T]) string { return c.title })
	}
	for _, v := range items {
		row(func(c column[T]) string { return orDash(c.cell(v)) })
	}
	return tw.Flush()
}

// writeFields shows the fields of one value, a name and its text in turn.
func writeFields(w io.Writer, pairs ...string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(tw, "%s:\t%s\n", pairs[i], orDash(pairs[i+1]))
	}
	return tw.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func number[N int | int64 | uint64](n N) string { return strconv.FormatInt(int64(n), 10) }

// moment is a time on the wire; nil for none.
func moment(millis int64) *time.Time {
	if millis == 0 {
		return nil
	}
	return new(time.UnixMilli(millis).UTC())
}

func momentText(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format("2006-01-02T15:04:05.000Z07:00")
}

func durationText(millis int64) string {
	if millis == 0 {
		return ""
	}
	d := time.Duration(millis) * time.Millisecond
	if d > 10*time.Second {
		d = d.Round(time.Second)
	}
	return d.String()
}
