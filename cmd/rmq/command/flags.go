package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

// defaultNameServer is where `rmq server` listens.
const defaultNameServer = "127.0.0.1:9876"

// reach says how a command finds the cluster and how long it waits for it.
type reach struct {
	nameServers []string
	configFile  string
	endpoint    string
	timeout     time.Duration
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVarP(&a.output, "output", "o", outTable, "output `FORM`: "+strings.Join(outputs, ", "))
	f.BoolVar(&a.noHeaders, "no-headers", false, "tables without the line of titles")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "nothing on stderr but errors")
	f.StringSliceVarP(&a.reach.nameServers, "namesrv", "n", nil,
		"name servers, `HOST:PORT` separated by ; or , (also RMQ_NAMESRV, NAMESRV_ADDR; default "+defaultNameServer+")")
	f.StringVar(&a.reach.configFile, "config", "", "configuration `FILE`")
	f.StringVar(&a.reach.endpoint, "namesrv-endpoint", "", "HTTP `URL` that answers with the list of name servers")
	f.DurationVar(&a.reach.timeout, "timeout", 5*time.Second, "how long to wait for the servers' answers")
	complete(root, "output", outputs...)
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.checkGlobals() }
}

// complete offers fixed values for a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(fmt.Sprintf("flag %s is not declared: %v", flag, err))
	}
}

// exclusive fails when more than one of the flags is given.
func exclusive(cmd *cobra.Command, flags ...string) error {
	var given []string
	for _, f := range flags {
		if cmd.Flags().Changed(f) {
			given = append(given, "--"+f)
		}
	}
	if len(given) > 1 {
		return usagef("%s exclude one another", strings.Join(given, " and "))
	}
	return nil
}

func (a *app) checkGlobals() error {
	if !slices.Contains(outputs, a.output) {
		f := usagef("output form %q is not known", a.output)
		f.Hint = "one of: " + strings.Join(outputs, ", ")
		return f
	}
	if a.reach.timeout <= 0 {
		return usagef("--timeout %s: want more than 0", a.reach.timeout)
	}
	return nil
}

// wantsJSONErrors also holds when the flags were not parsed to the end.
func (a *app) wantsJSONErrors(args []string) bool {
	form := a.output
	for i, arg := range args {
		if arg == "--" {
			break
		}
		switch {
		case (arg == "-o" || arg == "--output") && i+1 < len(args):
			form = args[i+1]
		case strings.HasPrefix(arg, "--output="):
			form = strings.TrimPrefix(arg, "--output=")
		case strings.HasPrefix(arg, "-o") && len(arg) > 2:
			form = strings.TrimPrefix(arg[2:], "=")
		}
	}
	return form == outJSON || form == outNDJSON || form == outYAML
}

// admin opens the SDK, falling back on the local server's address.
func (a *app) admin(ctx context.Context) (*admin.Admin, error) {
	cfg := admin.Config{
		NameServers: a.reach.nameServers, ConfigFile: a.reach.configFile,
		LookupEnv: a.lookupEnv, NameServerEndpoint: a.reach.endpoint,
	}
	ad, err := admin.New(ctx, cfg)
	if errors.Is(err, admin.ErrNoNameServer) {
		cfg.NameServers = []string{defaultNameServer}
		return admin.New(ctx, cfg)
	}
	return ad, err
}

// action is the body of a command that asks or changes the cluster.
type action func(ctx context.Context, ad *admin.Admin, args []string) error

// withAdmin runs an action under --timeout.
func (a *app) withAdmin(act action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), a.reach.timeout)
		defer cancel()
		ad, err := a.admin(ctx)
		if err != nil {
			return err
		}
		defer ad.Close()
		return act(ctx, ad, args)
	}
}

// targetFlags are the flags of commands that go to some or all brokers.
func targetFlags(cmd *cobra.Command, t *admin.Target) {
	cmd.Flags().StringVar(&t.Cluster, "cluster", "", "only brokers of the cluster `NAME`")
	cmd.Flags().StringSliceVar(&t.Brokers, "broker", nil, "only the broker `NAME` (repeatable)")
}

// changeFlags are targetFlags for a change.
func changeFlags(cmd *cobra.Command, t *admin.Target) {
	targetFlags(cmd, t)
	cmd.Flags().BoolVar(&t.DryRun, "dry-run", false, "show what would be changed and change nothing")
}
