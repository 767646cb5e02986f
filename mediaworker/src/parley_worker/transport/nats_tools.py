"""Function calls over NATS: request-reply on `parley.tools.<name>`, answered by whoever subscribes there.

The payload is the arguments (a JSON object), the reply's payload the result (text for the model); headers say
whose call it is and until when an answer is of use. A reply with the headers of NATS micro services'
errors (`Nats-Service-Error-Code`, `Nats-Service-Error`) is an error of the tool.

The connection is not that of the journal: a slow tool holds up no record. While it is lost every call fails
at once; nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from parley_worker.core.tool_routing import (
    ToolCode,
    ToolProblem,
    header_text,
    result_text,
    too_large,
    unreachable,
)
from parley_worker.transport.nats_connection import FAILURES, ConnectionSettings, close_client, open_client
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest

log = logging.getLogger(__name__)

SUBJECT_PREFIX = "parley.tools."
ERROR_CODE, ERROR_TEXT = "Nats-Service-Error-Code", "Nats-Service-Error"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


class NatsTools:
    """The NATS route. `run()` is its task and holds the connection; calls are made from the same loop."""

    def __init__(self, settings: ConnectionSettings, on_crash: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_crash = on_crash
        self._replies: _Replies | None = None

    @property
    def connected(self) -> bool:
        return self._replies is not None

    async def run(self) -> None:
        """Connect, and connect again when the connection is lost, until cancelled."""
        delay, told = self._settings.retry_min, False
        while True:
            client, lost = Client(), asyncio.Event()
            try:
                await open_client(client, self._settings, lost.set)
                replies = _Replies(client)
                await replies.open()
                self._replies = replies
                log.info("connected to NATS for tools")
                delay, told = self._settings.retry_min, False
                await lost.wait()
                log.warning("lost NATS: calls of tools fail until it is back")
            except FAILURES as error:
                if not told:
                    log.warning("NATS cannot be used for tools: %s: %s", type(error).__name__, error)
                told = True
            except Exception:
                # An error of the client library itself: no call ends for it.
                log.exception("the NATS client failed")
                self._on_crash()
            finally:
                if self._replies is not None:
                    self._replies.abandon()
                    self._replies = None
                await close_client(client)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, self._settings.retry_max)

    async def call(self, request: ToolRequest) -> str:
        """See ToolService."""
        name = request.name
        if not _TOKEN.fullmatch(name):
            text = f"{name[:100]!r} cannot be called: its name may hold letters, digits, _ and - only"
            raise ToolCallFailed(ToolProblem(ToolCode.REFUSED, text))
        if self._replies is None:
            raise _unavailable(name)
        reply = await self._replies.request(
            SUBJECT_PREFIX + name, request.arguments.encode(), _headers(request), name
        )
        return _result(reply, request)


class _Replies:
    """Requests on one connection and their replies; the client library's own leak when they are cancelled."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = count(1)
        self._waiting: dict[str, asyncio.Future[Msg | None]] = {}

    async def open(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._arrived)

    async def _arrived(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def request(self, subject: str, payload: bytes, headers: dict[str, str], name: str) -> Msg:
        """The first reply; ToolCallFailed when nobody listens or the connection is lost."""
        inbox = f"{self._inbox}.{next(self._numbers)}"
        waiting: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._waiting[inbox] = waiting
        try:
            await self._client.publish(subject, payload, reply=inbox, headers=headers)
            reply = await waiting
        except nats.errors.MaxPayloadError as error:
            text = f"the arguments of {name!r} are larger than the message service takes"
            raise ToolCallFailed(ToolProblem(ToolCode.TOO_LARGE, text)) from error
        except FAILURES as error:
            raise _unavailable(name) from error
        finally:
            del self._waiting[inbox]
        if reply is None:
            raise _unavailable(name)
        return reply

    def abandon(self) -> None:
        """The connection is gone: no reply comes any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)


def _headers(request: ToolRequest) -> dict[str, str]:
    """No Content-Type: clients that send the request's headers back would claim it for their result."""
    session = request.session
    deadline = datetime.fromtimestamp(request.deadline_unix, UTC).isoformat(timespec="milliseconds")
    return {
        "Nats-Msg-Id": request.key,
        "Parley-Session-Uid": header_text(session.uid),
        "Parley-Namespace": header_text(session.namespace),
        "Parley-Session": header_text(session.name),
        "Parley-Attempt": str(session.attempt),
        "Parley-Call-Id": header_text(request.call_id),
        "Parley-Deadline": deadline.replace("+00:00", "Z"),
        "Parley-Timeout-Ms": str(round(request.route.timeout * 1000)),
    }


def _result(reply: Msg, request: ToolRequest) -> str:
    name = request.name
    headers = {key.lower(): value for key, value in (reply.headers or {}).items()}
    if headers.get("status") == "503":
        raise ToolCallFailed(ToolProblem(ToolCode.UNAVAILABLE, f"nobody serves {name!r} at the moment"))
    if ERROR_CODE.lower() in headers or ERROR_TEXT.lower() in headers:
        says = headers.get(ERROR_TEXT.lower()) or "it gave no reason"
        raise ToolCallFailed(ToolProblem(ToolCode.FAILED, f"{name!r} failed: {says}"))
    if len(reply.data) > request.route.max_output_bytes:
        raise ToolCallFailed(too_large(request.route, len(reply.data)))
    result = result_text(reply.data, headers.get("content-type", ""), name)
    if isinstance(result, ToolProblem):
        raise ToolCallFailed(result)
    return result


def _unavailable(name: str) -> ToolCallFailed:
    return ToolCallFailed(unreachable(name))
