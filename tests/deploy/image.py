#!/usr/bin/env python3
"""Carries out the Dockerfile where there is no container engine, runs the image, and lists what is in it.

    make image-root            as root, on Debian, with debootstrap; ten minutes and 4 GB in target/image

Each instruction is read from the Dockerfile and done in a directory, by chroot. What stands in for what: for an image of
Debian a bare root by debootstrap; for the image of Rust the same with a C compiler, as that has, and with this machine's
toolchain, whose version must be the one that the Dockerfile names; for layers nothing, so that what a cache keeps is not
tried. The image runs as its user, in its working directory, with its entry point and nothing in the environment but what
the test says; it has /proc and
the devices of /dev that engines give it, and the machine's network.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).resolve().parent.parent.parent
FOLDER = REPOSITORY / "target/image"
MIRROR = "http://deb.debian.org/debian"
# What the image of Rust has besides Debian and the toolchain.
RUST_PACKAGES = "ca-certificates,gcc,libc6-dev"
RUST_FOLDER, CARGO_FOLDER = "/usr/local/rustup", "/usr/local/cargo"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of what an engine puts into /dev, with the minor numbers.
DEVICES = {"null": 3, "zero": 5, "random": 8, "urandom": 9}
UP_DEADLINE_S = 30
STOP_DEADLINE_S = 15


class Failed(Exception):
    """What was expected of the image is not so."""


def check(is_so, what):
    if not is_so:
        raise Failed(what)


def say(text):
    print(f"--- {text}", flush=True)


@dataclass
class Stage:
    """A root file system, and what the instructions said about it."""

    root: Path
    env: dict = field(default_factory=lambda: {"PATH": PATH})
    folder: str = "/"
    user: str = "0:0"
    # What says how to run it: ENTRYPOINT, CMD, HEALTHCHECK, …
    said: dict = field(default_factory=dict)
    mounts: list = field(default_factory=list)

    def inside(self, path):
        """Where a path of the image is on this machine."""
        return self.root / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")

    def popen(self, command, env, **more):
        uid, gid = (int(part) for part in (self.user + ":0").split(":")[:2])

        def enter():
            os.chroot(self.root)
            os.chdir(self.folder)
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)

        return subprocess.Popen(command, env={**self.env, **env}, preexec_fn=enter, **more)

    def run(self, command, env=None):
        process = self.popen(command, env or {}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output, _ = process.communicate()
        return process.returncode, output

    def mount(self, *arguments, at):
        (self.root / at).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", *arguments, self.root / at], check=True)
        self.mounts.append(self.root / at)

    def unmount(self):
        while self.mounts:
            subprocess.run(["umount", self.mounts.pop()], check=True)


def instructions():
    """The Dockerfile's: name, flags (`--from=build`), rest."""
    for entry in DockerfileParser(str(REPOSITORY / "Dockerfile"), cache_content=True).structure:
        if entry["instruction"] == "COMMENT":
            continue
        words = entry["value"].split()
        flags = {}
        rest = entry["value"]
        while words and words[0].startswith("--"):
            name, _, value = words.pop(0)[2:].partition("=")
            flags[name] = value
            rest = rest.split(None, 1)[1]
        yield entry["instruction"], flags, rest


def debootstrap(root, suite, include=None):
    packages = [f"--include={include}"] if include else []
    subprocess.run(["debootstrap", "--variant=minbase", *packages, suite, root, MIRROR], check=True, stdout=subprocess.DEVNULL)
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")


