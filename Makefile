# The habits of this repository. Scripts do the work; see CONTRIBUTING.md.

export GOFLAGS := -buildvcs=false $(GOFLAGS)

VERSION := $(shell git describe --tags --dirty 2>/dev/null)
COMMIT  := $(shell git describe --always --abbrev=40 --dirty=+ --exclude='*' 2>/dev/null)

.PHONY: build test lint format fuzz bench demo vuln man check clean

## build: the program, bin/smpq
build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$(VERSION) -X main.commit=$(COMMIT)" -o bin/ ./cmd/smpq

## test: all tests, looking for data races, on a private PostgreSQL
test:
	scripts/prerequisites.sh postgresql pgbouncer gcc openssl
	go test -race ./...

## lint: the linters and the formatters
lint: .tools/installed
	.tools/golangci-lint run

## format: format the code as lint wants it
format: .tools/installed
	.tools/golangci-lint fmt

## fuzz: every fuzz target for FUZZTIME (10s) each
fuzz:
	scripts/prerequisites.sh postgresql
	scripts/fuzz.sh

## bench: the figures of docs/performance.md
bench: build
	scripts/prerequisites.sh postgresql
	bench/run.sh

## demo: smpq at work on the data of a real router
demo: build
	scripts/prerequisites.sh postgresql
	scripts/demo.sh

## vuln: known vulnerabilities, where their database can be reached
vuln: .tools/installed
	.tools/govulncheck ./...

## man: the man pages, man/
man: build
	bin/smpq docs man man

## check: what must pass before a change is merged
check: export FUZZTIME ?= 5s
check: build lint test fuzz

clean:
	rm -rf bin man .tools .demo

.tools/installed: .ci/tools/go.mod .ci/tools/go.sum
	cd .ci/tools && GOBIN=$(CURDIR)/.tools go install tool
	touch $@
