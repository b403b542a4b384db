#!/usr/bin/env python3
"""Which lines of machine, engine and store the tests run: per file, and all together.

    python3 tests/coverage.py               a table
    python3 tests/coverage.py --lines       and the lines that no test runs
    python3 tests/coverage.py --no-run      of the last run, once more

Counted are the unit tests and, of the integration tests, the model, the simulation and the storage. Code that only tests
have is not counted. A server that is killed takes with it what it has counted.

PostgreSQL is needed: `make coverage`. rustup's component llvm-tools is installed if it is missing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import programs

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
WORKSHOP = TARGET / "coverage"
PROFILES = WORKSHOP / "profiles"
PROFILE = WORKSHOP / "all.profdata"
PROGRAMS = WORKSHOP / "programs.json"
COUNTED = ("src/machine", "src/engine", "src/store")
# Files that only tests have; modules of tests within a file are found by their attribute.
TESTS = re.compile(r"/tests\.rs$|/tests/|^src/store/suite/|^src/store/hooked\.rs$")
TEST_MODULE = re.compile(r"^#\[cfg\(test\)\]\n(pub(\(\w+\))? )?mod \w+ \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)
# What is built, and which of its tests run.
RUNS = (
    (["--lib"], []),
    (["--test", "main"], ["model::", "sim::", "storage::"]),
)
# Percent of all lines.
LEAST = 95


def tools():
    """The folder with the tools that read what this compiler's programs count."""
    said = subprocess.check_output(["rustc", "--print", "target-libdir"], text=True)
    folder = Path(said.strip()).parent / "bin"
    if not (folder / "llvm-cov").exists():
        subprocess.run(["rustup", "component", "add", "llvm-tools"], check=True)
    return folder


def run():
    """Builds the project anew, with counters, on the dependencies that are there, and runs the tests. Answers whether all
    passed: what they ran counts all the same."""
    for folder in (PROFILES, WORKSHOP / "debug"):
        shutil.rmtree(folder, ignore_errors=True)
    PROFILES.mkdir(parents=True)
    programs.share_dependencies(TARGET, WORKSHOP)
    wrapper = WORKSHOP / "rustc"
    wrapper.write_text('#!/bin/sh\nexec "$@" -Cinstrument-coverage\n')
    wrapper.chmod(0o755)
    # Programs that come after one another count into the same few files.
    profiles = PROFILES / "%8m.profraw"
    environment = {
        **os.environ,
        "RUSTC_WORKSPACE_WRAPPER": str(wrapper),
        "LLVM_PROFILE_FILE": str(profiles),
        "CARGO_TARGET_DIR": str(WORKSHOP),
        "CARGO_INCREMENTAL": "0",
    }
    built = set()
    are_green = True
    for what, tests in RUNS:
        cargo = ["cargo", "test", "--locked", *what]
        asked = [*cargo, "--no-run", "--message-format=json"]
        said = subprocess.run(asked, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        for line in said.stdout.splitlines():
            message = json.loads(line)
            if message.get("executable"):
                built.add(message["executable"])
        ran = subprocess.run([*cargo, "--", *tests], cwd=REPOSITORY, env=environment, check=False)
        are_green = are_green and ran.returncode == 0
    PROGRAMS.write_text(json.dumps(sorted(built)))
    profiles = sorted(PROFILES.glob("*.profraw"))
    subprocess.run([tools() / "llvm-profdata", "merge", "--sparse", *profiles, "-o", PROFILE], check=True)
    return are_green


def lines():
    """By file, every line that has code, and how often it was run."""
    first, *others = json.loads(PROGRAMS.read_text())
    command = [tools() / "llvm-cov", "export", "--format=lcov", f"--instr-profile={PROFILE}", first]
    for other in others:
        command += ["--object", other]
    said = subprocess.run(
        [*command, *(REPOSITORY / folder for folder in COUNTED)], check=True, stdout=subprocess.PIPE, text=True
    )
    counts = defaultdict(dict)
    for line in said.stdout.splitlines():
        kind, _, value = line.partition(":")
        if kind == "SF":
            name = str(Path(value).relative_to(REPOSITORY))
        elif kind == "DA":
            number, count = value.split(",")[:2]
            counts[name][int(number)] = max(int(count), counts[name].get(int(number), 0))
    return {name: without_tests(name, counts[name]) for name in sorted(counts) if not TESTS.search(name)}


def without_tests(name, counts):
    source = (REPOSITORY / name).read_text()
    tests = set()
    for module in TEST_MODULE.finditer(source):
        first = source.count("\n", 0, module.start()) + 1
        tests.update(range(first, first + module.group().count("\n")))
    return {number: count for number, count in counts.items() if number not in tests}


def ranges(numbers):
    """Numbers in order, as `3-5, 8`."""
    found = []
    for number in sorted(numbers):
        if found and found[-1][1] + 1 == number:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def row(name, total, ran):
    print(f"{name:<40} {ran:>6} of {total:>6} lines {100 * ran / total:>6.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--no-run", action="store_true")
    options = parser.parse_args()
    are_green = options.no_run or run()
    total = ran = 0
    for name, counts in lines().items():
        if not counts:
            continue
        missed = [number for number, count in counts.items() if count == 0]
        row(name, len(counts), len(counts) - len(missed))
        if options.lines and missed:
            print(f"    not run: {ranges(missed)}")
        total += len(counts)
        ran += len(counts) - len(missed)
    row("all", total, ran)
    if 100 * ran < LEAST * total:
        sys.exit(f"less than {LEAST} % of the lines")
    if not are_green:
        sys.exit("some tests failed")


if __name__ == "__main__":
    main()
