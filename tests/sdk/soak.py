#!/usr/bin/env python3
"""Half an hour of mixed traffic of every SDK against one server: does anything grow that should not?

    python3 tests/sdk/soak.py                        30 minutes, every adapter whose runtime is there
    python3 tests/sdk/soak.py --minutes 5 --sdk ts-0.11.5 py-0.8.1

Clients call workflows and check what they return. All the time workers are killed and others started; during the first third
the server is as well, once a minute, by SIGKILL and by SIGTERM in turn. After that it stays, so that what it takes can be watched:
memory, open files, the database, its log, what a request and a wake-up take. One line is printed a minute. Fails when a workflow
returns something wrong or nothing, and when in the last fifth of the time memory, files or the log are well above what they were
when the restarts ended. Times are printed and not judged: this machine has other things to do.
"""

import argparse
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
import urllib.request
from pathlib import Path

import harness
import run
from harness import Failure, Interrupted, SdkError, Stage, check, check_equal

# A client that was under way when the server went may be told so by its SDK; it calls again, by the same ids.
TRIES_MAX = 5
WORKERS = 2
CALL_DEADLINE_S = 120
GROUP_OF_PROBES = "soak-probe"
# A cache that is full within a minute hides no growth of anything else.
SERVER_ARGS = ("--storage-sqlite-cache-bytes", str(4 << 20))
# Growth that is none: SQLite's caches fill, allocators keep what was needed once.
MEMORY_FACTOR, MEMORY_SLACK_MIB = 1.25, 32
FILES_SLACK = 64
LOG_BYTES_MAX = 80 << 20


class Traffic:
    """Everything one SDK does, on a thread of its own."""

    def __init__(self, stage, number):
        self.stage = stage
        self.group = f"workers-{number}"
        self.prefix = f"s{number}-"
        self.round = 0
        self.calls = 0
        self.repeated = 0
        self.failure = None
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        try:
            while not self.is_over.is_set():
                self.round += 1
                for step in (self.hellos, self.fanout, self.recursion, self.nap, self.large, self.steps):
                    step(f"{self.prefix}{self.round}-{step.__name__}")
                    # Between two commands: a client has ended, its process can be forgotten.
                    self.forget()
        except Interrupted:
            pass
        except Exception as error:  # told by the main thread
            self.failure = error

    def forget(self):
        for process in [process for process in self.stage.processes if process.exited()]:
            process.kill()
            self.stage.processes.remove(process)

    def call(self, cmd, expected, **fields):
        for attempt in range(TRIES_MAX):
            try:
                value = self.stage.call(cmd, CALL_DEADLINE_S, group=self.group, timeout_ms=600_000, **fields)
                break
            except SdkError:
                if attempt + 1 == TRIES_MAX:
                    raise
                self.repeated += 1
        check_equal(value, expected, f"{self.stage.adapter.name}: {cmd} {fields}")
        self.calls += fields.get("count", 1)

    def rpc(self, promise_id, expected, func, *args):
        self.call("rpc", expected, id=promise_id, func=func, args=args)

    def hellos(self, prefix):
        expected = [f"hello {i}" for i in range(100)]
        self.call("many", expected, prefix=f"{prefix}-", count=100, concurrency=16, func="hello")

    def fanout(self, promise_id):
        self.rpc(promise_id, sum(n * n for n in range(10)), "fanout_rpc", 10, self.group)

    def recursion(self, promise_id):
        self.rpc(promise_id, 5, "recurse_rpc", 5)

    def nap(self, promise_id):
        self.rpc(promise_id, "rested", "nap", 500)

    def large(self, promise_id):
        self.rpc(promise_id, "x" * 50_000, "blob", 50_000)

    def steps(self, promise_id):
        self.rpc(promise_id, 5, "steps", 5, 20)


