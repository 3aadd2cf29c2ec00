# What a newcomer needs: `make demo` and `make test`. Cargo builds, the embedded servers are fetched on first use.
CARGO ?= cargo

.PHONY: demo up test bench check fmt clean

demo: ## everything at work, in a minute
	$(CARGO) run --quiet --package chasqui-dev -- demo

up: ## the same servers and stages, until Ctrl-C
	$(CARGO) run --quiet --package chasqui -- up

test: ## the whole suite, on a real nats-server and a real ClickHouse
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --no-fail-fast

bench: ## throughput and latency beside a bare relay; builds with optimisation
	$(CARGO) run --release --quiet --package chasqui-dev -- bench

check: ## what CI checks before the tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --quiet

fmt:
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
	rm -rf .chasqui
