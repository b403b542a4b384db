#!/usr/bin/env python3
"""Programs that the tests run and that the project does not bring: found on this machine, or installed by apt-get.

    python3 tests/programs.py haproxy      says where it is
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

POSTGRES_VERSION_MIN = 15
POSTGRES_PROGRAMS = ("postgres", "initdb", "psql")
# Where Debian puts programs that are not for everybody's PATH.
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin")


class Missing(Exception):
    """A program is not there, and cannot be installed from here. Says what to do."""


@functools.cache
def postgres():
    """The folder with the programs of PostgreSQL, 15 or newer."""
    folder = find_postgres()
    if not folder:
        install("postgresql", f"PostgreSQL {POSTGRES_VERSION_MIN} or newer")
        folder = find_postgres()
    if not folder:
        raise Missing(f"the package postgresql is older than {POSTGRES_VERSION_MIN} here: install a newer PostgreSQL")
    return folder


@functools.cache
def haproxy():
    """The path of HAProxy."""
    path = find_haproxy()
    if not path:
        install("haproxy", "HAProxy")
        path = find_haproxy()
    if not path:
        raise Missing("the package haproxy brought no program of this name")
    return path


def share_dependencies(target, to):
    """Links what is built of other packages into another target directory: what is built there of this one does not
    get into a program that somebody else runs."""
    for part in ("build", "deps", ".fingerprint"):
        built = target / "debug" / part
        if built.is_dir():
            (to / "debug").mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-al", built, to / "debug"], check=True)


def find_haproxy():
    path = os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS])
    return shutil.which("haproxy", path=path)


def find_postgres():
    return next((folder for folder in postgres_folders() if is_new_enough(folder)), None)


def postgres_folders():
    """Where PostgreSQL may be, the best guess first."""
    if shutil.which("pg_config"):
        answer = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        yield Path(answer.stdout.strip() or "/nonexistent")
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(installed, key=lambda folder: version_of(folder.parent.name), reverse=True)
    found = shutil.which("postgres")
    if found:
        yield Path(found).resolve().parent


def is_new_enough(folder):
    if not all(os.access(folder / program, os.X_OK) for program in POSTGRES_PROGRAMS):
        return False
    answer = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    return version_of(answer.stdout) >= POSTGRES_VERSION_MIN


def version_of(text):
    found = re.search(r"\d+", text)
    return int(found.group()) if found else 0


def install(package, what):
    """Installs a package of Debian or Ubuntu, showing what it does on stderr."""
    if not shutil.which("apt-get"):
        raise Missing(f"the tests need {what}: install it, this system has no apt-get to do so")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if as_root and not shutil.which("sudo"):
        raise Missing(f"the tests need {what}: run `apt-get install {package}` as root")
    print(f"installing {package}, which the tests need", file=sys.stderr, flush=True)
    # `env` because sudo does not hand on what it does not know.
    apt = [*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes"]
    for command in (["update"], ["install", "--no-install-recommends", package]):
        if subprocess.run([*apt, *command], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode != 0:
            raise Missing(f"the tests need {what}, and `apt-get {' '.join(command)}` failed: install it yourself")


if __name__ == "__main__":
    try:
        print({"haproxy": haproxy, "postgres": postgres}[sys.argv[1]]())
    except Missing as error:
        sys.exit(f"tests/programs.py: {error}")
