.DEFAULT_GOAL := help
SEEDS ?= 0..10000
.PHONY: help run test check model sim scopes linear mutants coverage crash power retention deliveries chaos database-restarts postgres cluster sdk-long soak fuzz deny docs image-root bench bench-parts bench-postgres hostile

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
	RESONATE_SIM_SEEDS=$(SEEDS) cargo test --profile proof --locked --test main sim::no_seed -- --nocapture

scopes: ## All sequences of four operations over two promises
	RESONATE_SCOPES_DEPTH=4 cargo test --profile proof --locked --test main scopes:: -- --nocapture

linear: ## Five hundred histories of concurrent clients, on SQLite and on three PostgreSQL nodes
	RESONATE_LINEAR_HISTORIES=500 python3 tests/postgres.py run -- \
		cargo test --profile proof --locked --test main linear:: -- --nocapture --test-threads 1

mutants: ## Deliberate bugs, one after the other, and which test finds each
	python3 tests/mutants.py
	python3 tests/postgres.py run -- python3 tests/mutants.py --linear

coverage: ## Which lines of machine, engine and store the tests run, per file
	python3 tests/postgres.py run -- python3 tests/coverage.py --lines

crash: ## Fifty rounds of kill -9 under load
	RESONATE_CRASH_ROUNDS=50 cargo test --locked --test main crash:: -- --nocapture

power: ## A hundred power cuts under load, with what was not synced lost, torn or kept
	RESONATE_POWER_ROUNDS=100 cargo test --locked --test main power:: -- --nocapture

retention: ## Twenty databases that retention empties, through kill -9 after kill -9
	RESONATE_RETENTION_ROUNDS=20 cargo test --locked --test main storage::retention::kill_9 -- --nocapture

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

soak: ## Half an hour of mixed traffic of all SDKs, with restarts: does anything grow that should not?
	cargo build --release --locked
	RESONATE_BIN=target/release/resonate python3 tests/sdk/soak.py

sdk-long: ## The SDKs, with the scenarios that take minutes
	cargo build --locked
	python3 tests/sdk/run.py --long

fuzz: ## Ten minutes of libFuzzer for every target (TIME=seconds), two at once
	python3 tests/fuzz.py --seconds $(or $(TIME),600)

deny: ## Advisories and licences of all dependencies; installs cargo-deny
	test -x target/tools/bin/cargo-deny || cargo install cargo-deny --locked --version 0.20.2 --root target/tools
	target/tools/bin/cargo-deny check

docs: ## Write docs/cli.md and docs/configuration.md from what the program and resonate.toml say
	RESONATE_REWRITE_DOCS=1 cargo test --locked --test main -- cli::docs:: docs::configuration::

image-root: ## Carry out the Dockerfile in bare Debian roots, run the image, list it (as root; ten minutes)
	python3 tests/deploy/check.py
	tests/sdk/.env/deploy/venv/bin/python tests/deploy/image.py

bench: ## One table: rates and latencies of a release build on SQLite, beside what the machine gives
	python3 benches/run.py

bench-parts: ## The machine and each store alone
	python3 tests/postgres.py run -- cargo bench --quiet --locked --bench parts

bench-postgres: ## The same on PostgreSQL, beside pgbench: one server and two
	python3 tests/postgres.py run -- python3 benches/postgres.py

hostile: ## Attack a release build; what honest clients notice of it
	cargo build --release --locked
	cargo bench --quiet --locked --bench hostile
