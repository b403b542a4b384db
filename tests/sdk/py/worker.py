"""The `worker` program of the contract (../CONTRACT.md)."""

import asyncio

import session


async def main() -> None:
    args = session.argument_parser().parse_args()
    resonate = await session.connect(args)
    await session.listening(resonate)
    print("ready", flush=True)
    # Until killed: the scenarios want a worker that dies without a goodbye, so there is no signal handler.
    await asyncio.Event().wait()


asyncio.run(main())
