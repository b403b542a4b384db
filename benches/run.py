#!/usr/bin/env python3
"""Measures a release build on SQLite, beside what this machine gives at most, and prints one table.

    python3 benches/run.py                          everything, five rounds: about six minutes
    python3 benches/run.py --rounds 3 --only create-64 get-64
    python3 benches/run.py --stored                 with 1M pending and 10M settled promises stored, and without: rates, start-up,
                                                    memory; fills the database for seven minutes first
    python3 benches/run.py --retention              creates at a fixed rate while 1M settled promises are deleted, and while none are

Every round measures everything once, so that all suffer the same neighbours; each on a fresh database, by a generator on the
same machine. Figures are medians of the rounds. `hello` is a server of the same HTTP library that does nothing, `echo` sends back
the requests of `create`, and the `least create` stores what they ask for and does nothing else; `fdatasync` is what one sync for each
request would allow. Ratios are medians of each round's.

$RESONATE_BIN and $LOAD_BIN name other programs than those of this clone; $RESONATE_SERVER_ARGS is added to the server's
arguments. The databases are in target/: durability is measured on the disk that this is.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import harness

# The database that holds much.
STORED = "stored.db"
SYNC_BYTES = 4096
SYNCS = 300


@dataclass(frozen=True)
class Row:
    """A workload, and what its rate is compared with."""

    name: str
    title: str
    workload: tuple
    beside: str | None = None
    # Of these only the latencies say something.
    is_rate: bool = True
    # Measures what the server is made of.
    is_floor: bool = False
    stores: bool = False
    rounds_max: int = 100


def closed(connections, *more):
    return ("--connections", str(connections), *more)


ROWS = [
    Row("hello-1", "hello, 1 connection", ("hello", *closed(1)), is_floor=True),
    Row("hello-64", "hello, 64", ("hello", *closed(64)), is_floor=True),
    Row("echo-64", "echo, 64", ("create", *closed(64)), "hello-64", is_floor=True),
    Row("least-1", "least create, 1", ("create", *closed(1)), "fdatasync", is_floor=True, stores=True),
    Row("least-64", "least create, 64", ("create", *closed(64)), "hello-64", is_floor=True, stores=True),
    Row("create-1", "promise.create, 1", ("create", *closed(1)), "fdatasync"),
    Row("create-64", "promise.create, 64", ("create", *closed(64)), "hello-64"),
    Row("create-256", "promise.create, 256", ("create", *closed(256)), "hello-64"),
    Row("get-64", "promise.get, 64", ("get", *closed(64)), "hello-64"),
    Row("settle-64", "promise.settle, 64", ("settle", *closed(64)), "hello-64"),
    Row("cycle-64", "task.create, fence, fulfill, 64", ("cycle", *closed(64))),
    Row("invoke-128", "workflows, 128", ("invoke", *closed(128))),
    Row("execute", "create → execute, idle", ("execute",), is_rate=False),
    Row("resume", "settle → resume, idle", ("resume",), is_rate=False),
    Row("timers", "10,000 timers in 10 s, lateness", ("timers",), is_rate=False, rounds_max=3),
    Row("avalanche", "100,000 deadlines in 1 s, lateness", ("avalanche",), is_rate=False, rounds_max=1),
]
TIMED = ("hello", "create", "get", "settle", "cycle", "invoke", "mixed")


class Bench:
    """The programs, and a folder for what they leave."""

    def __init__(self, folder, seconds):
        self.server_program, self.load_program = harness.built()
        self.folder = folder
        self.seconds = seconds

    def server(self, database="resonate.db"):
        storage = ["--storage-sqlite-path", self.folder / database]
        return harness.server(self.server_program, storage, self.folder / "server.log")

    def floor(self, stores):
        store = ["--store", self.folder / "resonate.db"] if stores else []
        return harness.process([self.load_program, "floor", *store], self.folder / "floor.log")

    def clean(self):
        for left in self.folder.glob("resonate.db*"):
            left.unlink()

    def load(self, url, workload):
        limits = ["--duration-ms", self.seconds * 1000] if workload[0] in TIMED else []
        return harness.load(self.load_program, [url], *workload, *limits)

    def measure(self, row):
        """The figures of a row, once."""
        self.clean()
        with self.floor(row.stores) if row.is_floor else self.server() as server:
            return self.load(server.url, row.workload)

    def syncs_per_second(self):
        """What one fdatasync after each write of a page would allow, in a file that has its length."""
        path = self.folder / "sync"
        page = os.urandom(SYNC_BYTES)
        with open(path, "wb", buffering=0) as file:
            file.write(page * SYNCS)
            os.fsync(file.fileno())
            started = time.monotonic()
            for n in range(SYNCS):
                os.pwrite(file.fileno(), page, n * SYNC_BYTES)
                os.fdatasync(file.fileno())
            return SYNCS / (time.monotonic() - started)


def median(figures, name):
    return statistics.median(figure[name] for figure in figures)


def rounds_of(bench, rows, rounds):
    """All figures, by row, in the order of the rounds."""
    figures = {row.name: [] for row in rows}
    figures["fdatasync"] = []
    for number in range(1, rounds + 1):
        figures["fdatasync"].append({"per_second": bench.syncs_per_second()})
        for row in rows:
            if number > row.rounds_max:
                continue
            measured = bench.measure(row)
            figures[row.name].append(measured)
            print(f"round {number} of {rounds}  {row.name:12}{shown(measured)}", flush=True)
    return figures


def shown(figures):
    rest = "".join(f", {name} {figures[name]:.1f}" for name in ("others_p99_ms", "set_before_due") if name in figures)
    times = " / ".join(f"{figures[name]:.2f}" for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
    return f"{figures['per_second']:9.0f}/s  {times} ms{rest}"


def table(rows, figures):
    lines = ["| | per second | p50 ms | p99 ms | p99.9 ms | beside |", "|---|--:|--:|--:|--:|---|"]
    syncs = median(figures["fdatasync"], "per_second")
    lines.append(f"| fdatasync | {syncs:,.0f} | | | | |")
    for row in rows:
        own = figures[row.name]
        rate = f"{median(own, 'per_second'):,.0f}" if row.is_rate else ""
        times = " | ".join(f"{median(own, name):.2f}" for name in ("p50_ms", "p99_ms", "p999_ms"))
        beside = ""
        others = figures.get(row.beside)
        if others:
            part = harness.ratio([f["per_second"] for f in own], [f["per_second"] for f in others])
            beside = f"{part:.2f} × {row.beside}"
        if "others_p99_ms" in own[0]:
            beside = f"other requests meanwhile: p99 {median(own, 'others_p99_ms'):.1f} ms"
        lines.append(f"| {row.title} | {rate} | {times} | {beside} |")
    return "\n".join(lines) + "\n"


def half(bench, figures):
    """Latencies of create at half of its highest rate."""
    if not figures.get("create-64"):
        return ""
    rate = median(figures["create-64"], "per_second") / 2
    bench.clean()
    with bench.server() as server:
        workload = ("create", *closed(64), "--rate", str(rate), "--duration-ms", "20000")
        measured = harness.load(bench.load_program, [server.url], *workload)
    worst = max(measured["p999_ms_by_second"])
    return (
        f"\nAt {rate:,.0f} creates a second, half of the most, for 20 s: p50 {measured['p50_ms']:.2f} ms, p99 "
        f"{measured['p99_ms']:.2f} ms, p99.9 {measured['p999_ms']:.2f} ms, of the worst second {worst:.2f} ms.\n"
    )


def stored(bench, rows, options):
    """The rates on a database that holds much, beside those on a fresh one, start-up and memory included."""
    with bench.server(STORED) as server:
        for count, kind in ((options.settled, "settled"), (options.pending, "pending")):
            filled = harness.load(
                bench.load_program, [server.url], "fill", "--count", count, "--kind", kind, deadline_s=7200
            )
            print(f"{count:,} {kind}: {filled['elapsed_ms'] / 1000:.0f} s", flush=True)
    size = (bench.folder / STORED).stat().st_size
    started = time.monotonic()
    much, fresh = ({row.name: [] for row in rows} for _ in range(2))
    with bench.server(STORED) as server:
        startup = time.monotonic() - started
        for number in range(options.rounds):
            for row in rows:
                much[row.name].append(bench.load(server.url, row.workload))
                fresh[row.name].append(bench.measure(row))
                both = (much[row.name][-1], fresh[row.name][-1])
                print(f"round {number + 1} of {options.rounds}  {row.name:12}{'  |'.join(map(shown, both))}", flush=True)
        status = Path(f"/proc/{server.pid}/status").read_text()
        memory = next(int(line.split()[1]) for line in status.split("\n") if line.startswith("VmRSS"))
    lines = ["| | fresh, per second | stored, per second | stored / fresh | p99 ms | p99.9 ms |", "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        rates = [[figure["per_second"] for figure in figures[row.name]] for figures in (fresh, much)]
        times = " | ".join(f"{median(much[row.name], name):.2f}" for name in ("p99_ms", "p999_ms"))
        medians = " | ".join(f"{statistics.median(rate):,.0f}" for rate in rates)
        lines.append(f"| {row.title} | {medians} | {harness.ratio(rates[1], rates[0]):.2f} | {times} |")
    what = f"{options.pending:,} pending and {options.settled:,} settled promises, {size / 2**30:.1f} GiB"
    return "\n".join(lines) + f"\n\n{what}: start-up {startup:.2f} s, memory in the end {memory / 2**20:.2f} GiB.\n"


TREE = 10
MONTH_MS = 30 * 24 * 3600 * 1000


def fill_with_trees(path, count):
    """Workflows of ten promises each, as an SDK makes them, that were over a month ago."""
    now = int(time.time() * 1000) - MONTH_MS
    data = json.dumps({"data": "x" * 200})

    def promises():
        for n in range(count // TREE):
            root = f"wf-{n:08}"
            for child in range(TREE):
                id = root if child == 0 else f"{root}:{child - 1}"
                tags = {"resonate:origin": root, "resonate:branch": root, "resonate:parent": root}
                tags |= {"resonate:scope": "local"} if child else {"resonate:scope": "global", "resonate:target": "poll://any@g"}
                yield id, "resolved", now + MONTH_MS, now, now, 1 if child == 0 else 0, root, json.dumps(tags), data, data

    with sqlite3.connect(path) as database:
        database.executemany(
            "INSERT INTO promises (id, state, timeout_at, created_at, settled_at, armed, branch, tags, value, param)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            promises(),
        )
        database.execute(
            "INSERT INTO tasks (id, state, version, releases, target, resumes)"
            " SELECT id, 'fulfilled', 1, 0, 'poll://any@g', '[]' FROM promises WHERE armed = 1"
        )
    database.close()


def left_of(path):
    """How many of these promises are there still."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    count = database.execute("SELECT count(*) FROM promises WHERE id >= 'wf-' AND id < 'wf.'").fetchone()[0]
    database.close()
    return count


