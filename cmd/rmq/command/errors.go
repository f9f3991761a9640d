package command

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/transport/protocol"
)

// errorEntry documents one error code. The fields are API.
type errorEntry struct {
	Code string `json:"code"`
	// Number is the code on the wire; 0 for errors of the command itself.
	Number   int    `json:"number"`
	ExitCode int    `json:"exitCode"`
	Meaning  string `json:"meaning"`
	Remedy   string `json:"remedy"`
}

// errorEntries are all codes that `rmq` prints: those of the wire first.
func errorEntries() []errorEntry {
	wire := func(c protocol.ErrorCode, exit int, meaning, remedy string) errorEntry {
		return errorEntry{Code: c.String(), Number: int(c), ExitCode: exit, Meaning: meaning, Remedy: remedy}
	}
	own := func(code string, exit int, meaning, remedy string) errorEntry {
		return errorEntry{Code: code, ExitCode: exit, Meaning: meaning, Remedy: remedy}
	}
	return []errorEntry{
		wire(protocol.SystemError, exitFailure, "the server failed in a way that the request did not cause", "look into the server's log"),
		wire(protocol.Busy, exitUnavailable, "too much is waiting at the server; nothing was done", "try again, or send more slowly"),
		wire(protocol.UnknownRequest, exitFailure, "the server does not know the request", "the server is older than this command: rmq version"),
		wire(protocol.IllegalMessage, exitUsage, "the message breaks a limit or a rule, or arrived damaged", "the text says which rule; rmq topic describe TOPIC shows the topic's type, bodies are at most 4 MiB, tag, keys and properties at most 32767 bytes"),
		wire(protocol.Unavailable, exitUnavailable, "the server shuts down or its store refuses writes; nothing was done", "rmq cluster health says why"),
		wire(protocol.NoPermission, exitDenied, "the topic or the group does not allow it", "rmq topic describe TOPIC shows the permissions; rmq topic alter TOPIC --perm rw changes them"),
		wire(protocol.TopicNotFound, exitNotFound, "no broker has the topic, and it was not created", "rmq topic list"),
		wire(protocol.Conflict, exitConflict, "it exists already, or is in use, or the change contradicts the state", "look at what is there with list or describe"),
		wire(protocol.QueueNotFound, exitNotFound, "the topic has no queue of this number on this broker", "rmq topic route TOPIC"),
		wire(protocol.GroupNotFound, exitNotFound, "no broker has the consumer group", "rmq group list"),
		wire(protocol.InvalidArgument, exitUsage, "an argument breaks a rule; the text says which", "correct the argument"),
		wire(protocol.Fenced, exitConflict, "another consumer of the group owns the queue now", "rmq group describe GROUP shows the owners"),
		wire(protocol.UnknownMember, exitFailure, "the broker has no session of this consumer", "try again; consumers open a new session by themselves"),
		wire(protocol.OffsetOutOfRange, exitFailure, "the offset is below the queue's first or above its end", "rmq topic stats TOPIC shows what is there"),
		wire(protocol.Damaged, exitFailure, "stored data does not pass its checksum", "restore the segment from a copy; the log of the broker names it"),
		wire(protocol.NotFound, exitNotFound, "no such message, transaction, quota or client, or the handle that names it is forged or too old", "rmq message delayed, rmq tx list, rmq quota list and rmq client list show what there is"),
		wire(protocol.SequenceLost, exitFailure, "the broker does not know any more whether it has this message of the producer", "look with rmq message get ID, and send it again when it is not there"),
		wire(protocol.FlowControl, exitUnavailable, "a quota is used up; nothing was done", "send more slowly; rmq quota list and rmq topic describe TOPIC show the quotas"),
		wire(protocol.Unreachable, exitUnavailable, "no server answers at the address", "start one with: rmq server, or name its address with --namesrv"),
		wire(protocol.UnknownOutcome, exitUnavailable, "no answer came in time; it may or may not have been done", "rmq cluster health; sending again with the same message id is safe"),
		wire(protocol.Closed, exitFailure, "the client was closed while the call was under way", "try again"),
		own("USAGE", exitUsage, "the command line is not understood", "rmq help COMMAND"),
		own("ILLEGAL_NAME", exitUsage, "a name of a topic, group, broker or client breaks the rules", "names have 1 to 127 characters of a-z A-Z 0-9 _ - % |"),
		own("BAD_INPUT", exitUsage, "a line of the input is not what --in says it is", "correct the line that is named; the lines before it were sent"),
		own("NO_BROKER", exitUnavailable, "the name server knows no broker", "wait for one: rmq cluster health --wait"),
		own("BROKER_NOT_FOUND", exitNotFound, "the name server does not know a broker of this name", "rmq cluster info"),
		own("MESSAGE_NOT_FOUND", exitNotFound, "no message has the id, or none is at the place", "rmq topic stats TOPIC shows what is there; old messages are deleted after a while"),
		own("ALREADY_DELIVERED", exitConflict, "the message was delivered before it could be recalled", "consumers have it"),
		own("REPLIER_FAILED", exitFailure, "whoever replies failed to make the reply", "see what the replier prints"),
		own("UNHEALTHY", exitUnavailable, "the cluster cannot send and receive", "rmq cluster health says why; --wait waits until it can"),
		own("TIMED_OUT", exitUnavailable, "the time of --timeout was not enough", "give more with --timeout"),
		own("PARTIAL", exitPartial, "a part was done and another part failed", "correct the cause and run the same command again"),
		own("NOT_CONFIRMED", exitFailure, "the name typed was another; nothing was deleted", "type the name, or use --yes"),
		own("DATA_IN_USE", exitConflict, "another process uses the data directory", "stop that process, or choose another directory with --data"),
		own("OFFSETS_IN_USE", exitConflict, "another consumer keeps its offsets in the same file", "stop it, or choose another name with --client-id"),
		own("OFFSETS_DAMAGED", exitFailure, "the file with a broadcasting consumer's offsets cannot be read", "put a copy of it back, or remove it to begin where --from says"),
		own("ADDRESS_IN_USE", exitConflict, "another process listens on the address", "stop that process, or choose another address; port 0 is any free one"),
		own("DATA_TOO_NEW", exitFailure, "a newer version of rmq wrote the data directory", "use that version"),
		own("INTERRUPTED", exitInterrupted, "a signal ended the command before it was done", ""),
		own("FAILED", exitFailure, "anything else; the text says what", ""),
	}
}