class Killer:
    """Kills workers and starts others, and, for some time, the server."""

    def __init__(self, stages, groups, seconds):
        self.stages = stages
        self.groups = groups
        self.server = stages[0].server
        self.restarts_end = time.monotonic() + seconds / 3
        self.server_restarts = 0
        self.worker_restarts = 0
        self.failure = None
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        try:
            server_at = time.monotonic() + 60
            while not self.is_over.wait(10):
                self.replace_a_worker()
                if server_at <= time.monotonic() < self.restarts_end:
                    self.restart_server()
                    server_at = time.monotonic() + 60
        except Interrupted:
            pass
        except Exception as error:  # told by the main thread
            self.failure = error

    def replace_a_worker(self):
        stage, group = random.choice(list(zip(self.stages, self.groups)))
        alive = [worker for worker in stage.workers if not worker.process.killed]
        random.choice(alive).kill()
        stage.start_worker(group, ttl_ms=5000)
        self.worker_restarts += 1

    def restart_server(self):
        node = self.server.nodes[0]
        if self.server_restarts % 2:
            self.server.stop(30)
        else:
            self.server.kill()
        node.start()
        node.wait_listening()
        self.server_restarts += 1


class Probe:
    """What a request and a wake-up take, seen by an idle client; and what the server takes."""

    def __init__(self, server, database):
        self.server = server
        self.database = database
        self.number = 0
        self.requests_ms = []
        self.wakes_ms = []

    def ask(self):
        """A create on a stream that is open, in milliseconds: until the answer, until the message."""
        url = f"{self.server.url}/poll/{GROUP_OF_PROBES}/one"
        try:
            with urllib.request.urlopen(url, timeout=10) as stream:
                for _ in range(5):
                    self.number += 1
                    promise_id = f"probe-{self.number}"
                    tags = {"resonate:target": f"poll://uni@{GROUP_OF_PROBES}/one"}
                    started = time.monotonic()
                    create = {"id": promise_id, "timeoutAt": 1 << 53, "tags": tags}
                    if self.server.request("promise.create", create)[0] != 200:
                        return
                    self.requests_ms.append((time.monotonic() - started) * 1000)
                    while promise_id not in (line := stream.readline().decode()):
                        if not line:
                            return
                    self.wakes_ms.append((time.monotonic() - started) * 1000)
                    self.server.request("promise.settle", {"id": promise_id, "state": "resolved"})
        except (OSError, Failure, ValueError):
            pass  # the server is being restarted

    def take(self):
        """What the server takes now."""
        pid = self.server.nodes[0].process.popen.pid
        status = Path(f"/proc/{pid}/status").read_text()
        memory = next(int(line.split()[1]) for line in status.split("\n") if line.startswith("VmRSS"))
        log = self.database.with_name(self.database.name + "-wal")
        return {
            "memory_mib": memory / 1024,
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "database_mib": self.database.stat().st_size / (1 << 20),
            "log_bytes": log.stat().st_size if log.exists() else 0,
        }

    def times(self):
        """Medians of all that was asked since the last time."""
        requests, wakes = self.requests_ms, self.wakes_ms
        self.requests_ms, self.wakes_ms = [], []

        def shown(times):
            return f"{statistics.median(times):.1f}/{max(times):.0f} ms" if times else "none"

        return f"request {shown(requests)}, wake-up {shown(wakes)} (median/max)"


def median(samples, name):
    return statistics.median(sample[name] for sample in samples)