def retention(bench, options):
    """Creates at a fixed rate, in turns on a server that does not delete what is stored and on one that does, and is stopped while
    the other is measured."""
    paths = {name: bench.folder / f"{name}.db" for name in ("off", "on")}
    for path in paths.values():
        with harness.server(bench.server_program, ["--storage-sqlite-path", path], bench.folder / "fill.log"):
            pass
    fill_with_trees(paths["off"], options.settled)
    shutil.copy(paths["off"], paths["on"])
    # Else the disk is busy with these for the first rounds.
    os.sync()
    flags = {"off": [], "on": ["--retention-after", "1000", "--retention-interval", "1"]}
    runs = {name: [] for name in paths}
    lines = ["| | p50 ms | p99 ms | p99.9 ms | max ms | deleted per second |", "|---|--:|--:|--:|--:|--:|"]
    with (
        harness.server(bench.server_program, ["--storage-sqlite-path", paths["off"]], bench.folder / "off.log") as off,
        harness.server(
            bench.server_program, ["--storage-sqlite-path", paths["on"], *flags["on"]], bench.folder / "on.log"
        ) as on,
    ):
        servers = {"off": off, "on": on}
        while not options.survey and left_of(paths["on"]) == options.settled:
            time.sleep(1)
        try:
            for number in range(options.rounds):
                for name, server in servers.items():
                    os.kill(on.pid, signal.SIGCONT if server is on else signal.SIGSTOP)
                    before, started = left_of(paths[name]), time.monotonic()
                    workload = ("create", *closed(64), "--rate", options.rate, "--duration-ms", options.seconds * 1000)
                    figures = harness.load(bench.load_program, [server.url], *workload)
                    figures["deleted"] = (before - left_of(paths[name])) / (time.monotonic() - started)
                    runs[name].append(figures)
                    print(f"round {number + 1}  {name:4}{shown(figures)}  {figures['deleted']:.0f}/s deleted", flush=True)
        finally:
            os.kill(on.pid, signal.SIGCONT)
    for name, figures in runs.items():
        times = " | ".join(f"{median(figures, time):.2f}" for time in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
        lines.append(f"| retention {name} | {times} | {median(figures, 'deleted'):,.0f} |")
    p99 = harness.ratio(*([figure["p99_ms"] for figure in runs[name]] for name in ("on", "off")))
    what = f"{options.settled:,} settled promises, {options.rate:,} creates a second, {options.rounds} rounds of {options.seconds} s"
    return "\n".join(lines) + f"\n\n{what}: p99 on / off, median of the rounds: {p99:.2f}\n"


def main():
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="that a rate is measured")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--stored", action="store_true", help="on a database that holds much")
    parser.add_argument("--pending", type=int, default=1_000_000, help="promises of --stored with deadlines to come")
    parser.add_argument("--settled", type=int, help="promises that are settled: 10M of --stored, 1M of --retention")
    parser.add_argument("--retention", action="store_true", help="while settled promises are deleted")
    parser.add_argument("--survey", action="store_true", help="of --retention: do not wait for the first deletion")
    parser.add_argument("--rate", type=int, default=2000, help="creates a second of --retention")
    options = parser.parse_args()
    rows = [row for row in ROWS if row.name in options.only]
    parent = harness.REPOSITORY / "target"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    try:
        bench = Bench(folder, options.seconds)
        if options.retention:
            options.settled = options.settled or 1_000_000
            print("\n" + retention(bench, options))
            return
        options.settled = options.settled or 10_000_000
        if options.stored:
            rows = [row for row in rows if row.is_rate and not row.is_floor]
            print("\n" + stored(bench, rows, options))
            return
        figures = rounds_of(bench, rows, options.rounds)
        processors = f"{os.cpu_count()} processors, {platform.system()} {platform.release()}"
        text = f"\n{processors}; {options.rounds} rounds of {options.seconds} s.\n\n{table(rows, figures)}"
        text += half(bench, figures) + "\n"
        print(text)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        main()
    except harness.Failed as error:
        sys.exit(f"benches/run.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
