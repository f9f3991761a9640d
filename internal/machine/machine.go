// Package machine tells what the machine is that a measurement ran on. It reads
// /proc where there is one, and knows nothing else.
package machine

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Facts are what a measurement depends on. The fields are API of `rmq bench`.
type Facts struct {
	CPUs        int    `json:"cpus"` // that the process may use
	CPU         string `json:"cpu"`  // the model; empty: not known
	MemoryBytes int64  `json:"memoryBytes"`
	Platform    string `json:"platform"`
	Kernel      string `json:"kernel"`
}

// Look finds the facts out; what cannot be found out is zero.
func Look() Facts {
	return Facts{
		CPUs:        runtime.GOMAXPROCS(0),
		CPU:         field("/proc/cpuinfo", "model name"),
		MemoryBytes: kibibytes(field("/proc/meminfo", "MemTotal")),
		Platform:    runtime.GOOS + "/" + runtime.GOARCH,
		Kernel:      line("/proc/sys/kernel/osrelease"),
	}
}

// field is the first value of "name: value" in a file.
func field(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return find(string(text), name)
}

func find(text, name string) string {
	for l := range strings.Lines(text) {
		if key, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kibibytes reads "123 kB"; 0 when it is something else.
func kibibytes(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(s, " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

func line(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
