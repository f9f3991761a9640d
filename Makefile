# rmq needs Go, git and make; `make help` lists the targets.

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -X github.com/rmqio/rmq/cmd/rmq/command.version=$(VERSION)
GOFMT     = $(shell go env GOROOT)/bin/gofmt
# The race detector needs a C compiler; without one the tests run without it.
RACE      = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)
FUZZTIME ?= 20s

.PHONY: help build test check demo bench chaos fuzz clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/rmq
	go build -ldflags '$(LDFLAGS)' -o bin/rmq ./cmd/rmq

test: ## all tests, with the race detector where there is a C compiler
	go test $(RACE) -timeout 14m ./...

check: ## format, vet, staticcheck, directions of imports
	@unformatted=$$($(GOFMT) -l .); test -z "$$unformatted" || { echo "gofmt -w these:"; echo "$$unformatted"; exit 1; } >&2
	go vet ./...
	go tool staticcheck ./...
	go test -count=1 -run '^TestLayers' ./tests

demo: build ## 500,000 lines of Go through a server that is killed half way
	go run ./tests/demo -rmq bin/rmq

bench: build ## rmq against JetStream, bbolt and the disk: half an hour, BENCHFLAGS=... for less
	go run ./tests/bench -rmq bin/rmq -markdown bin/bench.md -json bin/bench.json $(BENCHFLAGS)

chaos: build ## kills, power cuts, failing and full disks, damage: for root, an hour, CHAOSFLAGS=... for less
	@command -v mkfs.ext4 >/dev/null || test "$$(id -u)" != 0 || { apt-get update && apt-get install -y e2fsprogs; }
	go build -o bin/chaos ./tests/chaos
	bin/chaos -rmq bin/rmq $(CHAOSFLAGS)

fuzz: ## each fuzz target for FUZZTIME (20s)
	@grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9_]*' . | sort | \
	while IFS=: read -r file func; do \
		echo "$${file%/*} $${func#func }"; \
		go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) "$${file%/*}" </dev/null || exit 1; \
	done

clean: ## removes bin
	rm -rf bin
