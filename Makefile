# Gatehouse. `make run` and `make test` need Go alone; the other targets install what they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run build test e2e e2e-core e2e-full lint bench fuzz images clean

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS = -s -w -X main.version=$(VERSION)
# The race detector needs a C compiler; without one the tests run without it, and say so.
CC_FOUND := $(shell command -v $${CC:-gcc} 2>/dev/null || command -v clang 2>/dev/null || command -v cc 2>/dev/null)
RACE := $(if $(CC_FOUND),-race,)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: build ## build, then start everything on 127.0.0.1:8080 with demo users; needs no configuration
	@exec bin/gatehouse serve --dev

build: ## bin/gatehouse
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/gatehouse ./cmd/gatehouse

test: ## all tests that need no outside server
	$(GO) vet ./...
	$(GO) test $(RACE) -timeout 20m ./...
	@echo "ok: all tests passed; race detector: $(if $(RACE),on,off (no C compiler found))"

e2e: e2e-core ## the part that CI runs

e2e-core: build ## real redis (single, cluster, sentinel), slapd, Samba AD, Chromium, certified clients; installs them
	test/e2e/install.sh core
	$(GO) test -tags e2e -count=1 -timeout 24m ./test/e2e/...

e2e-full: build ## everything, long runs included
	test/e2e/install.sh full
	$(GO) test -tags "e2e full" -count=1 -timeout 120m ./test/e2e/...

lint: ## gofmt, go vet, staticcheck, govulncheck where its database is reachable
	test/lint.sh "$(STATICCHECK)" "$(GOVULNCHECK)"

bench: build ## figures of docs/performance.md
	test/bench/run.sh

fuzz: ## every fuzz target for FUZZTIME (30s) each
	test/fuzz.sh

images: build ## the pictures of docs/images, with Chromium
	test/images.sh

clean: ## what make built
	rm -rf bin
