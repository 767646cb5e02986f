"""Functions that an agent calls, written in Python: served by the caller, over NATS or as a webhook.

    from parley_client.tools import ToolCall, serve_tool

    async def get_weather(call: ToolCall) -> dict[str, object]:
        return {"city": call.arguments["city"], "temperature": 21}

    asyncio.run(serve_tool("nats://127.0.0.1:4222", "get_weather", get_weather))

A caller's own functions: `call.on_tool("get_weather", get_weather)`. A webhook: `verify_webhook(...)`.
"""

from .nats_tool import serve_tool
from .tool_handlers import Handler, ToolCall, ToolError
from .webhook import WebhookRefused, sign_webhook, verify_webhook

__all__ = [
    "Handler",
    "ToolCall",
    "ToolError",
    "WebhookRefused",
    "serve_tool",
    "sign_webhook",
    "verify_webhook",
]
