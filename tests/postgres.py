#!/usr/bin/env python3
"""A PostgreSQL cluster of the tests' own: in a temporary directory, on a free port of 127.0.0.1, gone afterwards.

    python3 tests/postgres.py run -- cargo test        runs a command that has a cluster
    python3 tests/postgres.py serve                    keeps one, and does what it is told on standard input

`run` hands its command this environment:

    RESONATE_TEST_POSTGRES               URL of the maintenance database, as superuser, without TLS
    RESONATE_TEST_POSTGRES_CERTIFICATE   the self-signed certificate of the server, for sslmode=verify-full

`serve` prints the values of the two, a line each, and reads commands: `stop HOW`, `start`, `restart HOW`, where HOW is
`fast` or `immediate`. Each is answered with `ok` or `error REASON`. At the end of its input it ends the cluster and
itself.

Everybody may connect as `resonate` without a password, over TLS or not; the role `locked` needs its password,
`locked-password`, and may do as much. Text sorts by the rules of a language unless a statement says otherwise, because
the databases of users do. fsync is on: what the tests say about durability is meant.
"""

import argparse
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import programs

SUPERUSER = "resonate"
# Three nodes with a pool each, as many times as tests run beside each other.
CONNECTIONS_MAX = 500
START_DEADLINE_S = 60
STOP_DEADLINE_S = 60
# Another process may take the port between the moment it was free and the start.
PORTS_TRIED_MAX = 5
# What a command gets to clean up after an interrupt.
GRACE_S = 20
# How PostgreSQL is told to go: with everything written, or as in a crash.
SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

