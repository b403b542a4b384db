"""What the benches share: the programs, servers, the load generator, and measuring round by round."""

import contextlib
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
START_DEADLINE_S = 120


class Failed(Exception):
    """Something could not be measured."""


def built():
    """The server and the load generator of this clone, but for those that $RESONATE_BIN and $LOAD_BIN name."""
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


class Process:
    """A server under way."""

    def __init__(self, process, port):
        self.pid = process.pid
        self.url = f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def process(command, log):
    """Runs what prints where it listens."""
    with open(log, "wb") as output:
        running = subprocess.Popen([str(word) for word in command], cwd=log.parent, stdout=output, stderr=output)
    try:
        yield Process(running, listening_port(running, log))
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(START_DEADLINE_S)


def server(program, storage, log):
    """A server on this storage (flags), on any port; $RESONATE_SERVER_ARGS is added to its arguments."""
    command = [program, "serve", "--server-bind", "127.0.0.1", "--server-port", "0"]
    command += ["--observability-metrics-port", "0", *storage]
    return process(command + shlex.split(os.environ.get("RESONATE_SERVER_ARGS", "")), log)


def listening_port(running, log):
    until = time.monotonic() + START_DEADLINE_S
    while running.poll() is None and time.monotonic() < until:
        found = re.search(r"listening.*127\.0\.0\.1:(\d+)", log.read_text("utf-8", "replace"))
        if found:
            return int(found.group(1))
        time.sleep(0.002)
    raise Failed(f"the server does not start:\n{log.read_text('utf-8', 'replace')}")


def load(program, urls, *arguments, deadline_s=900):
    """The figures of a workload."""
    nodes = [word for url in urls for word in ("--url", url)]
    command = [str(word) for word in [program, *nodes, *arguments, "--json"]]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"`{shlex.join(command)}` took longer than {deadline_s} s") from None
    if answer.returncode != 0:
        raise Failed(f"`{shlex.join(command)}` failed: {answer.stderr.strip()}")
    return json.loads(answer.stdout.splitlines()[-1])


def ratio(rates, others):
    """The median of the rounds' ratios: a neighbour who is busy for a while slows down both."""
    return statistics.median(rate / other for rate, other in zip(rates, others))
