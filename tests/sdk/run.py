#!/usr/bin/env python3
"""Runs the published SDKs against the real server. See CONTRACT.md for the adapters, scenarios.py for what is checked.

    python3 tests/sdk/run.py                                   every adapter, every short scenario
    python3 tests/sdk/run.py --sdk ts-0.11.5 --scenario cron   one of each
    python3 tests/sdk/run.py --long                            with the six-minute scenarios
    python3 tests/sdk/run.py --store cluster                   on three nodes behind a proxy; also: postgres, one node
"""

import argparse
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import harness
from harness import Failure, Interrupted, SdkError, Stage, Unsupported
from scenarios import SCENARIOS, Scenario

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
ENVIRONMENTS = HERE / ".env"
RUNTIME_MISSING = 77
# A setup may have to compile an SDK.
SETUP_DEADLINE_S = 1800


@dataclass(frozen=True)
class Adapter:
    """One SDK version in one of its flavours."""

    name: str
    language: str
    version: str
    env: dict = field(default_factory=dict, hash=False)

    @property
    def environment(self):
        """Where `setup` installs; flavours of one version share it."""
        return ENVIRONMENTS / f"{self.language}-{self.version}"

    def program(self, name):
        return self.environment / name


# The TypeScript package has a second engine with its own scheduler, so it counts as an SDK of its own.
ASYNC = {"ADAPTER_ENGINE": "async"}
ADAPTERS = {
    adapter.name: adapter
    for adapter in [
        Adapter("ts-0.11.4", "ts", "0.11.4"),
        Adapter("ts-0.11.5", "ts", "0.11.5"),
        Adapter("ts-async-0.11.4", "ts", "0.11.4", ASYNC),
        Adapter("ts-async-0.11.5", "ts", "0.11.5", ASYNC),
        Adapter("py-0.7.4", "py", "0.7.4"),
        Adapter("py-0.8.1", "py", "0.8.1"),
        Adapter("rs-0.6.0", "rs", "0.6.0"),
    ]
}


@dataclass(frozen=True)
class Job:
    adapter: Adapter
    scenario: Scenario


