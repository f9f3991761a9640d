package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

// Exit codes of the command.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitUnavailable = 5
	exitConflict    = 6
	exitPartial     = 7
	exitInterrupted = 130
)

// Causes of a context that a signal ended.
var (
	errInterrupted = errors.New("interrupted")
	errTerminated  = errors.New("terminated")
)

// Failure is an error as it is shown: one line with a code, and a hint what to
// do. Its JSON form is what -o json prints on stderr.
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	exit    int
	cause   error
}

func (f *Failure) Error() string { return f.Code + ": " + f.Message }

func (f *Failure) Unwrap() error { return f.cause }

func (f *Failure) print(w io.Writer, asJSON bool) {
	if asJSON {
		line, _ := json.Marshal(f) // strings always marshal
		fmt.Fprintf(w, "%s\n", line)
		return
	}
	fmt.Fprintf(w, "error[%s]: %s\n", f.Code, f.Message)
	if f.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", f.Hint)
	}
}

// usagef is a mistake in the command line.
func usagef(format string, args ...any) *Failure {
	return &Failure{Code: "USAGE", Message: fmt.Sprintf(format, args...), exit: exitUsage}
}

// flagError explains a flag that does not exist or has a bad value.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		f := usagef("%v", err)
		f.Hint = cmd.CommandPath() + " --help"
		return f
	}
	name := unknown.GetSpecifiedName()
	f := usagef("%v", err)
	f.Hint = cmd.CommandPath() + " --help"
	var known []string
	cmd.Flags().VisitAll(func(fl *pflag.Flag) { known = append(known, fl.Name) })
	cmd.InheritedFlags().VisitAll(func(fl *pflag.Flag) { known = append(known, fl.Name) })
	if near := nearest(name, known); len(near) > 0 {
		f.Hint = "did you mean --" + strings.Join(near, " or --") + "?"
	}
	return f
}

// explain turns any error into a Failure with its exit code.
func explain(ctx context.Context, err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) || errors.Is(cause, errTerminated) {
		return &Failure{Code: "INTERRUPTED", Message: cause.Error(), exit: exitInterrupted, cause: err}
	}
	f = &Failure{Code: "FAILED", Message: err.Error(), exit: exitFailure, cause: err}
	var partial *admin.PartialError
	switch {
	case errors.As(err, &partial):
		f.named("PARTIAL")
	case errors.Is(err, admin.ErrNoBroker):
		f.named("NO_BROKER")
	case errors.Is(err, admin.ErrBrokerNotFound):
		f.named("BROKER_NOT_FOUND")
	case errors.Is(err, message.ErrIllegalName):
		f.Code, f.exit = "ILLEGAL_NAME", exitUsage
		f.Message = strings.ReplaceAll(f.Message, message.ErrIllegalName.Error()+": ", "")
	case errors.Is(err, message.ErrBodyTooLarge), errors.Is(err, message.ErrPropertiesTooLarge), errors.Is(err, message.ErrIllegalMessage):
		f.named(protocol.IllegalMessage.String())
	case errors.Is(err, store.ErrLocked):
		f.named("DATA_IN_USE")
	case errors.Is(err, consumer.ErrOffsetsInUse):
		f.named("OFFSETS_IN_USE")
	case errors.Is(err, consumer.ErrOffsetsDamaged):
		f.named("OFFSETS_DAMAGED")
	case errors.Is(err, store.ErrNewerVersion):
		f.named("DATA_TOO_NEW")
	case errors.Is(err, store.ErrDamaged):
		f.named(protocol.Damaged.String())
	case errors.Is(err, fabric.ErrAddressInUse):
		f.named("ADDRESS_IN_USE")
	default:
		f.explainCode(err)
	}
	f.Message = strings.ReplaceAll(f.Message, f.Code+": ", "") // it is said in front
	return f
}

// named takes exit code and hint from the list of errors.
func (f *Failure) named(code string) {
	f.Code = code
	if e, ok := lookupError(code); ok {
		f.exit, f.Hint = e.ExitCode, e.Remedy
	}
}

// explainCode takes code, text, exit code and hint of what a server or the
// connection refused.
func (f *Failure) explainCode(err error) {
	code := protocol.CodeOf(err)
	var remote *protocol.Error
	var sentinel protocol.ErrorCode
	switch {
	case errors.As(err, &remote), errors.As(err, &sentinel):
		f.Code = code.String()
	case errors.Is(err, context.DeadlineExceeded):
		f.Code, f.exit = "TIMED_OUT", exitUnavailable
		return
	default:
		return
	}
	if remote != nil && remote.Remark != "" {
		f.Message = remote.Remark
	}
	var op *admin.Error
	if errors.As(err, &op) && code == protocol.TopicNotFound && op.Topic != "" {
		f.Message = unknownTopicText(op.Topic)
	}
	f.named(f.Code)
}

func unknownTopicText(topic string) string { return fmt.Sprintf("topic %q is not known", topic) }

func unknownGroupText(group string) string { return fmt.Sprintf("group %q is not known", group) }

// notFound is the failure for a name that nobody knows, with the names that are
// near it.
func notFound(code protocol.ErrorCode, text, name string, known []string, next string) *Failure {
	f := &Failure{Code: code.String(), Message: text, Hint: next, exit: exitNotFound, cause: code}
	if near := nearest(name, known); len(near) > 0 {
		f.Hint = "did you mean " + orList(near) + "?"
	}
	return f
}
