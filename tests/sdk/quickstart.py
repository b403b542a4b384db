#!/usr/bin/env python3
"""Does what the README's quickstart says, word for word, and checks what it prints.

    python3 tests/sdk/quickstart.py [--server-bin PATH]

Two things differ from a reader's shell: the server is the one that is built already, and it has a port of its own, which
the countdown is told by $RESONATE_URL. Packages are installed in `.env/quickstart`, inside the clone.
"""

import argparse
import os
import re
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from harness import Process, Stage, Unsupported, built_server, check, check_equal, run_alone, until

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
COPY = HERE / ".env" / "quickstart"
# The server that the README starts is the one of `Stage`: `serve`, on a file.
SERVER_COMMAND = "cargo run --release -- serve"
COUNTED = [f"Countdown: {i}" for i in range(5, 0, -1)]
DELAY_S = 1
# It installs packages; the npm package `node` is a hundred megabytes.
COUNTDOWN_DEADLINE_S = 600


def quickstart():
    """The section's code blocks: (language, text)."""
    section = re.search(r"^## Quickstart\n(.*?)^## ", (REPOSITORY / "README.md").read_text(), re.M | re.S)
    check(section, "README.md has no section Quickstart")
    return re.findall(r"^```(\w+)\n(.*?)^```$", section.group(1), re.M | re.S)


def copy_example():
    """Keeps the example's own folder clean. What an earlier run installed in the copy stays."""
    source, target = REPOSITORY / "examples/countdown", COPY / "countdown"
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)


@contextmanager
def countdown(stage, folder, command):
    process = Process(command, ["sh", "-c", command], folder, {"RESONATE_URL": stage.server.url, "CI": "true"})
    stage.processes.append(process)
    try:
        yield process
    finally:
        # It is npm, a shell and Node, in a session of their own.
        try:
            os.killpg(process.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def printed(process):
    """Its own lines, each with the time it was printed."""
    return [(at, text) for at, text in process.lines if text in [*COUNTED, "Done!"]]


def finish(process, expected):
    check_equal(process.wait(COUNTDOWN_DEADLINE_S), 0, f"exit code of {process.name}")
    check_equal([text for _, text in printed(process)], expected, f"lines printed by {process.name}")


def counts_down(stage, command):
    """The countdown prints its lines, at its pace."""
    with countdown(stage, stage.dir, command) as process:
        finish(process, [*COUNTED, "Done!"])
        lines = printed(process)
        for (before, _), (after, text) in zip(lines, lines[1:]):
            check(after - before > DELAY_S * 0.9, f"{text!r} came {after - before:.2f} s after the line before it")


def goes_on(stage, command):
    """A countdown that is killed together with its server goes on where it was."""
    promise_id = command.split()[-1]
    folder = COPY / "countdown"
    with countdown(stage, folder, command) as process:
        until(lambda: len(printed(process)) >= 2, f"two lines of {command}", COUNTDOWN_DEADLINE_S)
        stage.wait_asleep(promise_id, 0.1)
        stage.server.kill()
    process.kill()
    done = [text for _, text in printed(process)]
    stage.server.start()
    with countdown(stage, folder, command) as process:
        finish(process, [*COUNTED[len(done) :], "Done!"])


def run(stage):
    if shutil.which("npm") is None:
        raise Unsupported("no runtime: npm is not installed")
    blocks = quickstart()
    code = (REPOSITORY / "examples/countdown/index.ts").read_text()
    check_equal([text for language, text in blocks if language == "ts"], [code], "code that README.md shows")
    server, first, again = (text.strip() for language, text in blocks if language == "sh")
    check_equal(server, SERVER_COMMAND, "README.md's first command")
    copy_example()
    (stage.dir / "examples").symlink_to(COPY)
    stage.server.start()
    counts_down(stage, first)
    goes_on(stage, again)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server-bin", help="the server to run ($RESONATE_BIN, else target/debug/resonate)")
    options = parser.parse_args()
    server = Path(options.server_bin).absolute() if options.server_bin else built_server()
    return run_alone("quickstart", Stage(None, server), run)


if __name__ == "__main__":
    sys.exit(main())
