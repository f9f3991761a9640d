package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/broker/store"
)

func (a *app) storeCommand() *cobra.Command {
	return noun("store", "A broker's data directory, while no server uses it", a.storeVerify())
}

// segmentRow is what was found in one file. The fields are API.
type segmentRow struct {
	File     string  `json:"file"`
	First    uint64  `json:"first"`
	Last     uint64  `json:"last"`
	Sealed   bool    `json:"sealed"`
	Records  int64   `json:"records"`
	Messages int64   `json:"messages"`
	Bytes    int64   `json:"bytes"`
	Error    *string `json:"error"`
	Cut      *string `json:"cut"`
}

func segmentTable() table[segmentRow] {
	return table[segmentRow]{
		name: func(r segmentRow) string { return r.File },
		columns: []column[segmentRow]{
			{title: "FILE", cell: func(r segmentRow) string { return r.File }},
			{title: "FIRST", cell: func(r segmentRow) string { return number(r.First) }},
			{title: "LAST", cell: func(r segmentRow) string { return number(r.Last) }},
			{title: "SEALED", cell: func(r segmentRow) string { return fmt.Sprint(r.Sealed) }},
			{title: "RECORDS", cell: func(r segmentRow) string { return number(r.Records) }},
			{title: "MESSAGES", cell: func(r segmentRow) string { return number(r.Messages) }},
			{title: "STATE", cell: func(r segmentRow) string {
				switch {
				case r.Error != nil:
					return "damaged: " + *r.Error
				case r.Cut != nil:
					return "ok, without a last commit that a crash cut short: " + *r.Cut
				}
				return "ok"
			}},
		},
	}
}

func (a *app) storeVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify DIR", Short: "Check every byte of a data directory; change nothing",
		Long: `Check every byte of a data directory; change nothing.

DIR is what the server was given as --data. No server may use it. The exit code
is 1 when something is damaged. A last commit that a crash cut short is no damage:
the next start takes it back, unless the views show that it was whole once.`,
		Args: takes("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verifyStore(cmd.Context(), args[0]) },
	}
}

func (a *app) verifyStore(ctx context.Context, dir string) error {
	logDir := filepath.Join(dir, broker.LogDir)
	if _, err := os.Stat(logDir); errors.Is(err, fs.ErrNotExist) {
		return &Failure{Code: "STORE_NOT_FOUND", Message: dir + " is not the data directory of a broker", exit: exitNotFound, cause: err}
	}
	lock, err := store.LockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	var rows []segmentRow
	damaged := 0
	err = store.Verify(ctx, logDir, func(r store.SegmentReport) {
		row := segmentRow{
			File: filepath.Base(r.Path), First: r.First, Last: r.Last, Sealed: r.Sealed,
			Records: r.Records, Messages: r.Messages, Bytes: r.Bytes, Error: errorText(r.Err), Cut: errorText(r.Cut),
		}
		if r.Err != nil {
			damaged++
		}
		rows = append(rows, row)
	})
	if err != nil {
		return err
	}
	if err := printList(a, rows, segmentTable()); err != nil {
		return err
	}
	if damaged > 0 {
		return fmt.Errorf("%w: %d of %d segments", store.ErrDamaged, damaged, len(rows))
	}
	return nil
}
