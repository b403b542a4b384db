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
import contextlib
import json
import os
import re
import secrets
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))
import postgres  # noqa: E402  (what tests and benches share)
import programs  # noqa: E402

CONNECTIONS = 64
WARM_UP_S = 1
START_DEADLINE_S = 30
LATENCY_DEADLINE_S = 30

# What the server writes for the promises of the load generator, a row at a time.
TABLE = "CREATE TABLE inserted (LIKE promises INCLUDING ALL)"
INSERT = """
\\set n :n + 1
INSERT INTO inserted (id, rev, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param)
VALUES (:run::text || '-' || :client_id::text || '-' || :n::text, :n, 'pending', 4102444800000, 1767225600000, NULL, false,
    NULL, '{}', '{}', '{"data":"e30="}');
"""


class Failed(Exception):
    """Something could not be measured."""


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

    @contextlib.contextmanager
    def node(self, name):
        """A server; its URL."""
        log = self.directory / f"{name}.log"
        command = [self.server, "serve", "--server-bind", "127.0.0.1", "--server-port", "0"]
        command += ["--observability-metrics-port", "0"]
        command += ["--storage-type", "postgres", "--storage-postgres-url", self.url]
        command += shlex.split(os.environ.get("RESONATE_SERVER_ARGS", ""))
        with open(log, "wb") as output:
            process = subprocess.Popen(command, cwd=self.directory, stdout=output, stderr=output)
        try:
            yield f"http://127.0.0.1:{listening_port(process, log)}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(START_DEADLINE_S)

    def load(self, *arguments, deadline_s=60):
        """The figures of a workload."""
        command = [str(word) for word in [self.load_program, *arguments, "--json"]]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
        except subprocess.TimeoutExpired:
            raise Failed(f"`{shlex.join(command)}` took longer than {deadline_s} s") from None
        if answer.returncode != 0:
            raise Failed(f"`{shlex.join(command)}` failed: {answer.stderr.strip()}")
        return json.loads(answer.stdout.splitlines()[-1])

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
            raise Failed(f"pgbench printed no rate:\n{printed}")
        # client, transaction, microseconds, …
        return float(rate.group(1)), statistics.median(int(line.split()[2]) for line in lines) / 1000

    def creates(self, urls, seconds):
        """Promises per second and median latency (ms) through servers."""
        nodes = [word for url in urls for word in ("--url", url)]
        limits = ["--connections", CONNECTIONS, "--count", 10_000_000, "--duration-ms", seconds * 1000]
        figures = self.load(*nodes, "create", *limits)
        return figures["per_second"], figures["p50_ms"]


def listening_port(process, log):
    until = time.monotonic() + START_DEADLINE_S
    while process.poll() is None and time.monotonic() < until:
        found = re.search(r"listening.*127\.0\.0\.1:(\d+)", log.read_text("utf-8", "replace"))
        if found:
            return int(found.group(1))
        time.sleep(0.05)
    raise Failed(f"the server does not start:\n{log.read_text('utf-8', 'replace')}")


def built():
    """The server and the load generator of this clone, but for those that the environment names."""
    found = {"resonate": os.environ.get("RESONATE_BIN"), "load": os.environ.get("LOAD_BIN")}
    if not all(found.values()):
        command = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "resonate", "--bench", "load"]
        answer = subprocess.run(
            [*command, "--message-format", "json"], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
        )
        for message in map(json.loads, answer.stdout.splitlines()):
            name = message.get("target", {}).get("name")
            if message.get("executable") and found.get(name, True) is None:
                found[name] = message["executable"]
    return [str(Path(found[name]).resolve()) for name in ("resonate", "load")]


def database(maintenance):
    """The URL of a new database."""
    name = f"bench_{secrets.token_hex(4)}"
    postgres.sql(maintenance, f"CREATE DATABASE {name}")
    return postgres.database_url(maintenance, name), name


def measure(bench, rounds, seconds):
    with bench.node("one") as one, bench.node("two") as two:
        postgres.sql(bench.url, TABLE)
        ways = {
            "pgbench, single-row inserts": bench.inserts,
            "promise.create, one server": lambda s: bench.creates([one], s),
            "promise.create, two servers": lambda s: bench.creates([one, two], s),
        }
        inserts, through_one, through_two = compare(ways, rounds, seconds).values()
        print(f"one server / pgbench      {ratio(through_one, inserts):.2f}")
        print(f"two servers / one server  {ratio(through_two, through_one):.2f}")
        for name, stream in (("same server", one), ("other server", two)):
            limits = ["--count", 300]
            figures = bench.load("--url", one, "--poll-url", stream, "execute", *limits, deadline_s=LATENCY_DEADLINE_S)
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


def ratio(rates, others):
    """The median of the rounds' ratios: a neighbour who is busy for a while slows down both."""
    return statistics.median(rate / other for rate, other in zip(rates, others))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    options = parser.parse_args()
    maintenance = os.environ.get("RESONATE_TEST_POSTGRES")
    if not maintenance:
        raise Failed("RESONATE_TEST_POSTGRES names no PostgreSQL server")
    server, load = built()
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
    except (Failed, postgres.Failed, programs.Missing) as error:
        sys.exit(f"benches/postgres.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
