#!/usr/bin/env python3
"""Has the Dockerfile, what is in deploy/ and docs/openapi.yaml read by tools that know them.

    python3 tests/deploy/check.py

The tools come from PyPI, pinned in requirements.txt, and are installed in `tests/sdk/.env/deploy`, inside the clone; systemd and
kubectl are used if this machine has them. Nothing is started: that is what image.py does. What the settings mean to the
server is asked by tests/docs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
ENVIRONMENT = REPOSITORY / "tests/sdk/.env/deploy"
UNIT = "deploy/systemd/resonate.service"
MANIFESTS = sorted(
    str(path) for path in (REPOSITORY / "deploy/kubernetes").glob("*.yaml") if path.name != "kustomization.yaml"
)
# Of 10, as `systemd-analyze security` counts; what the unit needs the network for is 0.8 of it.
EXPOSURE_MAX = 1.5
RUNTIME_MISSING = 77
DEADLINE_S = 300


class Failed(Exception):
    """Says what a tool said."""


class Skipped(Exception):
    """A program is not on this machine."""


def run(*command, env=None):
    command = [str(word) for word in command]
    environment = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    if done.returncode == RUNTIME_MISSING:
        raise Skipped(done.stderr.strip())
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def tool(name, *arguments):
    return run(ENVIRONMENT / "venv/bin" / name, *arguments)


def found(program):
    if shutil.which(program) is None:
        raise Skipped(f"{program} is not on this machine")
    return program


def install():
    requirements = HERE / "requirements.txt"
    run(REPOSITORY / "tests/sdk/venv", ENVIRONMENT, requirements, f"--requirement={requirements}")


def dockerfile():
    tool("hadolint", "Dockerfile")


def compose():
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")
    # Every file that a container is given is there.
    text = (REPOSITORY / "deploy/compose.yaml").read_text()
    for name in re.findall(r"^ +- \./([^:]+):", text, re.M):
        if not (REPOSITORY / "deploy" / name).is_file():
            raise Failed(f"deploy/compose.yaml mounts {name}, which is not there")


def kubernetes():
    said = tool("kubernetes-validate", "--strict", *MANIFESTS)
    if "WARN" in said:
        raise Failed(said)
    listed = (REPOSITORY / "deploy/kubernetes/kustomization.yaml").read_text()
    for path in MANIFESTS:
        if f"  - {Path(path).name}\n" not in listed:
            raise Failed(f"kustomization.yaml does not list {path}")


def kustomize():
    rendered = run(found("kubectl"), "kustomize", "deploy/kubernetes")
    if len(re.findall(r"^kind: ", rendered, re.M)) != len(MANIFESTS):
        raise Failed(rendered)


def unit():
    # It looks for the programs that a unit names.
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "resonate")
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        text = (REPOSITORY / UNIT).read_text().replace("/usr/local/bin/resonate", str(program))
        there = Path(folder, Path(UNIT).name)
        there.write_text(text)
        run(found("systemd-analyze"), "verify", there)
        said = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:.0f}", there)
    print("    " + said.strip().splitlines()[-1])


def openapi():
    tool("openapi-spec-validator", "docs/openapi.yaml")


def main():
    passed = failed = skipped = 0
    for check in (install, dockerfile, compose, kubernetes, kustomize, unit, openapi):
        try:
            check()
        except Skipped as reason:
            print(f"skipped: {check.__name__}: {reason}")
            skipped += 1
            if check is install:
                break
        except (Failed, OSError, subprocess.TimeoutExpired) as failure:
            print(f"failed: {check.__name__}: {failure}")
            failed += 1
            if check is install:
                break
        else:
            print(f"passed: {check.__name__}")
            passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
