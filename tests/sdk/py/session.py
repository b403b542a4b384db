"""What worker and client share: the command line, the connection, and the wait until messages arrive."""

import argparse
import asyncio
import contextlib
import time
import uuid
from datetime import timedelta

from resonate.resonate import Resonate
from resonate.types import Value

import functions

PROBE_TIMEOUT_S = 60
STOP_TIMEOUT_S = 5


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--pid", help="process id (default: a random one)")
    parser.add_argument("--ttl", type=int, metavar="MS", help="lease length (default: the SDK's)")
    parser.add_argument("--log", metavar="FILE", help="where executions of the (log) functions are appended")
    return parser


async def connect(args: argparse.Namespace) -> Resonate:
    """Starts the SDK with every function registered."""
    functions.log_to(args.log)
    resonate = Resonate(
        url=args.url,
        group=args.group,
        pid=args.pid,
        ttl=None if args.ttl is None else timedelta(milliseconds=args.ttl),
    )
    functions.register_all(resonate)
    # The constructor only schedules the start of the network; 0.7.4 refuses requests until that has run.
    await asyncio.sleep(0)
    return resonate


async def listening(resonate: Resonate) -> None:
    """Returns once this process provably receives messages.

    The SDK does not say when its stream is open. So settle a promise that this process listens to: the answer
    can only come through the stream. The promise has no target, hence no task and no worker is involved.
    """
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    while True:
        try:
            return await asyncio.wait_for(_probe(resonate), deadline - time.monotonic())
        except TimeoutError:
            raise
        except Exception:  # The server may still be starting.
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _probe(resonate: Resonate) -> None:
    id = f"sdk-ready-{uuid.uuid4().hex}"
    timeout_at = int(time.time() * 1000) + PROBE_TIMEOUT_S * 1000
    await resonate.promises.create(id, timeout_at, Value(), {})
    handle = await resonate.get(id)
    await resonate.promises.resolve(id, Value(data=True))
    await handle.result()


async def stop(resonate: Resonate) -> None:
    """Stops the SDK, within bounds: it joins its background work, which may hang when the server is away."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(resonate.stop(), STOP_TIMEOUT_S)
