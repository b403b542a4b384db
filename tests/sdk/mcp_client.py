#!/usr/bin/env python3
"""Uses `resonate mcp` with the official MCP library for Python, see mcp/client.py.

    python3 tests/sdk/mcp_client.py

The program is $RESONATE_BIN or target/debug/resonate. The library is installed in `.env/mcp-<version>`, inside the clone.
"""

import sys
from pathlib import Path

from harness import Failure, Stage, Unsupported, built_server, run_alone

HERE = Path(__file__).resolve().parent
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


def run(stage):
    install(stage)
    stage.server.start()
    python = ENVIRONMENT / "venv/bin/python"
    client = stage.spawn("client", [python, HERE / "mcp/client.py", stage.server.binary, stage.server.url])
    code = client.wait(CLIENT_DEADLINE_S)
    if code != 0:
        raise Failure(f"the client failed: exit code {code}")
    for line in client.stdout:
        print(line)


if __name__ == "__main__":
    sys.exit(run_alone(f"mcp {VERSION}", Stage(None, built_server(), BASH), run))
