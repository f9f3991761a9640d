package command

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// confirm asks for the name of what is to be deleted. Without a terminal nobody
// can answer, so it fails instead of waiting.
func (a *app) confirm(what, name string) error {
	if !isTerminal(a.in) {
		f := usagef("deleting %s %q needs a yes, and stdin is not a terminal", what, name)
		f.Hint = "add --yes, or look first with --dry-run"
		return f
	}
	fmt.Fprintf(a.err, "Deleting %s %q cannot be undone. Type its name to go on: ", what, name)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && err != io.EOF {
		return err
	}
	if strings.TrimSpace(line) != name {
		return &Failure{Code: "NOT_CONFIRMED", Message: "nothing was deleted", exit: exitFailure}
	}
	return nil
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
