"""The functions of the contract (../CONTRACT.md), written with the SDK's public API.

The same code serves every supported SDK version: their `Context` is called the same way.
"""

import asyncio
import os
from datetime import timedelta
from typing import Any

from resonate.context import Context
from resonate.resonate import Resonate
from resonate.retry import Never

_log_path: str | None = None


def log_to(path: str | None) -> None:
    """Names the file that executions of the (log) functions are appended to."""
    global _log_path
    _log_path = path


def _log(function: str, argument: object) -> None:
    """Appends one line with one write, so that lines of concurrent workers never interleave."""
    if _log_path is None:
        return
    fd = os.open(_log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, f"{function} {argument}\n".encode())
    finally:
        os.close(fd)


async def hello(ctx: Context, name: str) -> str:
    _log("hello", name)
    return "hello " + name


async def fail(ctx: Context, message: str) -> None:
    raise RuntimeError(message)


async def slow(ctx: Context, tag: str, ms: int) -> str:
    _log("slow", tag)
    await asyncio.sleep(ms / 1000)
    return tag


async def blob(ctx: Context, n: int) -> str:
    return "x" * n


async def square(ctx: Context, n: int) -> int:
    return n * n


async def fanout(ctx: Context, n: int) -> int:
    # A future is under way as soon as it exists; awaiting only afterwards makes the children concurrent.
    futures = [ctx.run(square, i) for i in range(n)]
    return sum([await future for future in futures])


async def fanout_rpc(ctx: Context, n: int, group: str) -> int:
    remote = ctx.options(target=group)
    futures = [remote.rpc("square", i) for i in range(n)]
    return sum([await future for future in futures])


async def recurse(ctx: Context, d: int) -> int:
    return 0 if d <= 0 else 1 + await ctx.run(recurse, d - 1)


async def recurse_rpc(ctx: Context, d: int) -> int:
    # No target: a remote call goes to the caller's own group by default.
    return 0 if d <= 0 else 1 + await ctx.rpc("recurse_rpc", d - 1)


async def remote_hello(ctx: Context, name: str, group: str) -> str:
    return "via " + await ctx.options(target=group).rpc("hello", name)


async def nap(ctx: Context, ms: int) -> str:
    await ctx.sleep(timedelta(milliseconds=ms))
    return "rested"


async def tick(ctx: Context, i: int) -> int:
    _log("tick", i)
    return i


async def countdown(ctx: Context, n: int, ms: int) -> str:
    _log("countdown", n)
    for i in range(n):
        await ctx.run(tick, i)
        await ctx.sleep(timedelta(milliseconds=ms))
    return "done"


async def ask(ctx: Context, promise_id: str) -> Any:
    # The SDK chooses the id; `promise_id` is only part of the contract's signature.
    return await ctx.promise()


async def child_id(ctx: Context, id: str) -> str:
    raise RuntimeError("unsupported: no call of Context takes an id, the SDK derives it from the parent's")


async def echo(ctx: Context, value: Any) -> Any:
    return value


async def steps(ctx: Context, n: int, ms: int) -> int:
    for i in range(n):
        await ctx.run(slow, f"s{i}", ms)
    return n


FUNCTIONS = (
    hello,
    slow,
    blob,
    square,
    fanout,
    fanout_rpc,
    recurse,
    recurse_rpc,
    remote_hello,
    nap,
    tick,
    countdown,
    ask,
    echo,
    steps,
)


def register_all(resonate: Resonate) -> None:
    for function in FUNCTIONS:
        resonate.register(function)
    # A leaf that fails is retried for minutes by default; the scenarios want the first failure.
    for function in (fail, child_id):
        resonate.register(function, retry_policy=Never())