def judge(samples):
    """Compares the last fifth of the samples after the restarts with the first."""
    part = max(1, len(samples) // 5)
    first, last = samples[:part], samples[-part:]
    before, after = median(first, "memory_mib"), median(last, "memory_mib")
    limit = before * MEMORY_FACTOR + MEMORY_SLACK_MIB
    check(after <= limit, f"memory grew from {before:.0f} to {after:.0f} MiB")
    before, after = median(first, "files"), median(last, "files")
    check(after <= before + FILES_SLACK, f"open files grew from {before} to {after}")
    log = max(sample["log_bytes"] for sample in last)
    check(log <= LOG_BYTES_MAX, f"the log has {log >> 20} MiB")


def soak(adapters, options):
    seconds = options.minutes * 60
    stages = [Stage(adapter, options.server_bin, SERVER_ARGS) for adapter in adapters]
    main = stages[0]
    traffics = []
    killer = None
    try:
        main.server.start()
        for number, stage in enumerate(stages):
            stage.server = main.server
            traffics.append(Traffic(stage, number))
            for _ in range(WORKERS):
                stage.start_worker(traffics[-1].group, ttl_ms=5000)
        killer = Killer(stages, [traffic.group for traffic in traffics], seconds)
        probe = Probe(main.server, main.dir / "resonate.db")
        begun = time.monotonic()
        threads = [*traffics, killer]
        for one in threads:
            one.thread.start()
        samples = []
        minute = 1
        while time.monotonic() < begun + seconds:
            main.let_pass(5)
            for one in threads:
                if one.failure:
                    raise one.failure
            probe.ask()
            if time.monotonic() > killer.restarts_end:
                samples.append(probe.take())
            if time.monotonic() - begun >= minute * 60:
                print(line(minute, traffics, killer, probe), flush=True)
                minute += 1
        for one in threads:
            one.is_over.set()
        for one in threads:
            one.thread.join()
            if one.failure:
                raise one.failure
        judge(samples)
        check_all_done(main.server)
        print(f"passed: {sum(traffic.calls for traffic in traffics)} calls of {len(traffics)} SDKs")
    finally:
        harness.stop_all()
        for stage in stages:
            stage.close()


def line(minute, traffics, killer, probe):
    calls = sum(traffic.calls for traffic in traffics)
    repeated = sum(traffic.repeated for traffic in traffics)
    try:
        taken = probe.take()
        takes = ", ".join(
            [
                f"{taken['memory_mib']:.0f} MiB of memory",
                f"{taken['files']} files",
                f"database {taken['database_mib']:.0f} MiB, log {taken['log_bytes'] / (1 << 20):.0f} MiB",
            ]
        )
    except OSError:
        takes = "the server is being restarted"
    return (
        f"{minute:3} min: {calls} calls ({repeated} repeated), {killer.worker_restarts} workers and "
        f"{killer.server_restarts} servers ended; {takes}; {probe.times()}"
    )


def check_all_done(server):
    """No task is left to do. Clients that have ended are still to be told of some promises: nobody will listen."""
    for state in ("pending", "acquired", "suspended"):
        status, data = server.request("task.search", {"state": state})
        check_equal(status, 200, "status of task.search")
        left = [task["id"] for task in data["tasks"] if not task["id"].startswith("probe-")]
        check(not left, f"tasks are left {state}: {left}")
    with urllib.request.urlopen(f"{server.url}/targets", timeout=10) as response:
        targets = json.load(response)["targets"]
    waited_for = [target for target in targets if target["tasks"] and GROUP_OF_PROBES not in target["target"]]
    check(not waited_for, f"workers are waited for: {waited_for}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long (default 30)")
    parser.add_argument("--sdk", nargs="+", default=[], metavar="NAME", choices=run.ADAPTERS, help="adapters to run")
    parser.add_argument("--server-bin", type=Path, metavar="PATH", help="default: $RESONATE_BIN or target/debug/resonate")
    options = parser.parse_args()
    options.scenario, options.long, options.repeat = [], False, 1
    default = os.environ.get("RESONATE_BIN") or run.REPOSITORY / "target/debug/resonate"
    options.server_bin = Path(options.server_bin or default).absolute()
    if not os.access(options.server_bin, os.X_OK):
        sys.exit(f"no server at {options.server_bin}: build it, or name it with --server-bin or $RESONATE_BIN")
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    report = run.Report()
    adapters = run.set_up([run.ADAPTERS[name] for name in options.sdk or run.ADAPTERS], options, report)
    if report.failed or not adapters:
        return 1
    try:
        soak(adapters, options)
    except (Failure, SdkError) as error:
        print(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        print("interrupted")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
