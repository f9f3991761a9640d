package command

import (
	"strings"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

// Mistakes of one sort exit alike, whether the command, the SDK or a broker finds
// them, and the text says their code once.
func TestFailure_WhoeverFindsIt(t *testing.T) {
	c := newCLI(t)
	c.ok("topic create n --type normal --queues 2")
	for _, x := range []struct {
		exit       int
		code, line string
	}{
		{exitUsage, "MESSAGE_ILLEGAL", "pub n x --priority 99"},                                           // the command
		{exitUsage, "MESSAGE_ILLEGAL", "pub n x --delay 9999h"},                                           // the command
		{exitUsage, "MESSAGE_ILLEGAL", "pub n x --prop KEYS=1"},                                           // the SDK
		{exitUsage, "MESSAGE_ILLEGAL", "pub n x --dedup-key k --delay 1s"},                                // the SDK
		{exitUsage, "MESSAGE_ILLEGAL", "pub n x --transaction commit --delay 1s"},                         // the SDK
		{exitUsage, "MESSAGE_ILLEGAL", "pub n x --message-group g"},                                       // the broker
		{exitUsage, "ILLEGAL_NAME", "pub a.b x"},                                                          // the command
		{exitUsage, "ILLEGAL_NAME", "sub n --group a.b --count 1"},                                        // the SDK
		{exitUsage, "USAGE", "topic create q --queues 0"},                                                 // the command
		{exitUsage, "INVALID_ARGUMENT", "topic create q --queues 99999"},                                  // the broker
		{exitUsage, "USAGE", "message recall xyz"},                                                        // the command
		{exitNotFound, "QUEUE_NOT_FOUND", "pub n x --queue 2"},                                            // the SDK
		{exitNotFound, "QUEUE_NOT_FOUND", "pub n x --queue broker-a/2"},                                   // the SDK
		{exitNotFound, "QUEUE_NOT_FOUND", "topic peek n --queue 2"},                                       // the SDK
		{exitNotFound, "QUEUE_NOT_FOUND", "message get --topic n --broker broker-a --queue 2 --offset 0"}, // the broker
	} {
		r := c.run(x.line)
		if r.exit != x.exit || !strings.HasPrefix(r.stderr, "error["+x.code+"]: ") {
			t.Errorf("rmq %s: got %+v, want %d with %s", x.line, r, x.exit, x.code)
		}
		text, _, _ := strings.Cut(r.stderr, "\n")
		for _, code := range []string{x.code, protocol.InvalidArgument.String()} {
			if strings.Contains(text, code+": ") {
				t.Errorf("rmq %s: %s", x.line, text)
			}
		}
	}
}
