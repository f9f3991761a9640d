// Package tests holds what no single package can test: the import directions of
// the whole module here, and in its folders the cluster harness, the integration
// tests and the demonstration.
package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rmqio/rmq/"

// layers are the packages of the module from the bottom up. A package imports
// only from layers below its own. "x/..." is x and everything in it that has no
// entry of its own.
var layers = [][]string{
	{"message", "internal/machine", "broker/pages", "tests/trap"},
	{"message/batch", "broker/aged", "broker/payload", "broker/sorted", "message/compress", "internal/telemetry"},
	{"message/filter", "transport/protocol", "broker/store", "broker/view", "internal/client/lookup"},
	{"transport", "transport/fabric"},
	{"internal/client", "broker/...", "nameserver/..."},
	{"producer", "consumer", "admin", "broker"},
	{"cmd/rmq/command", "rmqtest", "tests/crash", "tests/churn"},
	{"cmd/rmq", "tests/harness"},
	{"tests", "tests/..."},
}

// ban says what some packages do not import.
type ban struct {
	who        []string
	never      []string
	transitive bool // not through others either
	reason     string
}

var sdks = []string{"producer/...", "consumer/...", "admin/...", "internal/client/..."}

var bans = []ban{
	{sdks, []string{module + "broker/...", module + "nameserver/...", module + "transport/fabric"}, true,
		"programs with a client must not carry the server"},
	{sdks, []string{"github.com/nats-io/nats-server/..."}, true, "programs with a client must not carry a NATS server"},
	{sdks, []string{"go.etcd.io/bbolt/..."}, true, "a client stores nothing"},
	{sdks, []string{"go.opentelemetry.io/otel/sdk/...", "go.opentelemetry.io/otel/exporters/...", "go.opentelemetry.io/contrib/..."}, true,
		"of OpenTelemetry the clients carry only the API; which SDK there is, the program decides"},
	{sdks, []string{"github.com/spf13/..."}, true, "command-line libraries belong to cmd"},
	{[]string{"producer/..."}, []string{module + "consumer/...", module + "admin/..."}, true, "the SDKs do not know one another"},
	{[]string{"consumer/..."}, []string{module + "producer/...", module + "admin/..."}, true, "the SDKs do not know one another"},
	{[]string{"admin/..."}, []string{module + "producer/...", module + "consumer/..."}, true, "the SDKs do not know one another"},
	{[]string{"cmd/..."}, []string{module + "internal/client/..."}, false, "what the command does with a cluster, the SDKs do: users can do it, too"},
	{[]string{"broker/..."}, []string{module + "nameserver/...", module + "internal/client/..."}, true,
		"a broker knows name servers by the wire alone"},
	{[]string{"nameserver/..."}, []string{module + "broker/...", module + "internal/client/...", "go.etcd.io/bbolt/..."}, true,
		"a name server knows brokers by the wire alone, and stores nothing"},
	{[]string{"message/...", "transport/protocol"}, []string{"net", "net/http", "os", "os/exec", "log/slog"}, false,
		"the nouns and the encodings do no I/O"},
	{[]string{"broker/store"}, []string{module + "transport/..."}, true, "the log knows bytes, not requests"},
}

// only says who alone imports a dependency.
type only struct {
	dependency string
	by         []string
	reason     string
}

var onlies = []only{
	{"github.com/nats-io/nats.go/...", []string{"transport", "tests/bench"}, "all others speak to transport, so that NATS stays exchangeable"},
	{"github.com/nats-io/nats-server/...", []string{"transport/fabric", "tests/bench"}, "clients must not carry the NATS server"},
	{"go.etcd.io/bbolt/...", []string{"broker/store", "broker/view", "tests/bench"}, "the format on disk has one owner each for the log and the views"},
	{"github.com/spf13/...", []string{"cmd/..."}, "libraries have no command line"},
	{"go.opentelemetry.io/otel/exporters/...", []string{"cmd/rmq/command"}, "who is told of metrics, the program decides"},
	{"github.com/prometheus/...", []string{"cmd/rmq/command"}, "who is told of metrics, the program decides"},
	{"go.opentelemetry.io/otel/semconv/...", []string{"internal/telemetry"}, "the conventions change: one package follows them"},
}

// pkg is what `go list` tells of a package; tests are not in it: they may use
// whatever makes them real.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestLayers_ImportsGoDownward(t *testing.T) {
	for _, v := range violations(modulePackages(t)) {
		t.Error(v)
	}
}

func modulePackages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		t.Fatalf("%v: %v\n%s", cmd, err, exit.Stderr)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < len(layers) {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}

// violations are sentences, one for each import that breaks a rule.
func violations(all []pkg) []string {
	var found []string
	for _, p := range all {
		name := strings.TrimPrefix(p.ImportPath, module)
		found = append(found, upward(name, p.Imports)...)
		found = append(found, banned(name, p)...)
		found = append(found, notAlone(name, p.Imports)...)
	}
	return found
}

