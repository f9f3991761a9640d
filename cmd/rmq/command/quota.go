package command

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) quotaCommand() *cobra.Command {
	c := noun("quota", "Quotas of producer groups and clients: list, set, delete",
		a.quotaList(), a.quotaSet(), a.quotaDelete())
	c.Aliases = []string{"quotas"}
	c.Long = `Quotas of producer groups and clients: list, set, delete.

A quota bounds the messages and the bytes that each broker takes in a second. A
batch passes when all quotas that hold for it do: its topic's, its producer
group's and its client's. What is refused is told when to come again, and
producers do. Quotas of topics are settings of the topic:

  rmq topic alter orders --messages-per-second 5000`
	return c
}

// quotaRow is a quota on one broker. The fields are API.
type quotaRow struct {
	Scope string `json:"scope"`
	// Name is empty for the quota of those that have none of their own.
	Name   string `json:"name"`
	Broker string `json:"broker"`
	// MessagesPerSecond and BytesPerSecond are 0 where there is no bound.
	MessagesPerSecond int64 `json:"messagesPerSecond"`
	BytesPerSecond    int64 `json:"bytesPerSecond"`
}

// How the scopes are said on the command line.
const (
	quotaGroup  = "group"
	quotaClient = "client"
)

func parseScope(s string) (protocol.QuotaScope, error) {
	switch s {
	case quotaGroup:
		return protocol.QuotaOfGroup, nil
	case quotaClient:
		return protocol.QuotaOfClient, nil
	}
	f := usagef("quota scope %q is not known", s)
	f.Hint = "one of: group, client; the quota of a topic: rmq topic alter TOPIC --messages-per-second N"
	return "", f
}

func scopeText(s protocol.QuotaScope) string {
	if s == protocol.QuotaOfGroup {
		return quotaGroup
	}
	return quotaClient
}

func (a *app) quotaList() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "All quotas of producer groups and clients",
		Example: "  rmq quota list\n  rmq quota list --broker broker-a -o json",
		Args:    takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			quotas, err := ad.ListQuotas(ctx, t)
			if err != nil {
				return err
			}
			rows := make([]quotaRow, len(quotas))
			for i, q := range quotas {
				rows[i] = quotaRow{
					Scope: scopeText(q.Scope), Name: q.Name, Broker: q.Broker,
					MessagesPerSecond: q.MessagesPerSecond, BytesPerSecond: q.BytesPerSecond,
				}
			}
			return printList(a, rows, quotaTable())
		}),
	}
	targetFlags(c, &t)
	return c
}

func quotaTable() table[quotaRow] {
	return table[quotaRow]{
		name: func(r quotaRow) string { return r.Scope + "/" + quotaName(r.Name) },
		columns: []column[quotaRow]{
			{title: "SCOPE", cell: func(r quotaRow) string { return r.Scope }},
			{title: "NAME", cell: func(r quotaRow) string { return quotaName(r.Name) }},
			{title: "BROKER", cell: func(r quotaRow) string { return r.Broker }},
			{title: "MESSAGES/S", cell: func(r quotaRow) string { return rateText(r.MessagesPerSecond) }},
			{title: "BYTES/S", cell: func(r quotaRow) string { return rateText(r.BytesPerSecond) }},
		},
	}
}

// quotaName is a name that no group and no client has for those without a quota
// of their own.
func quotaName(name string) string {
	if name == "" {
		return "(default)"
	}
	return name
}

func rateText(perSecond int64) string {
	if perSecond == 0 {
		return ""
	}
	return number(perSecond)
}

// boundText is rateText beside another one.
func boundText(perSecond int64) string { return cmp.Or(rateText(perSecond), "none") }

// rateFlags are the rates of a quota on the command line.
type rateFlags struct{ messages, bytes int64 }

func (f *rateFlags) declare(cmd *cobra.Command, whose string) {
	cmd.Flags().Int64Var(&f.messages, "messages-per-second", 0, "messages that each broker takes "+whose+" in a second; 0: no bound")
	cmd.Flags().Int64Var(&f.bytes, "bytes-per-second", 0, "bytes of messages that each broker takes "+whose+" in a second; 0: no bound")
}

// patch is what was said on the command line, checked.
func (f *rateFlags) patch(cmd *cobra.Command) (p admin.RatesPatch, err error) {
	for _, r := range []struct {
		flag  string
		value *int64
		to    **int64
	}{
		{"messages-per-second", &f.messages, &p.MessagesPerSecond},
		{"bytes-per-second", &f.bytes, &p.BytesPerSecond},
	} {
		if !cmd.Flags().Changed(r.flag) {
			continue
		}
		if *r.value < 0 {
			return p, usagef("--%s %d: want at least 1, or 0 for no bound", r.flag, *r.value)
		}
		*r.to = r.value
	}
	return p, nil
}

// quotaTarget is SCOPE and NAME, or SCOPE and --default.
type quotaTarget struct {
	admin.Target
	byDefault bool
}

func (t *quotaTarget) declare(cmd *cobra.Command) {
	changeFlags(cmd, &t.Target)
	cmd.Flags().BoolVar(&t.byDefault, "default", false, "the quota of each one that has none of its own, instead of NAME")
	cmd.Args = takes("SCOPE", "[NAME]")
	cmd.ValidArgsFunction = cobra.FixedCompletions([]string{quotaGroup, quotaClient}, cobra.ShellCompDirectiveNoFileComp)
}

