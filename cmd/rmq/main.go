// Command rmq is the message queue: its servers, its clients, its tools.
package main

import (
	"os"

	"github.com/rmqio/rmq/cmd/rmq/command"
)

func main() { os.Exit(command.Main()) }
