"""What an agent does with `resonate mcp`, by the official MCP library for Python. Run by ../mcp_client.py.

    client.py <entry>    what starts it, as JSON

Prints a line for every step that went as it should, and fails at the first that did not.
"""

import asyncio
import base64
import json
import sys
import time

from mcp import Client, StdioServerParameters
from mcp.client import ClientExtension, NotificationBinding
from pydantic import BaseModel

DEADLINE_S = 20
TOOLS = [
    "promise-create",
    "promise-get",
    "promise-settle",
    "promise-search",
    "promise-listen",
    "resonate-bash",
]


class Told(BaseModel):
    """The params of a channel notification."""

    content: str
    meta: dict[str, str]


class Channel(ClientExtension):
    """Hears of settled promises."""

    identifier = "com.example/channel"

    def __init__(self):
        self.told = asyncio.Queue()

    def notifications(self):
        return [NotificationBinding(method="notifications/claude/channel", params_type=Told, handler=self.told.put)]

    async def next(self):
        return await asyncio.wait_for(self.told.get(), DEADLINE_S)


def equal(actual, expected):
    if actual != expected:
        raise AssertionError(f"expected {expected!r}, got {actual!r}")


def step(text):
    print(f"step {text}", flush=True)


async def call(client, tool, **arguments):
    """The JSON that a tool returns."""
    result = await client.call_tool(tool, arguments)
    [content] = result.content
    if result.is_error:
        raise AssertionError(f"{tool}: {content.text}")
    return json.loads(content.text)


async def refusal(client, tool, **arguments):
    """The text of a tool's error."""
    result = await client.call_tool(tool, arguments)
    [content] = result.content
    equal(result.is_error, True)
    return content.text


async def use(client, channel):
    equal(client.protocol_version, "2025-11-25")
    equal(client.server_info.name, "resonate-mcp")
    equal(client.server_capabilities.experimental, {"claude/channel": {}})
    step("connects")

    tools = (await client.list_tools()).tools
    equal([tool.name for tool in tools], TOOLS)
    equal([tool.input_schema["type"] for tool in tools], ["object"] * len(TOOLS))
    equal(tools[0].input_schema["required"], ["id", "timeout_at"])
    step("lists the tools")

    far = int(time.time() * 1000) + 3_600_000
    about = {"data": {"invoice": 7}, "headers": {"by": "ada"}}
    ids = ["approval-1", "approval-2", "approval-3"]
    for promise_id in ids:
        created = await call(
            client, "promise-create", id=promise_id, timeout_at=far, param=about, tags={"team": "billing"}
        )
        equal(created["promise"]["state"], "pending")
        equal(json.loads(base64.b64decode(created["promise"]["param"]["data"])), {"invoice": 7})
        equal(await call(client, "promise-get", id=promise_id), created)
    step("creates and gets")

    found = await call(client, "promise-search", tags={"team": "billing"}, state="pending")
    equal([promise["id"] for promise in found["promises"]], ids)
    step("searches")

    statuses = {"resolve": "resolved", "reject": "rejected", "cancel": "canceled"}
    for promise_id, (resolution, status) in zip(ids, statuses.items()):
        pending = await call(client, "promise-listen", id=promise_id)
        equal(pending["promise"]["state"], "pending")
        settled = await call(client, "promise-settle", id=promise_id, resolution=resolution, value={"data": "yes"})
        told = await channel.next()
        equal(told.meta, {"handle": promise_id, "status": status})
        equal(json.loads(told.content), settled["promise"])
        equal(base64.b64decode(settled["promise"]["value"]["data"]), b"yes")
    step("settles what it listens to, and is told")

    script = "while [ ! -e go ]; do sleep 0.02; done; echo done"
    for promise_id, text in [("script-1", script), ("script-2", "touch go")]:
        started = await call(client, "resonate-bash", id=promise_id, script=text)
        equal(started["target"], "bash://")
    outcomes = {told.meta["handle"]: json.loads(told.content) for told in [await channel.next(), await channel.next()]}
    equal(outcomes["script-1"]["value"], {"data": "done"})
    equal(outcomes["script-2"]["state"], "resolved")
    step("has scripts run, and is told what they print")

    equal(await refusal(client, "promise-get", id="nobody"), "Promise not found")
    equal(await refusal(client, "promise-get"), "missing id")
    equal(await refusal(client, "promise-delete"), "unknown tool 'promise-delete'")
    step("is told what it does wrong")


async def main(entry):
    channel = Channel()
    async with Client(StdioServerParameters(**json.loads(entry)), extensions=[channel]) as client:
        await use(client, channel)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
