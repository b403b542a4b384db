#!/usr/bin/env python3
"""Uses `resonate mcp` as the README says, with the official MCP library for Python; see mcp/client.py.

    python3 tests/sdk/mcp_client.py

The program is $RESONATE_BIN or target/debug/resonate. The library is installed in `.env/mcp-<version>`, inside the clone.
"""

import json
import os
import re
import sys
from pathlib import Path

from harness import Failure, Stage, Unsupported, built_server, check, check_equal, run_alone

HERE = Path(__file__).resolve().parent
README = HERE.parent.parent / "README.md"
VERSION = "2.3.0"
ENVIRONMENT = HERE / ".env" / f"mcp-{VERSION}"
BASH = ["--transports-bash-exec-enabled", "true"]
RUNTIME_MISSING = 77
SETUP_DEADLINE_S = 600
CLIENT_DEADLINE_S = 120


def install(stage):
    setup = [HERE / "venv", ENVIRONMENT, HERE / "mcp/constraints.txt", f"mcp=={VERSION}"]
    process = stage.spawn("setup", setup)
    code = process.wait(SETUP_DEADLINE_S)
    if code == RUNTIME_MISSING:
        raise Unsupported("; ".join(text for _, text in process.lines))
    if code != 0:
        raise Failure(f"setup: exit code {code}")


def entry(stage):
    """The README's entry for clients, but for where the program and its server are."""
    section = re.search(r"^## Agents\n.*?^```json\n(.*?)^```$", README.read_text(), re.M | re.S)
    check(section, "README.md has no entry for MCP clients")
    entry = json.loads(section.group(1))["mcpServers"]["resonate"]
    check_equal(entry["env"], {"RESONATE_URL": "http://localhost:8001"}, "README.md's environment")
    path = os.pathsep.join([str(stage.server.binary.parent), os.environ["PATH"]])
    return json.dumps({**entry, "env": {"RESONATE_URL": stage.server.url, "PATH": path}})


def run(stage):
    install(stage)
    stage.server.start()
    python = ENVIRONMENT / "venv/bin/python"
    client = stage.spawn("client", [python, HERE / "mcp/client.py", entry(stage)])
    code = client.wait(CLIENT_DEADLINE_S)
    if code != 0:
        raise Failure(f"the client failed: exit code {code}")
    for line in client.stdout:
        print(line)


if __name__ == "__main__":
    sys.exit(run_alone(f"mcp {VERSION}", Stage(None, built_server(), BASH), run))