func (t *quotaTarget) parse(args []string) (scope protocol.QuotaScope, name string, err error) {
	scope, err = parseScope(args[0])
	switch {
	case err != nil:
		return "", "", err
	case len(args) == 1 && t.byDefault:
		return scope, "", nil
	case len(args) == 2 && args[1] != "" && !t.byDefault:
		return scope, args[1], nil
	}
	return "", "", usagef("want either a NAME or --default")
}

func (a *app) quotaSet() *cobra.Command {
	var t quotaTarget
	var f rateFlags
	c := &cobra.Command{
		Use: "set group|client NAME", Short: "Set how much a producer group or a client may send",
		Example: `  rmq quota set group billing --messages-per-second 1000
  rmq quota set client pod-7 --bytes-per-second 1048576
  rmq quota set client --default --messages-per-second 500`,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		scope, name, err := t.parse(args)
		if err != nil {
			return err
		}
		p, err := f.patch(c)
		switch {
		case err != nil:
			return err
		case p == (admin.RatesPatch{}):
			return usagef("nothing to set: give --messages-per-second or --bytes-per-second")
		}
		return a.changeQuota(cmd, scope, name, t.DryRun, func(ctx context.Context, ad *admin.Admin) ([]admin.QuotaChange, error) {
			return ad.SetQuota(ctx, scope, name, p, t.Target)
		})
	}
	t.declare(c)
	f.declare(c, "from it")
	return c
}

func (a *app) quotaDelete() *cobra.Command {
	var t quotaTarget
	c := &cobra.Command{
		Use: "delete group|client NAME", Aliases: []string{"rm"}, Short: "Take a quota away",
		Example: "  rmq quota delete group billing\n  rmq quota delete client --default",
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		scope, name, err := t.parse(args)
		if err != nil {
			return err
		}
		return a.changeQuota(cmd, scope, name, t.DryRun, func(ctx context.Context, ad *admin.Admin) ([]admin.QuotaChange, error) {
			return ad.DeleteQuota(ctx, scope, name, t.Target)
		})
	}
	t.declare(c)
	return c
}

// changeQuota makes a change and prints what it did.
func (a *app) changeQuota(cmd *cobra.Command, scope protocol.QuotaScope, name string, dryRun bool,
	change func(context.Context, *admin.Admin) ([]admin.QuotaChange, error)) error {
	return a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
		changes, err := change(ctx, ad)
		if errors.Is(err, protocol.NotFound) {
			return &Failure{Code: protocol.NotFound.String(), Message: protocol.AsError(err).Remark, Hint: "rmq quota list", exit: exitNotFound, cause: err}
		}
		return a.changed(err, func() error { return a.printQuotaChanges(scope, name, changes, dryRun) })
	})(cmd, nil)
}

// quotaRates are the rates of a quota. The fields are API.
type quotaRates struct {
	MessagesPerSecond int64 `json:"messagesPerSecond"`
	BytesPerSecond    int64 `json:"bytesPerSecond"`
}

func newQuotaRates(r *protocol.Rates) *quotaRates {
	if r == nil {
		return nil
	}
	return &quotaRates{MessagesPerSecond: r.MessagesPerSecond, BytesPerSecond: r.BytesPerSecond}
}

// quotaChangeRow is what happened to a quota on one broker. The fields are API.
type quotaChangeRow struct {
	Scope  string      `json:"scope"`
	Name   string      `json:"name"`
	Broker string      `json:"broker"`
	Action string      `json:"action"`
	DryRun bool        `json:"dryRun"`
	Before *quotaRates `json:"before"`
	After  *quotaRates `json:"after"`
}

func (a *app) printQuotaChanges(scope protocol.QuotaScope, name string, changes []admin.QuotaChange, dryRun bool) error {
	rows := make([]quotaChangeRow, len(changes))
	for i, c := range changes {
		rows[i] = quotaChangeRow{
			Scope: scopeText(scope), Name: name, Broker: c.Broker, Action: actionOf(c.Before, c.After), DryRun: dryRun,
			Before: newQuotaRates(c.Before), After: newQuotaRates(c.After),
		}
	}
	return printList(a, rows, quotaChangeTable())
}

func quotaChangeTable() table[quotaChangeRow] {
	rate := func(pick func(*quotaRates) int64) func(quotaChangeRow) string {
		return func(r quotaChangeRow) string {
			return transition(r.Before, r.After, func(q *quotaRates) string { return boundText(pick(q)) })
		}
	}
	return table[quotaChangeRow]{
		name: func(r quotaChangeRow) string { return r.Scope + "/" + quotaName(r.Name) },
		columns: []column[quotaChangeRow]{
			{title: "SCOPE", cell: func(r quotaChangeRow) string { return r.Scope }},
			{title: "NAME", cell: func(r quotaChangeRow) string { return quotaName(r.Name) }},
			{title: "BROKER", cell: func(r quotaChangeRow) string { return r.Broker }},
			{title: "ACTION", cell: func(r quotaChangeRow) string { return actionText(r.Action, r.DryRun) }},
			{title: "MESSAGES/S", cell: rate(func(q *quotaRates) int64 { return q.MessagesPerSecond })},
			{title: "BYTES/S", cell: rate(func(q *quotaRates) int64 { return q.BytesPerSecond })},
		},
	}
}
