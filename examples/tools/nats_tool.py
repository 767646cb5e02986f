"""A tool on NATS: the agent's function `get_weather`, answered by this program. Start as many as you like.

    python examples/tools/nats_tool.py nats://127.0.0.1:4222

It waits two minutes for NATS, so it may be started before `parley run --nats-port 4222`. The agent names it
so (see session.yaml):

    tools:
      - type: function
        name: get_weather
        route: {nats: {}}
"""

from __future__ import annotations

import asyncio
import sys

from parley_client.tools import ToolCall, ToolError, serve_tool

TEMPERATURES = {"graz": 21, "london": 14, "paris": 18}


async def get_weather(call: ToolCall) -> dict[str, object]:
    city = str(call.arguments.get("city", "")).strip()
    if city.lower() not in TEMPERATURES:
        raise ToolError(f"there is no weather for {city or 'no city at all'}: name another city")
    sys.stdout.write(f"{call.session or call.session_uid} asks for {city}\n")
    sys.stdout.flush()
    return {"city": city, "temperature": TEMPERATURES[city.lower()], "sky": "clear"}


async def main(url: str) -> None:
    ready = asyncio.Event()
    serving = asyncio.create_task(
        serve_tool(url, "get_weather", get_weather, connect_timeout=120, ready=ready)
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not serving.done():
        sys.stdout.write("serving get_weather\n")
        sys.stdout.flush()
    await serving


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://127.0.0.1:4222"))
    except KeyboardInterrupt:
        sys.exit(130)
