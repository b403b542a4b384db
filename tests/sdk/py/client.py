"""The `client` program of the contract (../CONTRACT.md): runs one command, prints one JSON line."""

import asyncio
import json
import sys
import time
from datetime import timedelta
from typing import Any

from resonate.error import ApplicationError
from resonate.handle import ResonateHandle
from resonate.resonate import Resonate
from resonate.types import Value

import session

Answer = dict[str, Any]


def timeout_of(command: Answer) -> timedelta | None:
    """The command's timeout; None leaves it to the SDK."""
    ms = command.get("timeout_ms")
    return None if ms is None else timedelta(milliseconds=ms)


def call_remote(resonate: Resonate, command: Answer) -> ResonateHandle[Any]:
    remote = resonate.options(timeout=timeout_of(command), target=command["group"])
    return remote.rpc(command["id"], command["func"], *command.get("args", []))


async def timed_result(handle: ResonateHandle[Any], started: float) -> Answer:
    value = await handle.result()
    return {"ok": value, "latency_ms": round((time.monotonic() - started) * 1000, 3)}


async def rpc(resonate: Resonate, command: Answer) -> Answer:
    started = time.monotonic()
    return await timed_result(call_remote(resonate, command), started)


async def begin(resonate: Resonate, command: Answer) -> Answer:
    # The call returns before the promise exists; its id is handed out once it does.
    return {"ok": await call_remote(resonate, command).id()}


async def run(resonate: Resonate, command: Answer) -> Answer:
    started = time.monotonic()
    local = resonate.options(timeout=timeout_of(command))
    handle = local.run(command["id"], command["func"], *command.get("args", []))
    return await timed_result(handle, started)


async def get(resonate: Resonate, command: Answer) -> Answer:
    started = time.monotonic()
    return await timed_result(await resonate.get(command["id"]), started)


async def resolve(resonate: Resonate, command: Answer) -> Answer:
    record = await resonate.promises.resolve(command["id"], Value(data=command.get("value")))
    return {"ok": record.id}


async def reject(resonate: Resonate, command: Answer) -> Answer:
    # An exception is encoded as the error that the awaiting workflow then sees, with this very message.
    value = command.get("value")
    message = value if isinstance(value, str) else json.dumps(value)
    record = await resonate.promises.reject(command["id"], Value(data=ApplicationError(message)))
    return {"ok": record.id}


async def schedule(resonate: Resonate, command: Answer) -> Answer:
    await resonate.options(target=command["group"]).schedule(
        command["id"],
        command["cron"],
        command["func"],
        args=tuple(command.get("args", [])),
        promise_timeout=timeout_of(command),
    )
    return {"ok": command["id"]}


async def many(resonate: Resonate, command: Answer) -> Answer:
    slots = asyncio.Semaphore(command["concurrency"])

    async def one(index: int) -> Any:
        argument = str(index) if command["func"] == "hello" else index
        call = command | {"id": f"{command['prefix']}{index}", "args": [argument]}
        async with slots:
            return await call_remote(resonate, call).result()

    started = time.monotonic()
    results = await asyncio.gather(*(one(i) for i in range(command["count"])))
    return {"ok": results, "latency_ms": round((time.monotonic() - started) * 1000, 3)}


COMMANDS = {command.__name__: command for command in (rpc, begin, run, get, resolve, reject, schedule, many)}


async def execute(resonate: Resonate, command: Answer) -> Answer:
    try:
        return await COMMANDS[command["cmd"]](resonate, command)
    except (KeyboardInterrupt, SystemExit, asyncio.CancelledError):
        raise
    except BaseException as error:  # The SDK's platform failures are no `Exception`s.
        return {"error": f"{type(error).__name__}: {error}"}


async def main() -> None:
    parser = session.argument_parser()
    parser.add_argument("command", help="one JSON object, or - for standard input")
    args = parser.parse_args()
    command = json.loads(sys.stdin.buffer.read() if args.command == "-" else args.command)
    resonate = await session.connect(args)
    answer = await execute(resonate, command)
    await session.stop(resonate)
    print(json.dumps(answer), flush=True)


asyncio.run(main())
