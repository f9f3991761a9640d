package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

func (a *app) namesrvCommand() *cobra.Command {
	return noun("namesrv", "Name servers", a.namesrvList())
}

// nameServerRow is one name server. The fields are API.
type nameServerRow struct {
	Address         string  `json:"address"`
	Reachable       bool    `json:"reachable"`
	Brokers         int     `json:"brokers"`
	RoundTripMillis float64 `json:"roundTripMillis"`
	Error           *string `json:"error"`
}

func newNameServerRows(servers []admin.NameServer) []nameServerRow {
	rows := make([]nameServerRow, len(servers))
	for i, s := range servers {
		rows[i] = nameServerRow{
			Address: s.Addr, Reachable: s.Err == nil, Brokers: s.Brokers,
			RoundTripMillis: float64(s.RoundTrip.Round(time.Microsecond)) / float64(time.Millisecond), Error: errorText(s.Err),
		}
	}
	return rows
}

func (a *app) namesrvList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "The configured name servers and whether they answer",
		Args: takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			servers := ad.NameServers(ctx)
			if err := printList(a, newNameServerRows(servers), nameServerTable()); err != nil {
				return err
			}
			return nameServerFailure(servers)
		}),
	}
}

// nameServerFailure is nil when all answer; partial when only some do.
func nameServerFailure(servers []admin.NameServer) error {
	var errs []error
	for _, s := range servers {
		if s.Err != nil {
			errs = append(errs, s.Err)
		}
	}
	switch {
	case len(errs) == 0:
		return nil
	case len(errs) == len(servers):
		return errs[0]
	}
	return &Failure{
		Code: "PARTIAL", Message: fmt.Sprintf("%d of %d name servers do not answer", len(errs), len(servers)), exit: exitPartial,
	}
}

func nameServerTable() table[nameServerRow] {
	return table[nameServerRow]{
		name: func(r nameServerRow) string { return r.Address },
		columns: []column[nameServerRow]{
			{title: "ADDRESS", cell: func(r nameServerRow) string { return r.Address }},
			{title: "REACHABLE", cell: func(r nameServerRow) string { return fmt.Sprint(r.Reachable) }},
			{title: "BROKERS", cell: func(r nameServerRow) string { return number(r.Brokers) }},
			{title: "ROUND TRIP", cell: func(r nameServerRow) string { return fmt.Sprintf("%.3f ms", r.RoundTripMillis) }},
			{title: "ERROR", cell: func(r nameServerRow) string { return optional(r.Error) }},
		},
	}
}
