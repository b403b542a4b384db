#!/usr/bin/env python3
"""Runs every test of the project, and ends with one line: N passed, N failed, N skipped.

    python3 tests/run.py            everything
    python3 tests/run.py --check    formatting, lints and documentation only

Steps go on after a failure, as far as there is something to run, so that one run tells all that is wrong. A step that
fails without a failed test (a lint, a compile error, a crash of the tests) counts as one failure. PostgreSQL and
HAProxy are installed if they are missing; the cluster is the tests' own (postgres.py).
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import postgres
import programs

REPOSITORY = Path(__file__).resolve().parent.parent
CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;")
PYTHON_RESULT = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
# A test that hangs is a failure, not a run without end.
STEP_DEADLINE_S = 1800
# What a step gets to clean up after an interrupt.
GRACE_S = 20


@dataclass(frozen=True)
class Step:
    name: str
    command: list
    # How a line of its output tells counts, if it runs tests.
    result: re.Pattern | None = None
    env: dict = field(default_factory=dict)


CHECKS = [
    Step("formatting", ["cargo", "fmt", "--check"]),
    Step("lints", ["cargo", "clippy", "--locked", "--all-targets", "--", "-D", "warnings"]),
    Step("documentation", ["cargo", "doc", "--locked", "--no-deps"], env={"RUSTDOCFLAGS": "-Dwarnings"}),
]
# Builds the server as well, for everything that follows.
BUILD = Step("build", ["cargo", "test", "--locked", "--no-run"])


# What speaks to a running server, and so can be run on every store.
WIRE = ["cargo", "test", "--locked", "--no-fail-fast", "--test", "main", "--", "protocol::", "surface::", "storage::"]
SDKS = [sys.executable, "-u", "tests/sdk/run.py"]
# What of the SDKs is run on the other stores: the newest of every language. `make postgres cluster` runs all.
SDKS_NEWEST = [*SDKS, "--sdk", "ts-0.11.5", "py-0.8.1", "rs-0.6.0", "--store"]


def tests():
    server = {"RESONATE_BIN": str(target_directory() / "debug/resonate")}
    return [
        Step("cargo test", ["cargo", "test", "--locked", "--no-fail-fast"], CARGO_RESULT),
        Step("SDKs", SDKS, PYTHON_RESULT, server),
        Step("quickstart", [sys.executable, "-u", "tests/sdk/quickstart.py"], PYTHON_RESULT, server),
        Step("deployment files", [sys.executable, "-u", "tests/deploy/check.py"], PYTHON_RESULT),
        Step("MCP client", [sys.executable, "-u", "tests/sdk/mcp_client.py"], PYTHON_RESULT, server),
    ]


def tests_on(store):
    """The same on another store: `postgres`, or a `cluster` of three nodes."""
    server = {"RESONATE_BIN": str(target_directory() / "debug/resonate")}
    return [
        Step(f"wire tests on {store}", WIRE, CARGO_RESULT, {"RESONATE_TEST_STORE": store}),
        Step(f"SDKs on {store}", [*SDKS_NEWEST, store], PYTHON_RESULT, server),
    ]


def target_directory():
    metadata = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
    return Path(json.loads(subprocess.check_output(metadata, cwd=REPOSITORY))["target_directory"])


def run(step):
    """Runs a step, showing its output as it comes. Answers how many tests passed, failed and were skipped."""
    print(f"\n=== {step.name}: {' '.join(step.command)}", flush=True)
    started = time.monotonic()
    process = subprocess.Popen(
        step.command,
        cwd=REPOSITORY,
        env={**os.environ, **step.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that it can be ended with all that it started
    )
    watchdog = threading.Timer(STEP_DEADLINE_S, overdue, [step, process])
    watchdog.start()
    try:
        counts = follow(process.stdout, step.result)
        code = process.wait()
    except KeyboardInterrupt:
        end(process)
        raise
    finally:
        watchdog.cancel()
    if code != 0 and counts["failed"] == 0:
        counts["failed"] = 1
    print(f"=== {step.name}: exit code {code}, {time.monotonic() - started:.0f} s", flush=True)
    return counts


def follow(output, result):
    """Passes on the output, and adds up the counts that it tells."""
    counts = Counter()
    for raw in output:
        sys.stdout.buffer.write(raw)
        sys.stdout.buffer.flush()
        found = result and result.match(ESCAPES.sub("", raw.decode("utf-8", "replace")).rstrip())
        if found:
            counts.update(dict(zip(("passed", "failed", "skipped"), map(int, found.groups()))))
    return counts


def overdue(step, process):
    print(f"=== {step.name}: not done after {STEP_DEADLINE_S} s", flush=True)
    end(process)


def end(process):
    """Ends a step: politely, because the SDK runner cleans up, then for good."""
    for how in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(GRACE_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            pass


def run_all(is_check_only):
    """Answers the counts of all steps that ran, by name."""
    results = {step.name: run(step) for step in CHECKS}
    if is_check_only:
        return results
    results[BUILD.name] = run(BUILD)
    # Without a build there is nothing to test, or worse, an older one.
    if results[BUILD.name]["failed"]:
        return results
    with contextlib.ExitStack() as stack:
        try:
            environment = {"RESONATE_TEST_HAPROXY": programs.haproxy()}
            environment |= stack.enter_context(postgres.Cluster()).environment
        except (postgres.Failed, programs.Missing) as error:
            print(f"\n=== {error}", flush=True)
            results["PostgreSQL"] = Counter(failed=1)
            # What needs it says so, and fails too.
            steps = tests()
        else:
            os.environ.update(environment)
            steps = [*tests(), *tests_on("postgres"), *tests_on("cluster")]
        return results | {step.name: run(step) for step in steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="formatting, lints and documentation only")
    results = run_all(parser.parse_args().check)
    print()
    for name, counts in results.items():
        if counts["failed"]:
            print(f"failed: {name}")
    total = sum(results.values(), Counter())
    passed, failed, skipped = (total[key] for key in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    # Either way everything that was started is ended. SIGINT too, because a background job inherits it ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
