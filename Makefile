.DEFAULT_GOAL := help
SEEDS ?= 0..10000
.PHONY: help run test check model sim scopes linear mutants crash deliveries chaos database-restarts postgres cluster sdk-long bench bench-postgres

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' Makefile

run: ## Start the server
	cargo run --release -- serve

test: ## Everything: check, unit and integration tests, the SDKs, the quickstart
	python3 tests/run.py

check: ## Formatting, lints and documentation only
	python3 tests/run.py --check

model: ## A million steps of random histories through the machine
	RESONATE_MODEL_STEPS=1000000 cargo test --locked --test main model:: -- --nocapture

sim: ## Simulations by seed: make sim SEEDS=7, or SEEDS=0..10000
	RESONATE_SIM_SEEDS=$(SEEDS) cargo test --release --locked --test main sim::no_seed -- --nocapture

scopes: ## All sequences of four operations over two promises
	RESONATE_SCOPES_DEPTH=4 cargo test --release --locked --test main scopes:: -- --nocapture

linear: ## Five hundred histories of concurrent clients, on SQLite and on three PostgreSQL nodes
	RESONATE_LINEAR_HISTORIES=500 python3 tests/postgres.py run -- \
		cargo test --release --locked --test main linear:: -- --nocapture --test-threads 1

mutants: ## Deliberate bugs, one after the other, and which test finds each
	python3 tests/mutants.py
	python3 tests/postgres.py run -- python3 tests/mutants.py --linear

crash: ## Fifty rounds of kill -9 under load
	RESONATE_CRASH_ROUNDS=50 cargo test --locked --test main crash:: -- --nocapture

deliveries: ## Hundreds of kill -9 while thousands of listeners wait
	RESONATE_DELIVERIES_WAVES=20 cargo test --locked --test main deliveries:: -- --nocapture

chaos: ## Three nodes killed at random for ten minutes
	RESONATE_CHAOS_SECONDS=600 python3 tests/postgres.py run -- \
		cargo test --locked --test main cluster::chaos:: -- --nocapture

database-restarts: ## Twenty crashes of PostgreSQL under load
	RESONATE_DATABASE_RESTARTS=20 python3 tests/postgres.py run -- \
		cargo test --locked --test main cluster::database:: -- --nocapture

postgres: ## The tests of the wire and all SDKs, on PostgreSQL
cluster: ## The same, on three nodes behind HAProxy

postgres cluster:
	cargo build --locked
	RESONATE_TEST_STORE=$@ RESONATE_TEST_HAPROXY=$$(python3 tests/programs.py haproxy) python3 tests/postgres.py run -- \
		cargo test --locked --no-fail-fast --test main -- protocol:: surface:: storage::
	python3 tests/postgres.py run -- python3 tests/sdk/run.py --store $@

sdk-long: ## The SDKs, with the scenarios that take minutes
	cargo build --locked
	python3 tests/sdk/run.py --long

bench: ## Load a release build; one line per workload
	benches/run.sh

bench-postgres: ## The same on PostgreSQL, beside pgbench: one server and two
	python3 tests/postgres.py run -- python3 benches/postgres.py
