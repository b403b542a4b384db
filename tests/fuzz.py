#!/usr/bin/env python3
"""Fuzzes the targets of fuzz/ with libFuzzer: inputs that reach something new are kept and varied.

    python3 tests/fuzz.py                        all targets, ten minutes each
    python3 tests/fuzz.py --seconds 60 cron rows
    python3 tests/fuzz.py --keep cron            add what was found to fuzz/corpus/cron, as little of it as says all

`cargo test` runs the same targets on fuzz/corpus, and on variations of it, without libFuzzer. An input that makes a
target fail is left in target/fuzz/failures: once its cause is mended, keep it in fuzz/corpus, named after what it found.

The toolchain is the stable one. libFuzzer needs a C++ compiler, which is installed if it is missing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import programs

REPOSITORY = Path(__file__).resolve().parent.parent
CRATE = REPOSITORY / "fuzz"
KEPT = CRATE / "corpus"
BUILD = REPOSITORY / "target/fuzz"
# What was found on this machine, by this and earlier runs.
FOUND = BUILD / "corpus"
FAILURES = BUILD / "failures"
TARGETS = sorted(source.stem for source in (CRATE / "fuzz_targets").glob("*.rs"))

# What cargo-fuzz passes: which edges were taken, how often, and what was compared on the way.
COVERAGE = " ".join(
    ["-Cpasses=sancov-module", "-Cforce-frame-pointers"]
    + [
        f"-Cllvm-args=-sanitizer-coverage-{flag}"
        for flag in ("level=4", "inline-8bit-counters", "pc-table", "trace-compares")
    ]
)
INPUT_BYTES_MAX = 4096
# Beyond these an input fails: it hangs, or has the server take memory without end.
INPUT_SECONDS_MAX = 5
MEMORY_MIB_MAX = 1024


def build():
    """Builds all targets with the dependencies that the server has. Answers the folder of the programs."""
    if not shutil.which("c++"):
        programs.install("g++", "a C++ compiler")
    shutil.copyfile(REPOSITORY / "Cargo.lock", CRATE / "Cargo.lock")
    host = next(
        line.removeprefix("host: ")
        for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines()
        if line.startswith("host: ")
    )
    command = ["cargo", "build", "--release", "--bins", "--target", host, "--target-dir", BUILD]
    subprocess.run(command, cwd=CRATE, env={**os.environ, "RUSTFLAGS": COVERAGE}, check=True)
    return BUILD / host / "release"


def fuzz(programs_folder, target, seconds):
    """Fuzzes a target for so long. Answers whether nothing was found."""
    corpora = [FOUND / target, KEPT / target]
    for folder in [*corpora, FAILURES]:
        folder.mkdir(parents=True, exist_ok=True)
    command = [
        programs_folder / target,
        *corpora,
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_SECONDS_MAX}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}",
        f"-artifact_prefix={FAILURES}/{target}-",
        *limits(target),
    ]
    log = BUILD / f"{target}.log"
    with log.open("w") as output:
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False).returncode
    lines = log.read_text(errors="replace").splitlines()
    steps = [line for line in lines if line.startswith("#") and " cov: " in line]
    print(f"{target}: {'passed' if code == 0 else f'FAILED, see {log}'}", flush=True)
    for line in [*steps[:1], *steps[-1:]]:
        print(f"    {line}", flush=True)
    return code == 0


def limits(target):
    words = CRATE / "dictionaries" / f"{target}.dict"
    dictionary = [f"-dict={words}"] if words.exists() else []
    return [f"-max_len={INPUT_BYTES_MAX}", *dictionary]


def keep(programs_folder, target):
    """Adds to the kept inputs the fewest that reach everything that was reached."""
    before = {path.name for path in (KEPT / target).iterdir()}
    folders = [KEPT / target, FOUND / target]
    command = [programs_folder / target, "-set_cover_merge=1", *limits(target), *folders]
    subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = {path.name for path in (KEPT / target).iterdir()}
    print(f"{target}: {len(after)} inputs kept, {len(after - before)} of them new", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; by default all")
    parser.add_argument("--seconds", type=int, default=600, help="how long each target is fuzzed (default 600)")
    parser.add_argument("--at-once", type=int, default=2, help="how many targets are fuzzed at once (default 2)")
    parser.add_argument("--keep", action="store_true", help="keep what was found instead of fuzzing")
    arguments = parser.parse_args()
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target is called {', '.join(sorted(unknown))}")
    targets = arguments.targets or TARGETS
    folder = build()
    if arguments.keep:
        for target in targets:
            keep(folder, target)
        return 0
    started = time.monotonic()
    with ThreadPoolExecutor(arguments.at_once) as pool:
        passed = list(pool.map(lambda target: fuzz(folder, target, arguments.seconds), targets))
    print(f"{sum(passed)} of {len(passed)} targets passed, {time.monotonic() - started:.0f} s", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except programs.Missing as error:
        sys.exit(f"tests/fuzz.py: {error}")
