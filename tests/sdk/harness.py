"""What a scenario is given: a fresh server, workers, clients, the raw protocol, and ways to wait.

Nothing in here knows a scenario or an SDK. Waiting is always polling an observable condition with a deadline (`until`);
the one exception is `Stage.let_pass`, for scenarios whose very condition is that time goes by.
"""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.append(str(TESTS))

import postgres  # noqa: E402
import programs  # noqa: E402

# How many nodes the server under test has, by what it runs on.
STORES = {"sqlite": 1, "postgres": 1, "cluster": 3}
CLIENT_DEADLINE_S = 30
READY_DEADLINE_S = 30
TAIL_LINES = 40
LINE_CHARS_MAX = 400
# Above this a command goes to the client's standard input: one argument may hold 128 KiB at most.
ARGV_BYTES_MAX = 100_000

stopping = threading.Event()


class Failure(Exception):
    """The scenario saw something a user should not see."""


class Unsupported(Exception):
    """This SDK version cannot do what the scenario needs."""


class SdkError(Exception):
    """The SDK surfaced an error to the caller of a client command."""


class Interrupted(Exception):
    """The whole run is being stopped."""


def check(condition, message):
    if not condition:
        raise Failure(message)


def check_equal(actual, expected, what):
    check(actual == expected, f"{what}: expected {shorten(expected)}, got {shorten(actual)}")


