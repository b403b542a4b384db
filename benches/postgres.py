#!/usr/bin/env python3
"""Measures servers on PostgreSQL beside PostgreSQL itself, on one cluster and in one run.

    python3 tests/postgres.py run -- python3 benches/postgres.py        on a cluster of its own
    RESONATE_TEST_POSTGRES=URL python3 benches/postgres.py              on another, as superuser

Round by round, so that all suffer the same neighbours: pgbench inserting single rows into a table with the columns and
indexes of `promises`, `promise.create` through one server, and through two. Then how long it takes from a create to
its `execute`, with the worker's stream on the same server and on the other one. Takes about a minute.

$RESONATE_BIN and $LOAD_BIN name other programs than those of this clone; $RESONATE_SERVER_ARGS is added to the servers'
arguments.
"""

import argparse
import os
import re
import secrets
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import harness

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))
import postgres  # noqa: E402  (what tests and benches share)
import programs  # noqa: E402

CONNECTIONS = 64
WARM_UP_S = 1
WARM_UP_MS = 300
LATENCY_DEADLINE_S = 30

# What the server writes for the promises of the load generator, a row at a time.
TABLE = "CREATE TABLE inserted (LIKE promises INCLUDING ALL)"
INSERT = """
\\set n :n + 1
INSERT INTO inserted (id, rev, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param)
VALUES (:run::text || '-' || :client_id::text || '-' || :n::text, :n, 'pending', 4102444800000, 1767225600000, NULL, false,
    NULL, '{}', '{}', '{"data":"e30="}');
"""


class Bench:
    """The programs and the database of a run."""

    def __init__(self, server, load, url, directory):
        self.server = server
        self.load_program = load
        self.url = url
        self.directory = directory
        self.script = directory / "insert.sql"
        self.script.write_text(INSERT)
        self.runs = 0

    def node(self, name):
        """A server."""
        storage = ["--storage-type", "postgres", "--storage-postgres-url", self.url]
        return harness.server(self.server, storage, self.directory / f"{name}.log")

    def inserts(self, seconds):
        """Rows per second and median latency (ms) of pgbench."""
        self.runs += 1
        with tempfile.TemporaryDirectory(dir=self.directory) as logs:
            command = [programs.postgres() / "pgbench", "--no-vacuum", "--protocol", "prepared"]
            command += ["--client", CONNECTIONS, "--jobs", 2, "--time", seconds, "--log"]
            command += ["--define", "n=0", "--define", f"run=pgbench{self.runs}", "--file", self.script, self.url]
            printed = postgres.run(command, cwd=logs)
            lines = [line for log in Path(logs).iterdir() for line in log.read_text().splitlines()]
        rate = re.search(r"^tps = ([0-9.]+)", printed, re.MULTILINE)
        if not rate or not lines:
            raise harness.Failed(f"pgbench printed no rate:\n{printed}")
        # client, transaction, microseconds, …
        return float(rate.group(1)), statistics.median(int(line.split()[2]) for line in lines) / 1000

    def creates(self, urls, seconds):
        """Promises per second and median latency (ms) through servers."""
        limits = ["--connections", CONNECTIONS, "--duration-ms", seconds * 1000, "--warm-up-ms", WARM_UP_MS]
        figures = harness.load(self.load_program, urls, "create", *limits)
        return figures["per_second"], figures["p50_ms"]


def database(maintenance):
    """The URL of a new database."""
    name = f"bench_{secrets.token_hex(4)}"
    postgres.sql(maintenance, f"CREATE DATABASE {name}")
    return postgres.database_url(maintenance, name), name


def measure(bench, rounds, seconds):
    with bench.node("one") as first, bench.node("two") as second:
        one, two = first.url, second.url
        postgres.sql(bench.url, TABLE)
        ways = {
            "pgbench, single-row inserts": bench.inserts,
            "promise.create, one server": lambda s: bench.creates([one], s),
            "promise.create, two servers": lambda s: bench.creates([one, two], s),
        }
        inserts, through_one, through_two = compare(ways, rounds, seconds).values()
        print(f"one server / pgbench      {harness.ratio(through_one, inserts):.2f}")
        print(f"two servers / one server  {harness.ratio(through_two, through_one):.2f}")
        for name, stream in (("same server", one), ("other server", two)):
            limits = ["--poll-url", stream, "--count", 300]
            figures = harness.load(bench.load_program, [one], "execute", *limits, deadline_s=LATENCY_DEADLINE_S)
            print(f"create -> execute, {name}: p50 {figures['p50_ms']:.2f} ms, p99 {figures['p99_ms']:.2f} ms", flush=True)


def compare(ways, rounds, seconds):
    """Measures one after the other, several times. Answers the rates of each."""
    rates = {way: [] for way in ways}
    for way in ways.values():
        way(WARM_UP_S)
    print(f"{CONNECTIONS} connections; rate and median latency in each of {rounds} rounds of {seconds} s")
    for round_number in range(rounds):
        for name, way in ways.items():
            rate, p50_ms = way(seconds)
            rates[name].append(rate)
            print(f"{round_number + 1}  {name:30}{rate:8.0f}/s  p50 {p50_ms:.2f} ms", flush=True)
    for name, all_rates in rates.items():
        print(f"median  {name:24}{statistics.median(all_rates):8.0f}/s")
    return rates


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    options = parser.parse_args()
    maintenance = os.environ.get("RESONATE_TEST_POSTGRES")
    if not maintenance:
        raise harness.Failed("RESONATE_TEST_POSTGRES names no PostgreSQL server")
    server, load = harness.built()
    url, name = database(maintenance)
    try:
        with tempfile.TemporaryDirectory(prefix="resonate-bench-") as directory:
            measure(Bench(server, load, url, Path(directory)), options.rounds, options.seconds)
    finally:
        postgres.sql(maintenance, f"DROP DATABASE {name} WITH (FORCE)")


if __name__ == "__main__":
    # Either way everything that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except (harness.Failed, postgres.Failed, programs.Missing) as error:
        sys.exit(f"benches/postgres.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
