// Package command is the `rmq` command: one file for each noun. It turns
// arguments into calls of the SDKs and their answers into output, errors into a
// text and an exit code. Data goes to stdout and everything else to stderr. It
// holds no state between runs and never speaks the wire protocol itself.
package command

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// app is one run of the command: its streams and the flags that all verbs have.
type app struct {
	in        io.Reader
	out       io.Writer
	err       io.Writer
	lookupEnv func(string) (string, bool)
	now       func() time.Time

	output    string
	noHeaders bool
	quiet     bool
	reach     reach
}

// Main runs the process's own command line and returns its exit code. The first
// SIGINT or SIGTERM ends the command in good order, the second at once.
func Main() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // so that a write fails instead, and sub can give its queues back
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case s := <-signals:
			signal.Stop(signals)
			cancel(causeOf(s))
		case <-ctx.Done():
		}
	})
	code := Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	cancel(nil)
	wg.Wait()
	return code
}

func causeOf(s os.Signal) error {
	if s == os.Interrupt {
		return errInterrupted
	}
	return errTerminated
}

// Run carries out one command line and returns its exit code. When ctx ends the
// command ends in good order.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{in: stdin, out: stdout, err: stderr, lookupEnv: os.LookupEnv, now: time.Now}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil || readerGone(err) {
		return exitOK
	}
	f := explain(ctx, err)
	f.print(stderr, a.wantsJSONErrors(args))
	return f.exit
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rmq",
		Short: "rmq is a distributed message queue: servers, clients and tools in one command",
		Long: `rmq is a distributed message queue: servers, clients and tools in one command.

Start a server, send a message, read it:

  rmq server
  rmq pub orders hello
  rmq sub orders --from earliest`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(flagError)
	a.globalFlags(root)
	root.AddCommand(
		a.serverCommand(), a.pubCommand(), a.subCommand(), a.requestCommand(), a.replyCommand(),
		a.topicCommand(), a.groupCommand(), a.dlqCommand(), a.clientCommand(), a.quotaCommand(), a.messageCommand(), a.txCommand(), a.storeCommand(), a.clusterCommand(), a.namesrvCommand(),
		a.benchCommand(), a.errorsCommand(), a.versionCommand(), a.completionCommand(),
	)
	root.SetHelpCommand(helpCommand(root))
	return root
}

func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help about any command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(found, args[len(args)-len(rest)])
			}
			return found.Help()
		},
	}
}

// noun is a command that only has verbs.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			f := usagef("%q needs a verb", cmd.CommandPath())
			f.Hint = "one of: " + strings.Join(verbNames(cmd), ", ")
			return f
		},
	}
	c.AddCommand(verbs...)
	return c
}

func verbNames(cmd *cobra.Command) []string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() || c.Name() == "help" {
			names = append(names, c.Name())
		}
	}
	slices.Sort(names)
	return names
}

func unknownCommand(cmd *cobra.Command, name string) error {
	f := usagef("unknown command %q for %q", name, cmd.CommandPath())
	if near := nearest(name, verbNames(cmd)); len(near) > 0 {
		f.Hint = "did you mean " + orList(near) + "?"
	} else {
		f.Hint = "one of: " + strings.Join(verbNames(cmd), ", ")
	}
	return f
}

// takes checks the number of arguments against their names: NAME is required,
// [NAME] may be left out, NAME... may be repeated.
func takes(names ...string) cobra.PositionalArgs {
	required, limit := 0, len(names)
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			required++
		}
		if strings.Contains(n, "...") {
			limit = -1
		}
	}
	return func(cmd *cobra.Command, args []string) error {
		var f *Failure
		switch {
		case len(args) < required:
			f = usagef("argument %s is missing", strings.TrimSuffix(names[len(args)], "..."))
		case limit >= 0 && len(args) > limit:
			f = usagef("argument %q is one too many", args[limit])
		default:
			return nil
		}
		f.Hint = "usage: " + cmd.UseLine()
		return f
	}
}