class Report:
    """Prints one line per finished run, and counts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = Counter()
        self.failed = []

    def line(self, outcome, name, seconds=None, notes=(), details=(), count=1):
        with self.lock:
            self.counts[outcome] += count
            if outcome == "FAIL":
                self.failed.append(name)
            duration = f" {seconds:.2f}s" if seconds is not None else ""
            remarks = f"  ({'; '.join(harness.shorten(note) for note in notes)})" if notes else ""
            print("\n".join([f"{outcome} {name}{duration}{remarks}", *details]), flush=True)

    def summary(self):
        for name in self.failed:
            print(f"failed: {name}")
        passed, failed, skipped = (self.counts[outcome] for outcome in ("PASS", "FAIL", "SKIP"))
        print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
        return failed == 0


def run_job(job, options, report):
    name = f"{job.adapter.name} {job.scenario.name}"
    scenario = job.scenario
    stage = Stage(job.adapter, options.server_bin, scenario.server_args, options.store, scenario.prefix)
    started = time.monotonic()
    outcome, notes, details = "PASS", stage.notes, []
    try:
        stage.server.start()
        job.scenario.body(stage)
    except Interrupted:
        return
    except Unsupported as why:
        outcome, notes = "SKIP", [f"unsupported: {why}"]
    except Exception as error:  # whatever went wrong, the other scenarios go on
        if harness.stopping.is_set():
            return  # the processes were ended under it
        outcome, details = "FAIL", explain(error)
    finally:
        seconds = time.monotonic() - started
        # Before the tails are taken: a process that was ended has flushed its output.
        stage.close(keep=True)
        if outcome == "FAIL":
            details += [f"    {line}" for line in stage.tails()]
            details += [f"    files kept in {stage.dir}"] if options.keep else []
        stage.close(keep=options.keep and outcome == "FAIL")
    report.line(outcome, name, seconds, notes, details)


def explain(error):
    if isinstance(error, Failure):
        return [f"    {error}"]
    if isinstance(error, SdkError):
        return [f"    the SDK surfaced an error: {harness.shorten(str(error))}"]
    return [f"    {line}" for line in "".join(traceback.format_exception(error)).rstrip().split("\n")]


def set_up(adapters, options, report):
    """Installs what the adapters need, one language beside the other. Answers those that can run."""
    answers = {}

    def install(language):
        for version in dict.fromkeys(a.version for a in adapters if a.language == language):
            target = ENVIRONMENTS / f"{language}-{version}"
            print(f"setup {target.name}", flush=True)
            answers[language, version] = run_setup(language, version, target)

    threads = [threading.Thread(target=install, args=(language,)) for language in {a.language for a in adapters}]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_not_interrupted()
    return [a for a in adapters if usable(a, answers[a.language, a.version], options, report)]


def check_not_interrupted():
    if harness.stopping.is_set():
        raise KeyboardInterrupt


def run_setup(language, version, target):
    """(exit code, output)."""
    target.parent.mkdir(exist_ok=True)
    script = HERE / language / "setup"
    if not script.exists():
        return 1, f"{script.relative_to(REPOSITORY)} does not exist"
    try:
        process = harness.Process(f"setup {target.name}", [script, version, target], REPOSITORY)
        code = process.wait(SETUP_DEADLINE_S)
    except (Failure, Interrupted) as error:
        return 1, str(error)
    process.kill()
    return code, "\n".join(text for _, text in process.lines)


def usable(adapter, answer, options, report):
    code, output = answer
    if code == 0:
        return True
    if code == RUNTIME_MISSING:
        scenarios = sum(len(jobs) for jobs in plan([adapter], options))
        report.line("SKIP", f"{adapter.name} ALL {scenarios} SCENARIOS", notes=[f"no runtime: {output}"], count=scenarios)
    else:
        report.line("FAIL", f"{adapter.name} setup", details=[f"    {line}" for line in output.split("\n")[-60:]])
    return False


def plan(adapters, options):
    """The jobs by how they may run: beside each other, alone, and asleep most of the time."""
    wanted = [SCENARIOS[name] for name in options.scenario] or list(SCENARIOS.values())
    # A scenario that is named is meant, long or not.
    wanted = [scenario for scenario in wanted if options.long or options.scenario or not scenario.long]
    jobs = [Job(a, s) for _ in range(options.repeat) for s in wanted for a in adapters]
    return (
        [job for job in jobs if not job.scenario.timed and not job.scenario.long],
        [job for job in jobs if job.scenario.timed],
        [job for job in jobs if job.scenario.long],
    )


def run_pool(jobs, threads, options, report):
    """Starts working through `jobs`; answers the threads to join."""
    waiting = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def work():
        while not harness.stopping.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            run_job(job, options, report)

    pool = [threading.Thread(target=work) for _ in range(min(threads, len(jobs)))]
    for thread in pool:
        thread.start()
    return pool


def run_all(adapters, options, report):
    beside, alone, idle = plan(adapters, options)
    # The long scenarios only wait, so all of them run beside everything else.
    idle_pool = run_pool(idle, len(idle), options, report)
    for jobs, threads in ((beside, options.jobs), (alone, 1)):
        for thread in run_pool(jobs, threads, options, report):
            thread.join()
    for thread in idle_pool:
        thread.join()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdk", nargs="+", default=[], metavar="NAME", choices=ADAPTERS, help="adapters to run")
    parser.add_argument("--scenario", nargs="+", default=[], metavar="NAME", choices=SCENARIOS, help="scenarios to run")
    parser.add_argument("--store", choices=harness.STORES, default="sqlite", help="what the server runs on")
    parser.add_argument("--long", action="store_true", help="run the scenarios that take minutes as well")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="run each scenario N times")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="scenarios side by side (default 3)")
    parser.add_argument("--server-bin", type=Path, metavar="PATH", help="default: $RESONATE_BIN or target/debug/resonate")
    parser.add_argument("--keep", action="store_true", help="keep the files of failed scenarios")
    parser.add_argument("--list", action="store_true", help="list adapters and scenarios, and stop")
    options = parser.parse_args()
    default = os.environ.get("RESONATE_BIN") or REPOSITORY / "target/debug/resonate"
    options.server_bin = Path(options.server_bin or default).absolute()
    return options


def list_everything():
    for name in ADAPTERS:
        print(name)
    for scenario in SCENARIOS.values():
        marks = "".join(f" [{mark}]" for mark in ("timed", "long") if getattr(scenario, mark))
        print(f"  {scenario.name}{marks}: {scenario.summary}")


def main():
    options = parse_arguments()
    if options.list:
        list_everything()
        return 0
    if not os.access(options.server_bin, os.X_OK):
        print(f"no server at {options.server_bin}: build it, or name it with --server-bin or $RESONATE_BIN")
        return 1
    if options.store != "sqlite" and "RESONATE_TEST_POSTGRES" not in os.environ:
        print(f"this needs PostgreSQL: python3 tests/postgres.py run -- python3 tests/sdk/run.py --store {options.store}")
        return 1
    # Both ends are orderly: nothing is left running. SIGINT too, because a background job inherits it ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    report = Report()
    try:
        adapters = set_up([ADAPTERS[name] for name in options.sdk or ADAPTERS], options, report)
        run_all(adapters, options, report)
    except KeyboardInterrupt:
        harness.stop_all()
        print("interrupted")
        report.summary()
        return 1
    return 0 if report.summary() else 1


if __name__ == "__main__":
    sys.exit(main())