def begin(image, number):
    """The stage that `FROM image` begins."""
    stage = Stage(FOLDER / f"stage{number}")
    stage.root.mkdir(parents=True)
    rust = re.fullmatch(r"rust:([0-9.]+)-slim-(\w+)", image)
    debian = re.fullmatch(r"debian:(\w+)-slim", image)
    if image == "scratch":
        return stage
    check(rust or debian, f"nothing stands in for the image {image}")
    if debian:
        debootstrap(stage.root, debian.group(1))
        return stage
    version = subprocess.run(["rustc", "--version"], cwd="/", check=True, capture_output=True, text=True).stdout
    check(version.startswith(f"rustc {rust.group(1)} "), f"the Dockerfile builds with {image}, here is {version}")
    debootstrap(stage.root, rust.group(2), RUST_PACKAGES)
    home = Path.home()
    rustup = os.environ.get("RUSTUP_HOME", home / ".rustup")
    programs = Path(os.environ.get("CARGO_HOME", home / ".cargo")) / "bin"
    stage.mount("--bind", "-o", "ro", rustup, at=RUST_FOLDER.lstrip("/"))
    stage.mount("--bind", "-o", "ro", programs, at=f"{CARGO_FOLDER}/bin".lstrip("/"))
    # A registry may be reached by way of a proxy that only this machine trusts: not a part of the image.
    shutil.copyfile(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"), stage.root / "run/roots.pem")
    stage.env["CARGO_HTTP_CAINFO"] = "/run/roots.pem"
    stage.env |= {"RUSTUP_HOME": RUST_FOLDER, "CARGO_HOME": CARGO_FOLDER, "PATH": f"{CARGO_FOLDER}/bin:{PATH}"}
    return stage


def is_sent(path):
    """Whether .dockerignore lets a path of the clone through: the last line that fits decides."""
    sent = True
    parts = Path(path).parts
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!").strip("/")
        if pattern and not line.startswith("#") and any(fnmatch.fnmatch(name, pattern) for name in above):
            sent = line.startswith("!")
    return sent


def context(source):
    """The files below a path of the clone that an engine is sent."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", source],
                            cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split("\n")
    files = [name for name in listed if name and is_sent(name)]
    check(files, f"COPY {source}: .dockerignore keeps all of it back")
    return files


def copy(stage, stages, flags, rest):
    check(set(flags) <= {"from", "chown"}, f"COPY with {flags} is not understood here")
    *sources, target = rest.split()
    owner = [int(part) for part in flags.get("chown", "0:0").split(":")]
    into = stage.inside(target)
    for source in sources:
        if "from" in flags:
            copied = place(stages[flags["from"]].inside(source), into, target.endswith("/"))
        else:
            base = REPOSITORY / source
            copied = []
            for name in context(source):
                # What is in a directory goes into the target; a file may be named anew.
                below = (REPOSITORY / name).relative_to(base) if base.is_dir() else Path(base.name)
                is_renamed = base.is_file() and len(sources) == 1 and not (target.endswith("/") or into.is_dir())
                copied += place(REPOSITORY / name, into if is_renamed else into / below, False)
        for path in copied:
            os.chown(path, *owner, follow_symlinks=False)


def place(source, target, is_folder):
    """Copies a file or what is in a directory; answers what is new."""
    if source.is_dir():
        is_new = not target.exists()
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        below = [target / path.relative_to(source) for path in source.rglob("*")]
        return below + ([target] if is_new else [])
    target = target / source.name if is_folder or target.is_dir() else target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    return [target]


def words_of(rest):
    """The exec form as a list, the shell form as a shell."""
    return json.loads(rest) if rest.startswith("[") else ["/bin/sh", "-c", rest]


def build(stages):
    """Carries out all instructions; answers the last stage."""
    stage = None
    for name, flags, rest in instructions():
        say(" ".join([name, *(f"--{flag}={value}" for flag, value in flags.items()), rest])[:160])
        match name:
            case "FROM":
                image, *alias = rest.split()
                stage = stages[image] if image in stages else begin(image, len(stages))
                stages[alias[-1] if alias else str(len(stages))] = stage
            case "RUN":
                if not (stage.root / "proc/self").exists():
                    stage.mount("-t", "proc", "proc", at="proc")
                code, output = stage.run(["/bin/sh", "-c", rest])
                print("".join(f"    {line}\n" for line in output.splitlines()[-4:]), end="", flush=True)
                check(code == 0, f"RUN failed with {code}:\n{output}")
            case "COPY":
                copy(stage, stages, flags, rest)
            case "WORKDIR":
                stage.folder = os.path.join(stage.folder, rest)
                stage.inside("").mkdir(parents=True, exist_ok=True)
            case "ENV":
                stage.env |= dict(word.split("=", 1) for word in shlex.split(rest))
            case "USER":
                stage.user = rest
            case "ENTRYPOINT" | "CMD":
                stage.said[name] = words_of(rest)
            case "HEALTHCHECK":
                stage.said[name] = words_of(rest.split(None, 1)[1])
            case "EXPOSE" | "VOLUME" | "STOPSIGNAL" | "LABEL":
                stage.said[name] = rest
            case _:
                raise Failed(f"{name} is not understood here")
    return stage


def listing(stage):
    """What is in the image: path and size of every file, and what the user may write."""
    files = [path for path in sorted(stage.root.rglob("*")) if not path.is_symlink()]
    total = 0
    for path in files:
        info = path.stat()
        if path.is_file():
            total += info.st_size
            print(f"{info.st_size:>10}  {info.st_uid}:{info.st_gid}  {stat.filemode(info.st_mode)}  /{path.relative_to(stage.root)}")
        elif not any(path.iterdir()):
            print(f"{'':>10}  {info.st_uid}:{info.st_gid}  {stat.filemode(info.st_mode)}  /{path.relative_to(stage.root)}/")
    print(f"{total:>10}  bytes in {sum(path.is_file() for path in files)} files", flush=True)
    status = stage.root / "var/lib/dpkg/status.d"
    packages = sorted(path.name for path in status.iterdir()) if status.exists() else []
    print(f"packages of Debian, in part: {' '.join(packages)}")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def container(stage):
    """The running image: its process, and what its environment says besides."""
    port, metrics = free_port(), free_port()
    env = {
        "RESONATE_SERVER__PORT": str(port),
        "RESONATE_OBSERVABILITY__METRICS_PORT": str(metrics),
        "RESONATE_URL": f"http://localhost:{port}",
    }
    stage.mount("-t", "proc", "proc", at="proc")
    (stage.root / "dev").mkdir(exist_ok=True)
    for name, minor in DEVICES.items():
        os.mknod(stage.root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        os.chmod(stage.root / "dev" / name, 0o666)
    shutil.copyfile("/etc/hosts", stage.root / "etc/hosts")
    process = stage.popen(stage.said["ENTRYPOINT"] + stage.said["CMD"], env)
    try:
        yield process, env, metrics
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def try_out(stage):
    health = stage.said["HEALTHCHECK"]
    with container(stage) as (process, env, metrics):
        code, said = stage.run(health, {"RESONATE_URL": "http://localhost:1"})
        check(code == 1 and said.startswith("Error: "), f"without a server the health check says {code} {said!r}")
        deadline = time.monotonic() + UP_DEADLINE_S
        code = None
        while code != 0:
            check(process.poll() is None, f"the server ended: {process.returncode}")
            check(time.monotonic() < deadline, f"not healthy after {UP_DEADLINE_S} s: {said}")
            code, said = stage.run(health, env)
            time.sleep(0.05)
        say(f"health check: {said.strip()}")
        client = stage.said["ENTRYPOINT"] + ["promises", "create", "image.1", "--timeout", "1h"]
        code, said = stage.run(client, env)
        check(code == 0 and '"image.1"' in said, f"promises create: {code} {said}")
        with urllib.request.urlopen(f"http://localhost:{metrics}/metrics") as page:
            check(b"resonate_request_total" in page.read(), "no metrics")
        # Roots are read when a client for https is made: the error is the handshake's, not theirs.
        code, said = stage.run(stage.said["ENTRYPOINT"] + ["health"], {"RESONATE_URL": env["RESONATE_URL"].replace("http:", "https:")})
        check(code == 1 and "certificate" not in said, f"https: {code} {said}")
        say(f"https to a port without TLS: {said.strip()}")
        uids = re.search(r"^Uid:\t(.*)$", Path(f"/proc/{process.pid}/status").read_text(), re.M).group(1).split()
        check(set(uids) == {stage.user.split(":")[0]} and "0" not in uids, f"it runs as {uids}")
        say(f"runs as {stage.user}")
        database = stage.root / "data/resonate.db"
        check(database.exists() and str(database.stat().st_uid) in uids, "no database in /data")
        started = time.monotonic()
        process.send_signal(getattr(signal, stage.said["STOPSIGNAL"]))
        code = process.wait(STOP_DEADLINE_S)
        check(code == 0, f"{stage.said['STOPSIGNAL']}: exit code {code}")
        say(f"{stage.said['STOPSIGNAL']}: exit code 0 after {time.monotonic() - started:.2f} s")


def main():
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("tests/deploy/image.py needs root (chroot), and the package debootstrap")
    if str(FOLDER) in Path("/proc/self/mounts").read_text():
        sys.exit(f"something is still mounted below {FOLDER}: unmount it first")
    if FOLDER.exists():
        shutil.rmtree(FOLDER)
    stages = {}
    try:
        image = build(stages)
        say("contents")
        listing(image)
        try_out(image)
    except Failed as failure:
        print(f"failed: {failure}")
        return 1
    finally:
        for stage in stages.values():
            stage.unmount()
    print("passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