def shorten(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= LINE_CHARS_MAX else f"{text[:LINE_CHARS_MAX]}… ({len(text)} characters)"


def until(condition, what, deadline_s=20, every_s=0.02):
    """Polls `condition` until it answers something truthy, which is returned."""
    end = time.monotonic() + deadline_s
    while True:
        if stopping.is_set():
            raise Interrupted
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failure(f"not within {deadline_s} s: {what}")
        time.sleep(every_s)


def clean_environment():
    """Without RESONATE_* settings of the developer's shell: they would reach the server and the SDKs."""
    return {key: value for key, value in os.environ.items() if not key.startswith("RESONATE_")}


class Process:
    """A child process whose output lines are kept, each with the time it was read."""

    # Every live process of this run, so that an interrupt can end them all, by pid.
    live = set()
    live_lock = threading.Lock()

    def __init__(self, name, argv, cwd, env=None, stdin=None, pass_fds=()):
        self.name = name
        self.lines = []  # (wall clock time, text)
        self.killed = False
        with Process.live_lock:
            if stopping.is_set():
                raise Interrupted
            self.popen = subprocess.Popen(
                [str(arg) for arg in argv],
                cwd=cwd,
                env={**clean_environment(), **(env or {})},
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, in our order
                pass_fds=pass_fds,
            )
            Process.live.add(self)
        self.stdout = []  # stdout alone, for answers
        self.ended_at = None  # when stdout was closed, at its exit at the latest
        self.pumps = [
            threading.Thread(target=self._pump, args=(self.popen.stdout, self.stdout), daemon=True),
            threading.Thread(target=self._pump, args=(self.popen.stderr, None), daemon=True),
        ]
        if stdin is not None:
            self.pumps.append(threading.Thread(target=self._feed, args=(stdin,), daemon=True))
        for pump in self.pumps:
            pump.start()

    def _pump(self, pipe, copy):
        # A binary pipe ends lines at "\n" only; str.splitlines would also cut at U+0085 and U+2028.
        for raw in pipe:
            text = raw.decode("utf-8", "replace").rstrip("\n")
            self.lines.append((time.time(), text))
            if copy is not None:
                copy.append(text)
        if copy is not None:
            self.ended_at = time.time()
        pipe.close()

    def _feed(self, text):
        try:
            self.popen.stdin.write(text.encode())
            self.popen.stdin.close()
        except OSError:
            pass  # it ended early; its exit is what gets reported

    def exited(self):
        return self.popen.poll() is not None

    def line_matching(self, pattern):
        """The first line that matches: (time, match)."""
        for at, text in list(self.lines):
            found = re.search(pattern, text)
            if found:
                return at, found
        return None

    def wait_line(self, pattern, what, deadline_s):
        def seen():
            # Asked before looking: lines written just before an exit are still found.
            gone = self.exited()
            if gone:
                self.join_pumps()
            found = self.line_matching(pattern)
            if not found and gone:
                raise Failure(f"{self.name} exited with {self.popen.returncode} before {what}")
            return found

        return until(seen, f"{self.name}: {what}", deadline_s, every_s=0.005)

    def join_pumps(self):
        for pump in self.pumps:
            pump.join(timeout=5)

    def wait(self, deadline_s):
        until(self.exited, f"{self.name} exits", deadline_s)
        self.join_pumps()
        return self.popen.returncode

    def kill(self):
        """SIGKILL, and wait until it is gone."""
        self.killed = True
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self.join_pumps()
        with Process.live_lock:
            Process.live.discard(self)

    def tail(self):
        how = "running" if self.popen.poll() is None else f"exit code {self.popen.returncode}"
        how = "killed" if self.killed else how
        lines = [f"--- {self.name} (pid {self.popen.pid}, {how})"]
        for at, text in self.lines[-TAIL_LINES:]:
            clock = time.strftime("%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03}"
            lines.append(f"    {clock} {shorten(text)}")
        return lines


def stop_all():
    """Ends every process of this run; from now on none is started."""
    stopping.set()
    with Process.live_lock:
        processes = list(Process.live)
    for process in processes:
        process.kill()


def sign_tokens(folder):
    """Makes a key, and answers the file of its public half and what signs tokens with the other."""
    private, public = folder / "private.pem", folder / "public.pem"
    openssl("genpkey", "-algorithm", "RSA", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)

    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    def sign(**claims):
        claims = {"exp": int(time.time()) + 3600, **claims}
        message = b".".join(encoded(json.dumps(part).encode()) for part in ({"alg": "RS256"}, claims))
        signature = openssl("dgst", "-sha256", "-sign", private, stdin=message)
        return (message + b"." + encoded(signature)).decode()

    return public, sign


def openssl(*arguments, stdin=b""):
    command = ["openssl", *map(str, arguments)]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout


class Storage:
    """Where a server keeps what it is told: a SQLite file, or a PostgreSQL database, which the server migrates."""

    def __init__(self, stage, store):
        self.database = None
        self.args = ["--storage-sqlite-path", stage.dir / "resonate.db"]
        if store == "sqlite":
            return
        self.cluster_url = os.environ["RESONATE_TEST_POSTGRES"]
        self.database = f"sdk-{uuid.uuid4().hex}"
        postgres.sql(self.cluster_url, f'CREATE DATABASE "{self.database}"')
        url = postgres.database_url(self.cluster_url, self.database)
        self.args = ["--storage-type", "postgres", "--storage-postgres-url", url]

    def close(self):
        database, self.database = self.database, None
        if not database:
            return
        try:
            postgres.sql(self.cluster_url, f'DROP DATABASE "{database}" WITH (FORCE)')
        except postgres.Failed:
            pass  # it goes with its cluster, at the latest


class Node:
    """One process of the server, on one port however often it is restarted."""

    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.port = 0
        self.process = None
        self.starts = 0

    def start(self):
        """Does not wait for it."""
        self.starts += 1
        argv = [
            self.server.binary, "serve",
            "--server-port", self.port,
            "--server-bind", "127.0.0.1",
            "--observability-metrics-port", 0,
            *self.server.storage.args,
        ]  # fmt: skip
        if self.server.port:
            argv += ["--server-url", self.server.url]
        argv += self.server.args + os.environ.get("RESONATE_SERVER_ARGS", "").split()
        self.process = self.server.stage.spawn(f"{self.name} (start {self.starts})", argv)

    def wait_listening(self):
        """Answers when it was."""
        # Colour codes may stand between the key and its value when the log is coloured.
        address = r"listening.*addr(?:\x1b\[[0-9;]*m)*=(?:\x1b\[[0-9;]*m)*127\.0\.0\.1:(\d+)"
        at, found = self.process.wait_line(address, "listening", READY_DEADLINE_S)
        self.port = int(found.group(1))
        return at


class Server:
    """The server under test, on one port and one store however often it is restarted. A cluster is three nodes behind
    HAProxy, which stays when they go."""

    def __init__(self, stage, binary, args=(), store="sqlite"):
        self.stage = stage
        self.binary = binary
        self.args = list(args)
        self.store = store
        self.storage = None
        count = STORES[store]
        self.nodes = [Node(self, f"node {n}" if count > 1 else "server") for n in range(1, count + 1)]
        self.listener = None  # of the proxy
        self.proxy = None
        self.port = None
        self.ready_at = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        self.storage = self.storage or Storage(self.stage, self.store)
        if len(self.nodes) > 1 and not self.listener:
            # Listens before HAProxy runs, because the nodes are told the port.
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
        for node in self.nodes:
            node.start()
        self.ready_at = max([node.wait_listening() for node in self.nodes])
        if not self.listener:
            self.port = self.nodes[0].port
            return
        if not self.proxy:
            self.start_proxy()
        until(self.answers, "the proxy has found the nodes")

    def start_proxy(self):
        nodes = {f"NODE{n}": f"127.0.0.1:{node.port}" for n, node in enumerate(self.nodes, 1)}
        descriptor = self.listener.fileno()
        self.proxy = self.stage.spawn(
            "proxy",
            [programs.haproxy(), "-db", "-f", TESTS / "haproxy.cfg"],
            {"BIND": f"fd@{descriptor}", **nodes},
            pass_fds=[descriptor],
        )

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/ready", timeout=10) as response:
                return response.status == 200
        except OSError:
            return False

    def kill(self):
        for node in self.nodes:
            node.process.kill()

    def stop(self, deadline_s):
        """Ends it politely, which has to succeed with streams open."""
        for node in self.nodes:
            node.process.popen.terminate()
        for node in self.nodes:
            check_equal(node.process.wait(deadline_s), 0, f"exit code of the {node.name} after SIGTERM")

    def close(self):
        """When its processes have ended."""
        if self.listener:
            self.listener.close()
        if self.storage:
            self.storage.close()

    def request(self, kind, data):
        """One protocol request: (status, data)."""
        envelope = {"kind": kind, "head": {"corrId": "runner", "version": "2026-04-01"}, "data": data}
        headers = {"content-type": "application/json"}
        if self.stage.admin_token:
            headers["authorization"] = f"Bearer {self.stage.admin_token}"
        request = urllib.request.Request(f"{self.url}/", json.dumps(envelope).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        except OSError as error:
            raise Failure(f"{kind} did not reach the server: {error}") from error
        return answer["head"]["status"], answer["data"]

    def promise(self, promise_id):
        """The promise record, or None."""
        status, data = self.request("promise.get", {"id": promise_id})
        check(status in (200, 404), f"promise.get {promise_id}: {status} {data}")
        return data["promise"] if status == 200 else None

    def promises(self, **filters):
        status, data = self.request("promise.search", {"limit": 1000, **filters})
        check_equal(status, 200, "status of promise.search")
        return data["promises"]

    def task(self, task_id):
        """The task record, or None."""
        status, data = self.request("task.get", {"id": task_id})
        check(status in (200, 404), f"task.get {task_id}: {status} {data}")
        return data["task"] if status == 200 else None


class Log:
    """The file a worker appends `<function> <argument>` to."""

    def __init__(self, path):
        self.path = path

    def lines(self):
        try:
            return self.path.read_bytes().decode().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def count(self, line):
        return self.lines().count(line)

    def of(self, function):
        """The arguments of every execution of `function`, in order."""
        return [line.partition(" ")[2] for line in self.lines() if line.partition(" ")[0] == function]

    def written_at(self):
        """When its last line was appended."""
        return self.path.stat().st_mtime


class Worker:
    def __init__(self, process, log, group):
        self.process = process
        self.log = log
        self.group = group
        self.ready_at = None

    def wait_ready(self):
        self.ready_at, _ = self.process.wait_line(r"^ready$", "`ready`", READY_DEADLINE_S)
        return self

    def kill(self):
        self.process.kill()

    def ttl_ms(self, asked_ms):
        """The lease in force: an SDK may have a larger minimum than asked for, and says so."""
        found = self.process.line_matching(r"^ttl (\d+)$")
        return int(found[1].group(1)) if found else asked_ms


class Call:
    """A client command under way."""

    def __init__(self, process, command):
        self.process = process
        self.command = command
        self.started_at = time.time()

    def value(self, deadline_s=CLIENT_DEADLINE_S):
        """The result; raises SdkError or Unsupported when that is the answer."""
        code = self.process.wait(deadline_s)
        what = f"client {self.command['cmd']}"
        answer = self._answer()
        if answer is None:
            raise Failure(f"{what} gave no answer, exit code {code}")
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "error" in answer:
            _, marker, why = answer["error"].partition("unsupported:")
            if marker:
                raise Unsupported(why.strip())
            raise SdkError(answer["error"])
        check_equal(code, 0, f"exit code of {what}")
        return answer["ok"]

    def error(self, deadline_s=CLIENT_DEADLINE_S):
        """The error that the SDK surfaced; a result is a failure."""
        try:
            value = self.value(deadline_s)
        except SdkError as error:
            return str(error)
        raise Failure(f"client {self.command['cmd']} should have got an error, got {shorten(value)}")

    def _answer(self):
        for line in reversed(self.process.stdout):
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if isinstance(answer, dict) and answer.keys() & {"ok", "error", "unsupported"}:
                return answer
        return None


class Stage:
    """One run of one scenario: its directory, its server, and every process it started."""

    def __init__(self, adapter, server_binary, server_args=(), store="sqlite", prefix=None):
        self.adapter = adapter
        self.dir = Path(tempfile.mkdtemp(prefix="resonate-sdk-"))
        self.sdk_env = dict(adapter.env) if adapter else {}
        self.admin_token = None
        if prefix is not None:
            public, sign = sign_tokens(self.dir)
            server_args = [*server_args, "--auth-publickey", public]
            self.sdk_env["RESONATE_TOKEN"] = sign(prefix=prefix)
            self.admin_token = sign(role="admin")
        self.processes = []
        self.workers = []
        self.notes = []
        self.calls = 0
        self.server = Server(self, server_binary, server_args, store)

    def spawn(self, name, argv, env=None, stdin=None, pass_fds=()):
        # The directory is the working directory too: no stray resonate.toml is picked up.
        process = Process(name, argv, self.dir, env, stdin, pass_fds)
        self.processes.append(process)
        return process

    def worker(self, group="workers", ttl_ms=None, pid=None):
        """Starts a worker and waits until it listens."""
        return self.start_worker(group, ttl_ms, pid).wait_ready()

    def start_worker(self, group="workers", ttl_ms=None, pid=None):
        number = len(self.workers) + 1
        log = Log(self.dir / f"worker-{number}.log")
        argv = [self.adapter.program("worker"), "--url", self.server.url, "--group", group, "--log", log.path]
        argv += ["--ttl", ttl_ms] if ttl_ms else []
        argv += ["--pid", pid] if pid else []
        process = self.spawn(f"worker {number} ({group})", argv, self.sdk_env)
        worker = Worker(process, log, group)
        self.workers.append(worker)
        return worker

    def start(self, cmd, **fields):
        """Starts a client command without waiting for it."""
        command = {"cmd": cmd, **{key: value for key, value in fields.items() if value is not None}}
        self.calls += 1
        argv = [self.adapter.program("client"), "--url", self.server.url, "--group", f"client-{self.calls}"]
        text = json.dumps(command, ensure_ascii=False)
        by_stdin = len(text.encode()) > ARGV_BYTES_MAX
        process = self.spawn(
            f"client {self.calls} ({shorten(text)})",
            argv + ["-" if by_stdin else text],
            self.sdk_env,
            text if by_stdin else None,
        )
        return Call(process, command)

    def resonate(self, *args):
        """Starts the command line as a client of the server."""
        name = shorten(" ".join(["resonate", *args]))
        return self.spawn(name, [self.server.binary, *args], {"RESONATE_URL": self.server.url})

    def call(self, cmd, deadline_s=CLIENT_DEADLINE_S, **fields):
        """Runs a client command and returns its result."""
        return self.start(cmd, **fields).value(deadline_s)

    # The commands, by name; arguments of the function last.

    def rpc(self, promise_id, func, *args, group="workers", timeout_ms=None, deadline_s=CLIENT_DEADLINE_S):
        call = self.start("rpc", id=promise_id, func=func, args=args, group=group, timeout_ms=timeout_ms)
        return call.value(deadline_s)

    def begin(self, promise_id, func, *args, group="workers", timeout_ms=None):
        return self.call("begin", id=promise_id, func=func, args=args, group=group, timeout_ms=timeout_ms)

    def run(self, promise_id, func, *args, timeout_ms=None):
        return self.call("run", id=promise_id, func=func, args=args, timeout_ms=timeout_ms)

    def get(self, promise_id, deadline_s=CLIENT_DEADLINE_S):
        return self.call("get", deadline_s, id=promise_id)

    # What several workers did together.

    def executed(self, function):
        return [argument for worker in self.workers for argument in worker.log.of(function)]

    def check_executed_once_each(self, function, arguments):
        expected = sorted(str(argument) for argument in arguments)
        check_equal(sorted(self.executed(function)), expected, f"executions of {function}")

    def wait_executed(self, function, count, deadline_s=20):
        until(
            lambda: len(self.executed(function)) >= count,
            f"{count} executions of {function}",
            deadline_s,
            every_s=0.005,
        )

    def wait_asleep(self, task_id, margin_s):
        """Until the workflow is suspended on a timer that leaves at least `margin_s`: nobody works on it, and all it
        did is recorded."""

        def asleep():
            task = self.server.task(task_id)
            if not task or task["state"] != "suspended":
                return False
            others = [p for p in self.server.promises(state="pending") if p["id"] != task_id]
            return others and min(p["timeoutAt"] for p in others) / 1000 - time.time() >= margin_s

        until(asleep, f"{task_id} asleep for another {margin_s} s", every_s=0.01)

    def let_pass(self, seconds):
        """For conditions that *are* the passing of time, and for nothing else."""
        end = time.monotonic() + seconds
        until(lambda: time.monotonic() >= end, "time passes", seconds + 5)

    def note(self, text):
        """A figure for the report line."""
        self.notes.append(text)

    def tails(self):
        lines = [line for process in self.processes for line in process.tail()]
        for number, worker in enumerate(self.workers, 1):
            lines.append(f"--- log file of worker {number}")
            lines += [f"    {shorten(line)}" for line in worker.log.lines()[-TAIL_LINES:]]
        return lines

    def close(self, keep=False):
        for process in reversed(self.processes):
            process.kill()
        self.server.close()
        if not keep:
            shutil.rmtree(self.dir, ignore_errors=True)


def run_alone(name, stage, body):
    """The run of what is no scenario; prints how it went, and a summary. Answers an exit code."""
    started = time.monotonic()
    outcome, details, code = "PASS", [], 0
    try:
        body(stage)
    except Unsupported as why:
        outcome, details = "SKIP", [f"    {why}"]
    except (Failure, OSError) as failure:
        stage.close(keep=True)
        outcome, details, code = "FAIL", [f"    {failure}", *(f"    {line}" for line in stage.tails())], 1
    finally:
        stage.close()
    print("\n".join([f"{outcome} {name} {time.monotonic() - started:.2f}s", *details]))
    passed, failed, skipped = (int(outcome == of) for of in ("PASS", "FAIL", "SKIP"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return code


def built_server():
    """The program under test."""
    return Path(os.environ.get("RESONATE_BIN") or TESTS.parent / "target/debug/resonate").absolute()