func lookupError(code string) (errorEntry, bool) {
	for _, e := range errorEntries() {
		if e.Code == code || (e.Number != 0 && number(e.Number) == code) {
			return e, true
		}
	}
	return errorEntry{}, false
}

func (a *app) errorsCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "All error codes with their exit codes",
		Args: takes(),
		RunE: func(*cobra.Command, []string) error { return printList(a, errorEntries(), errorTable()) },
	}
	lookup := &cobra.Command{
		Use: "lookup CODE", Short: "What an error code means and what to do, by name or number",
		Args:              takes("CODE"),
		ValidArgsFunction: cobra.FixedCompletions(errorCodes(), cobra.ShellCompDirectiveNoFileComp),
		RunE:              func(_ *cobra.Command, args []string) error { return a.lookupError(args[0]) },
	}
	return noun("errors", "Error codes: what they mean and what to do", list, lookup)
}

func errorTable() table[errorEntry] {
	return table[errorEntry]{
		name: func(e errorEntry) string { return e.Code },
		columns: []column[errorEntry]{
			{title: "CODE", cell: func(e errorEntry) string { return e.Code }},
			{title: "NUMBER", cell: func(e errorEntry) string { return number(e.Number) }},
			{title: "EXIT", cell: func(e errorEntry) string { return number(e.ExitCode) }},
			{title: "MEANING", cell: func(e errorEntry) string { return e.Meaning }},
			{title: "REMEDY", cell: func(e errorEntry) string { return e.Remedy }, wide: true},
		},
	}
}

func errorCodes() []string {
	var codes []string
	for _, e := range errorEntries() {
		codes = append(codes, e.Code)
	}
	return codes
}

func (a *app) lookupError(code string) error {
	name := strings.ToUpper(strings.TrimSpace(code))
	e, ok := lookupError(name)
	if !ok {
		codes := errorCodes()
		slices.Sort(codes)
		f := notFound(0, fmt.Sprintf("error code %q is not known", code), name, codes, "rmq errors list")
		f.Code = "ERROR_NOT_FOUND"
		return f
	}
	return printObject(a, e, e.Code, func(w io.Writer) error {
		return writeFields(w, "code", e.Code, "number", number(e.Number), "exit code", number(e.ExitCode),
			"meaning", e.Meaning, "remedy", e.Remedy)
	})
}