CONFIGURATION = """
listen_addresses = '127.0.0.1'
max_connections = {connections}
unix_socket_directories = '{home}'
ssl = on
ssl_cert_file = '{home}/server.crt'
ssl_key_file = '{home}/server.key'
log_line_prefix = '%m [%p] %u@%d '
"""
ACCESS = """
local all all trust
host all locked 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


class Failed(Exception):
    """PostgreSQL did not do as it was told."""


class Cluster:
    """A cluster, as a context manager: running inside, gone after. Its port stays the same across restarts."""

    def __init__(self):
        self.bin = programs.postgres()
        self.account = unprivileged_account()
        self.home = None
        self.port = None
        self.process = None

    @property
    def url(self):
        # Without TLS unless a test asks for it: setting it up takes longer than all else that most of them do.
        return f"postgres://{SUPERUSER}@127.0.0.1:{self.port}/postgres?sslmode=disable"

    @property
    def certificate(self):
        return self.home / "server.crt"

    @property
    def environment(self):
        return {
            "RESONATE_TEST_POSTGRES": self.url,
            "RESONATE_TEST_POSTGRES_CERTIFICATE": str(self.certificate),
        }

    def __enter__(self):
        self.home = Path(tempfile.mkdtemp(prefix="resonate-postgres-"))
        try:
            self._create()
            self._start_on_a_free_port()
            sql(self.url, "CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'locked-password'")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends it without ceremony: nothing of it is needed any more."""
        try:
            if self.process and self.process.poll() is None:
                self.stop("immediate")
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def start(self):
        command = [self.bin / "postgres", "-D", self.home / "data", "-p", self.port]
        # Should this very process be killed, PostgreSQL gets SIGQUIT: it ends at once, with all its children.
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "QUIT", *command]
        with open(self.home / "log", "ab") as log:
            self.process = self._spawn(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait(self._is_ready, START_DEADLINE_S, "PostgreSQL does not start")

    def stop(self, how):
        self.process.send_signal(SIGNALS[how])
        try:
            self.process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failed(f"PostgreSQL does not stop ({how})") from None

    def restart(self, how):
        self.stop(how)
        self.start()

    def _create(self):
        certificate = ["-keyout", self.home / "server.key", "-out", self.certificate]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        # rustls takes no authority for a server.
        names += ["-addext", "basicConstraints=critical,CA:FALSE"]
        run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *certificate])
        (self.home / "server.key").chmod(0o600)
        if self.account:
            for path in [self.home, *self.home.iterdir()]:
                os.chown(path, self.account.pw_uid, self.account.pw_gid)
        options = ["--encoding", "UTF8", "--locale", "C", "--locale-provider", "icu", "--icu-locale", "en-US"]
        initdb = [self.bin / "initdb", "--username", SUPERUSER, "--auth", "trust", "--no-sync", *options]
        self._run([*initdb, "-D", self.home / "data"])
        text = CONFIGURATION.format(home=self.home, connections=CONNECTIONS_MAX)
        with open(self.home / "data" / "postgresql.conf", "a", encoding="utf-8") as configuration:
            configuration.write(text)
        (self.home / "data" / "pg_hba.conf").write_text(ACCESS)

    def _start_on_a_free_port(self):
        for attempt in range(1, PORTS_TRIED_MAX + 1):
            self.port = free_port()
            try:
                return self.start()
            except Failed:
                is_taken = "Address already in use" in (self.home / "log").read_text("utf-8", "replace")
                if not is_taken or attempt == PORTS_TRIED_MAX:
                    raise

    def _is_ready(self):
        if self.process.poll() is not None:
            raise Failed(f"PostgreSQL ended with exit code {self.process.returncode}:\n{self._log_tail()}")
        try:
            lines = (self.home / "data" / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        # The file of one that was killed names another process.
        return len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"

    def _log_tail(self):
        return "\n".join((self.home / "log").read_text("utf-8", "replace").split("\n")[-40:])

    def _run(self, command):
        return run(command, **self._identity())

    def _spawn(self, command, **options):
        command = [str(word) for word in command]
        # In a session of its own: a Ctrl-C in the terminal is ours to handle, in our order.
        return subprocess.Popen(command, start_new_session=True, **self._identity(), **options)

    def _identity(self):
        if not self.account:
            return {"cwd": self.home}
        ids = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return {"cwd": self.home, **ids}


def unprivileged_account():
    """Whose processes they are: PostgreSQL refuses to run as root. None for the present user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            pass
    raise Failed("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def run(command, **options):
    """Runs a command to its end; answers what it printed."""
    command = [str(word) for word in command]
    answer = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options
    )
    output = answer.stdout.decode("utf-8", "replace")
    if answer.returncode != 0:
        raise Failed(f"`{' '.join(command)}` failed:\n{output}")
    return output


def sql(url, statement):
    """Runs one statement; answers its rows as psql prints them, a line each."""
    psql = [programs.postgres() / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]
    return run([*psql, "--set", "ON_ERROR_STOP=1", "--dbname", url, "--command", statement])


def database_url(url, database):
    """The URL of another database of the same cluster."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()


def wait(condition, deadline_s, what):
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what} within {deadline_s} s")
        time.sleep(0.01)


def run_command(command):
    """Runs a command that has a cluster; answers its exit code."""
    with Cluster() as cluster:
        environment = {**os.environ, **cluster.environment}
        # In a session of its own, so that it can be ended with all that it started.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return process.wait()
        finally:
            end(process)


def end(process):
    """Ends a command that was interrupted: politely, then for good."""
    for how in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, how)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            pass


def serve():
    with Cluster() as cluster:
        for value in cluster.environment.values():
            print(value, flush=True)
        for line in sys.stdin:
            print(obey(cluster, line.split()), flush=True)
    return 0


def obey(cluster, words):
    try:
        match words:
            case ["start"]:
                cluster.start()
            case ["stop", how] if how in SIGNALS:
                cluster.stop(how)
            case ["restart", how] if how in SIGNALS:
                cluster.restart(how)
            case _:
                return f"error no such command: {' '.join(words)}"
    except Failed as error:
        return f"error {error}".replace("\n", " | ")
    return "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    modes.add_parser("run", help="run a command").add_argument("command", nargs="+")
    modes.add_parser("serve", help="do as told on standard input")
    options = parser.parse_args()
    return run_command(options.command) if options.mode == "run" else serve()


if __name__ == "__main__":
    # Either way everything that was started is ended. SIGINT too, because a background job inherits it ignored.
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    try:
        sys.exit(main())
    except (Failed, programs.Missing) as error:
        sys.exit(f"tests/postgres.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
