# Everything a person or a machine does with this tree. `make` alone lists it.
#
# Whatever needs the daemon is built with --release in one target folder ($CARGO_TARGET_DIR is respected): gRPC's C core
# takes many minutes to build, and so it is built once. `make quick` needs none of that.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

PILLION_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pillion
# Real Prometheus releases for the demo and the end-to-end tests: one folder per release.
PILLION_PROMETHEUS ?= $(PILLION_CACHE)/prometheus
export PILLION_CACHE PILLION_PROMETHEUS

CARGO_FLAGS := --release --locked
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Cargo's own place has whichever was built last, this or the one without LTO that tests use.
SHIPPED := $(abspath $(TARGET))/shipped/pillion

.PHONY: help setup prometheus rgw azurite fake-gcs swift clouds chromium build demo clean-demo quick model test e2e budgets bench check fmt clippy doc audit fuzz dist

help: ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what a bare Debian 12 lacks for building; says first what
	@scripts/setup.sh

prometheus: ## Unpack real Prometheus releases (2.42, 2.53, 3.5) into the cache folder
	@scripts/prometheus.sh "$(PILLION_PROMETHEUS)" bookworm trixie sid || \
	  { echo "make: going on with the Prometheus releases that are there" >&2; \
	    compgen -G "$(PILLION_PROMETHEUS)/*/prometheus" > /dev/null || \
	      { echo "make: there is none, and the end-to-end tests need at least one" >&2; exit 1; }; }

rgw: ## Install Ceph's S3 server from Debian, for the tests; says first what
	@[ "$$PILLION_NO_RGW" = 1 ] || scripts/rgw.sh install || \
	  { echo "make: PILLION_NO_RGW=1 leaves out what needs this S3 server" >&2; exit 1; }

azurite: ## Install Azure's emulator from npm into the cache folder, for the tests; says first what it will do
	@scripts/azurite.sh install

fake-gcs: ## Build an emulator of Google Cloud Storage with Go into the cache folder, for the tests; says first what it will do
	@scripts/fake-gcs.sh install

swift: ## Unpack OpenStack Swift and Keystone from Debian into the cache folder, for the tests; says first what it will do
	@scripts/swift.sh install

chromium: ## Install a headless browser from Debian, for the test of the status page; says first what it will do
	@scripts/chromium.sh install

clouds: azurite fake-gcs swift ## Install the stores of all clouds that can be had, for the tests; each says first what it will do

# LTO only where it is worth its minute: it makes a Series call a sixth cheaper and the binary a ninth smaller.
build: setup ## Build the binary that is shipped, with LTO
	$(if $(RUSTFLAGS),RUSTFLAGS="$(RUSTFLAGS) -Cembed-bitcode=yes") \
	  cargo rustc $(CARGO_FLAGS) --bin pillion -- -Clto=fat -Ccodegen-units=1
	install -D -m 755 "$(TARGET)/release/pillion" "$(SHIPPED)"

demo: ## A real Prometheus with a day of data, Pillion beside it; ONESHOT=1 ends by itself
	@scripts/demo.sh

clean-demo: ## Remove what the demo wrote
	rm -rf .demo

quick: ## The tests of everything below the daemon: no C++ compiler, no other server, about a minute and a half from nothing
	@command -v openssl > /dev/null || { echo "make: openssl is missing; the tests of TLS need it" >&2; exit 1; }
	cargo test --locked --workspace --exclude pillion

model: ## The shipper against a simulated Prometheus, disk and bucket with faults: PILLION_HISTORIES (10000) of PILLION_SEED (the time)
	PILLION_SEED=$${PILLION_SEED:-$$(date +%s)} PILLION_HISTORIES=$${PILLION_HISTORIES:-10000} \
	  cargo test --locked -p pillion-ship --test it model:: -- --nocapture

# Most tests wait for servers most of their time, so more of them run at once than there are cores.
test: setup prometheus rgw ## All tests, the end-to-end ones on every Prometheus release that is there
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(($$(nproc) * 4))} cargo test $(CARGO_FLAGS) --workspace --no-fail-fast

e2e: setup prometheus rgw ## The end-to-end tests only
	cargo test $(CARGO_FLAGS) --test it e2e

budgets: build ## What the shipped binary costs, as numbers, against their bounds
	PILLION_BINARY="$(SHIPPED)" cargo test $(CARGO_FLAGS) --test budgets --test attacks -- --nocapture

bench: build prometheus rgw ## What StoreAPI calls and a shipped block cost, beside yardsticks; BENCH_SCALE=0.05 for a quick look
	BENCH_JSON="$(abspath $(TARGET))/bench.json" PILLION_BINARY="$(SHIPPED)" cargo bench --locked --bench series
	BENCH_JSON="$(abspath $(TARGET))/bench-ship.json" PILLION_BINARY="$(SHIPPED)" cargo bench --locked --bench ship

check: fmt clippy doc test ## What CI runs first: format, lints, docs, tests, licences and banned crates (offline)

fmt:
	cargo fmt --all --check

clippy: setup
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

doc: setup
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --workspace --no-deps

audit: ## Known vulnerabilities in dependencies (cargo-deny; needs the network)
	@cargo deny --version > /dev/null 2>&1 || \
	  { echo "make: cargo-deny is missing; install it with: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --locked check advisories

# libFuzzer on the stable compiler: the flags put in the coverage counters that cargo-fuzz would ask a nightly one for.
# There is no address sanitizer, which needs nightly; the code under test has no unsafe blocks, and its overflow checks
# and debug assertions are on. The target is named so that build scripts are built without the counters.
FUZZ_TARGETS ?= frames transcode sampled plain xor guard http_head s3_xml gcs_json s3_head ini yaml meta_json ledger_json progress_json \
  selector certificate re2 render trace_headers
FUZZ_SECONDS ?= 600
FUZZ_DIR := $(abspath $(TARGET))/fuzz
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
FUZZ_FLAGS := --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
  -Cllvm-args=-sanitizer-coverage-trace-compares

fuzz: setup ## Fuzz what reads bytes from outside, FUZZ_SECONDS (600) each, as many at once as there are cores
	cd fuzz && RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --release --locked --target $(FUZZ_HOST) --target-dir "$(FUZZ_DIR)"
	@printf '%s\n' $(FUZZ_TARGETS) | FUZZ_DIR="$(FUZZ_DIR)" FUZZ_SECONDS=$(FUZZ_SECONDS) \
	  FUZZ_BIN="$(FUZZ_DIR)/$(FUZZ_HOST)/release" xargs -P "$$(nproc)" -n 1 scripts/fuzz.sh

dist: build ## The stripped binary in dist/
	mkdir -p dist
	install -m 755 "$(SHIPPED)" dist/pillion
	@ls -l dist/pillion
