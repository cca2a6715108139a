# `make help` lists what there is. The two that matter: `make up` and `make test`.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Arguments of `hashpool up`, each from a variable of the same name. The node's URL may hold a password, so it goes by the
# environment, as it is: no other user sees it, and neither make nor the shell reads a `$` in it.
ifneq ($(value NODE),)
export HASHPOOL_UP_NODE := $(value NODE)
endif
UP := $(if $(DATA),--data '$(DATA)') $(if $(THREADS),--threads '$(THREADS)') \
	$(if $(HASHRATE),--hashrate '$(HASHRATE)')

.DEFAULT_GOAL := help
.PHONY: help up test interop fuzz lint fmt setup bench-pool bench-translator bench-share bench-vardiff bench-stats bench-relay

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  make up takes NODE=http://user:pass@127.0.0.1:18443 for a real node instead of the embedded chain,'
	@echo '  DATA=folder, THREADS=n and HASHRATE=hashes_per_second, and ends with Ctrl-C.'

up: ## build, then run the whole stack in one process and mine
	@tools/setup build
	@$(CARGO) build --release --locked --package hashpool
	@exec '$(TARGET)/release/hashpool' up $(UP)

test: ## all tests, those that need a real node or PostgreSQL included
	@tools/setup build
	@tools/setup test
	@tools/test $(TESTS)

interop: ## SRI's pool and translator with ours; builds them where they are not installed
	@tools/setup build
	@tools/interop $(TESTS)

fuzz: ## each fuzz target for a minute, TIME=seconds; TARGETS=lines, session or frames
	@tools/setup build
	@tools/setup fuzz
	@TIME='$(or $(TIME),60)' tools/fuzz $(TARGETS)

lint: ## format, clippy without a warning, and the lock file
	@tools/setup lint
	$(CARGO) fmt --all --check
	$(CARGO) metadata --locked --format-version 1 >/dev/null
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## format all code
	@tools/setup lint
	$(CARGO) fmt --all

bench-pool: ## the pool under load, beside SRI's pool_sv2 where that is in PATH or SRI_POOL; ARGS=arguments
	@tools/setup build
	@$(CARGO) build --quiet --release --locked --package hashpool --package bench-pool
	@sri="$${SRI_POOL:-$$(command -v pool_sv2)}"; \
		exec '$(TARGET)/release/bench-pool' --hashpool '$(TARGET)/release/hashpool' $${sri:+--sri "$$sri"} $(ARGS)

bench-translator: ## the translator with its pool under load, beside SRI's where PATH or SRI_TRANSLATOR and SRI_POOL say; ARGS=arguments
	@tools/setup build
	@$(CARGO) build --quiet --release --locked --package hashpool --package bench-translator
	@translator="$${SRI_TRANSLATOR:-$$(command -v translator_sv2)}"; pool="$${SRI_POOL:-$$(command -v pool_sv2)}"; \
		exec '$(TARGET)/release/bench-translator' --hashpool '$(TARGET)/release/hashpool' \
		$${translator:+$${pool:+--sri-translator "$$translator" --sri-pool "$$pool"}} $(ARGS)

bench-share: ## what a share costs at least, beside channels_sv2
	@tools/setup build
	@$(CARGO) bench --quiet --locked --package bench-share

bench-vardiff: ## the difficulty controller beside SRI's, simulated; SEEDS=n, CASE=part of a case's name
	@tools/setup build
	@$(CARGO) run --quiet --release --locked --package bench-vardiff -- '$(or $(SEEDS),200)' '$(CASE)'

bench-stats: ## a stats service that is told of 10,000 workers every five seconds; ARGS=arguments
	@tools/setup build
	@$(CARGO) build --quiet --release --locked --package hashpool --package bench-stats
	@exec '$(TARGET)/release/bench-stats' --hashpool '$(TARGET)/release/hashpool' $(ARGS)

bench-relay: ## the relay under load, beside HAProxy and socat where they are installed; ARGS=arguments
	@tools/setup build
	@$(CARGO) build --quiet --release --locked --package hashpool --package bench-relay
	@haproxy="$$(PATH="$$PATH:/usr/sbin" command -v haproxy)"; socat="$$(command -v socat)"; \
		exec '$(TARGET)/release/bench-relay' --hashpool '$(TARGET)/release/hashpool' \
		$${haproxy:+--haproxy "$$haproxy"} $${socat:+--socat "$$socat"} $(ARGS)

setup: ## install what building, testing and linting need
	@tools/setup build
	@tools/setup test
	@tools/setup lint
