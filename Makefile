# What a newcomer needs: `make demo` and `make test`. Cargo builds; the embedded servers are fetched on first use.
CARGO ?= cargo
# How many tests of a program run at once. Those that need servers wait more than they compute: two on each core.
TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))

# Where fetched servers are kept: the tests look there too. `chasqui` by itself keeps them in the user's own cache.
export CHASQUI_EMBEDDED__CACHE_DIR ?= $(CURDIR)/.cache/chasqui

.PHONY: demo up test test-fast cases bench check notices fmt clean

demo: ## everything at work, in a minute
	$(CARGO) run --quiet --package chasqui-dev -- demo

up: ## the same servers and stages, until Ctrl-C
	$(CARGO) run --quiet --package chasqui -- up

test: ## the whole suite, on a real nats-server and a real ClickHouse
	$(CARGO) build --workspace --bins
	RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test --workspace --no-fail-fast

test-fast: ## the tests that need no server, which are all but those in modules called `servers`
	CHASQUI_TEST_FAST=1 $(CARGO) test --workspace --lib --bins --tests --quiet --no-fail-fast -- --skip servers::

cases: ## a table of what went wrong for others, and what comes of it here
	$(CARGO) build --package chasqui --bins
	$(CARGO) test --package chasqui-testing --test main -- --nocapture servers::cases

bench: ## throughput and latency beside a bare relay; builds with optimisation
	$(CARGO) run --release --quiet --package chasqui-dev -- bench

check: ## what CI checks before the tests: format, lints, documentation, licences
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) run --quiet --package chasqui-licences

notices: ## writes NOTICES again, after a change of Cargo.lock
	$(CARGO) run --quiet --package chasqui-licences -- --write

fmt:
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
	rm -rf .chasqui
