package command

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (see Makefile); without it the version is what
// the Go tool knows.
var version string

// build says what this binary was made from. The fields are API.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	// Modified is true when the sources had changes that were not committed.
	Modified bool   `json:"modified"`
	Time     string `json:"time"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// thisBuild reads what the Go tool wrote into the binary.
func thisBuild() build {
	b := build{Version: cmp.Or(version, "(devel)"), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = cmp.Or(version, info.Main.Version, b.Version)
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "The version of this binary",
		Args: takes(),
		RunE: func(*cobra.Command, []string) error {
			b := thisBuild()
			return printObject(a, b, b.Version, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "rmq %s %s %s\n", b.Version, b.Go, b.Platform)
				return err
			})
		},
	}
}