func upward(name string, imports []string) []string {
	mine := layerOf(name)
	if mine < 0 {
		return []string{name + " has no layer: give it one in tests/layers_test.go"}
	}
	var found []string
	for _, i := range imports {
		other, ours := strings.CutPrefix(i, module)
		if theirs := layerOf(other); ours && theirs >= mine {
			found = append(found, fmt.Sprintf("%s (layer %d) imports %s (layer %d): imports go to lower layers only", name, mine, other, theirs))
		}
	}
	return found
}

func banned(name string, p pkg) []string {
	var found []string
	for _, b := range bans {
		if !matchesAny(b.who, name) {
			continue
		}
		imports, how := p.Imports, "imports"
		if b.transitive {
			imports, how = p.Deps, "depends on"
		}
		for _, i := range imports {
			if matchesAny(b.never, i) {
				found = append(found, fmt.Sprintf("%s %s %s: %s", name, how, strings.TrimPrefix(i, module), b.reason))
			}
		}
	}
	return found
}

func notAlone(name string, imports []string) []string {
	var found []string
	for _, o := range onlies {
		for _, i := range imports {
			if matches(o.dependency, i) && !matchesAny(o.by, name) {
				found = append(found, fmt.Sprintf("%s imports %s, which only %s may: %s", name, i, strings.Join(o.by, " and "), o.reason))
			}
		}
	}
	return found
}

// layerOf finds the layer of a package: by its own entry, else by the longest
// one with "/..." above it; -1 when there is none.
func layerOf(name string) int {
	best, layer := "", -1
	for l, patterns := range layers {
		for _, p := range patterns {
			if p == name {
				return l
			}
			if matches(p, name) && len(p) > len(best) {
				best, layer = p, l
			}
		}
	}
	return layer
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

func matches(pattern, path string) bool {
	tree, below := strings.CutSuffix(pattern, "/...")
	return path == tree || below && strings.HasPrefix(path, tree+"/")
}

// A rule that catches nothing is no rule: each kind is shown a package that
// breaks it.
func TestLayers_EachRuleCatches(t *testing.T) {
	tests := []struct {
		name    string
		imports []string
		deps    []string
		want    string // empty: nothing to find
	}{
		{"producer", []string{"context", module + "message", module + "internal/client"}, []string{module + "transport", "github.com/nats-io/nats.go"}, ""},
		{"message", []string{module + "message/batch"}, nil, "message (layer 0) imports message/batch (layer 1)"},
		{"transport", []string{module + "transport/fabric"}, nil, "imports go to lower layers only"},
		{"broker/group", []string{module + "broker/topic"}, nil, "imports go to lower layers only"},
		{"broker/group", []string{module + "broker/view"}, nil, ""},
		{"surprise", nil, nil, "surprise has no layer"},
		{"producer", nil, []string{"github.com/nats-io/nats-server/v2/server"}, "must not carry a NATS server"},
		{"consumer", nil, []string{"go.etcd.io/bbolt"}, "a client stores nothing"},
		{"admin", nil, []string{module + "broker/store"}, "must not carry the server"},
		{"internal/client/lookup", nil, []string{module + "nameserver"}, "must not carry the server"},
		{"producer", nil, []string{"go.opentelemetry.io/otel/trace"}, ""},
		{"producer", nil, []string{"go.opentelemetry.io/otel/sdk/trace"}, "only the API"},
		{"producer", nil, []string{module + "consumer"}, "do not know one another"},
		{"broker", nil, []string{module + "nameserver"}, "by the wire alone"},
		{"nameserver", nil, []string{module + "broker/store"}, "by the wire alone"},
		{"broker/store", nil, []string{module + "transport/protocol"}, "bytes, not requests"},
		{"message/batch", []string{"os"}, nil, "no I/O"},
		{"internal/client", []string{"github.com/nats-io/nats.go"}, nil, "which only transport and tests/bench may"},
		{"transport", []string{"github.com/nats-io/nats-server/v2/server"}, nil, "which only transport/fabric and tests/bench may"},
		{"broker", []string{"go.etcd.io/bbolt/errors"}, nil, "which only broker/store and broker/view and tests/bench may"},
		{"admin", []string{"github.com/spf13/cobra"}, nil, "which only cmd/... may"},
		{"producer", []string{"go.opentelemetry.io/otel/semconv/v1.43.0"}, nil, "which only internal/telemetry may"},
	}
	for _, tt := range tests {
		got := violations([]pkg{{ImportPath: module + tt.name, Imports: tt.imports, Deps: tt.deps}})
		if tt.want == "" && len(got) != 0 || tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)) {
			t.Errorf("%s with %v %v: got %q, want one with %q", tt.name, tt.imports, tt.deps, got, tt.want)
		}
	}
}
