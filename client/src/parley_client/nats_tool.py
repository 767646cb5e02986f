"""A function of an agent as a service on NATS: `parley.tools.<name>`, one of a queue group answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from .errors import ConnectError, UsageError
from .tool_handlers import MAX_MESSAGE, Handler, ToolCall, ToolError, parse_arguments, run_handler

log = logging.getLogger(__name__)

SUBJECT_PREFIX: Final = "parley.tools."
SCHEMES: Final = frozenset({"nats", "tls", "ws", "wss"})
CONNECT_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.5
DRAIN_SECONDS: Final = 5.0
DEFAULT_SECONDS: Final = 60.0
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


async def serve_tool(
    nats_url: str,
    name: str,
    handler: Handler,
    *,
    concurrency: int = 16,
    creds: str | Path | None = None,
    tls: ssl.SSLContext | None = None,
    connect_timeout: float = CONNECT_SECONDS,
    ready: asyncio.Event | None = None,
    wall: Callable[[], float] = time.time,  # noqa: TID251 - the default of an argument
) -> None:
    """Answer the calls of `name` until cancelled; run it as often as you like, each call goes to one server.

    The connection is made again when it is lost. Cancelled, it takes no more calls and gives those that run
    five seconds.

    Args:
        nats_url: such as `nats://127.0.0.1:4222`; several separated by commas.
        handler: see `Handler`; raise `ToolError` to tell the agent what went wrong.
        concurrency: calls that run at once; more wait.
        creds: a NATS credentials file.
        tls: for servers whose certificate the system does not trust.
        connect_timeout: seconds until the first connection must stand.
        ready: set once calls are taken.
        wall: gives Unix seconds.

    Raises:
        UsageError: the name is no name of a function, or the URL none of NATS.
        ConnectError: NATS cannot be reached at the start.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"tool {name!r}: a name has letters, digits, _ and - only, 128 at most")
    if concurrency < 1:
        raise UsageError(f"concurrency {concurrency}: at least 1")
    for part in nats_url.split(","):
        if urlsplit(part.strip()).scheme not in SCHEMES or not urlsplit(part.strip()).hostname:
            raise UsageError("the URL of NATS: give nats://host:port or tls://host:port")
    client = Client()
    await _connect(client, nats_url, creds, tls, connect_timeout)
    server = _Server(client, name, handler, concurrency, wall)
    try:
        await server.start()
        if ready is not None:
            ready.set()
        await asyncio.Event().wait()
    finally:
        await server.stop()


async def _connect(
    client: Client, url: str, creds: str | Path | None, tls: ssl.SSLContext | None, seconds: float
) -> None:
    async def on_error(error: Exception) -> None:
        log.warning("NATS: %s", error or type(error).__name__)

    try:
        async with asyncio.timeout(seconds):
            await client.connect(
                servers=[part.strip() for part in url.split(",")],
                name="parley tool",
                error_cb=on_error,
                connect_timeout=max(1, round(seconds)),
                max_reconnect_attempts=-1,
                reconnect_time_wait=RETRY_SECONDS,  # type: ignore[arg-type]
                user_credentials=str(creds) if creds else None,
                tls=tls,
            )
    except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
        with contextlib.suppress(Exception):
            await client.close()
        raise ConnectError(f"NATS cannot be reached: {error or type(error).__name__}") from error


class _Server:
    """Runs the calls of one tool."""

    def __init__(
        self, client: Client, name: str, handler: Handler, concurrency: int, wall: Callable[[], float]
    ) -> None:
        self._client, self._name, self._handler, self._wall = client, name, handler, wall
        self._room = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Be one of those who answer."""
        subject = SUBJECT_PREFIX + self._name
        self._subscription = await self._client.subscribe(subject, queue=subject, cb=self._take)
        # The client may write the first ping before the subscription; what is awaited for it lets that out.
        await self._client.flush()
        await self._client.flush()

    async def _take(self, message: Msg) -> None:
        """Start one call; waits while too many run, and the client keeps what comes then."""
        await self._room.acquire()
        task = asyncio.create_task(self._answer(message), name=f"parley-tool-{self._name}")
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.release()

    async def _answer(self, message: Msg) -> None:
        headers = message.headers or {}
        deadline = _deadline(headers)
        if not message.reply or (deadline is not None and self._wall() >= deadline):
            return
        try:
            async with asyncio.timeout(_seconds(headers)):
                call = _call(self._name, message, headers, deadline)
                output = (await run_handler(self._handler, call)).encode()
        except (ToolError, UnicodeError) as error:
            await self._fail(message.reply, str(error) if isinstance(error, ToolError) else "no text")
        except TimeoutError:
            log.warning("tool %s: nobody waits for a result any more", self._name)
        else:
            try:
                await self._client.publish(message.reply, output)
            except nats.errors.MaxPayloadError:
                await self._fail(message.reply, f"the result of {self._name!r} is too large")
            except nats.errors.Error as error:
                log.warning("tool %s: a result could not be sent: %s", self._name, error)

    async def _fail(self, reply: str, message: str) -> None:
        text = _CONTROL.sub(" ", message)[:MAX_MESSAGE].strip() or f"{self._name!r} failed"
        headers = {"Nats-Service-Error-Code": "500", "Nats-Service-Error": text}
        try:
            await self._client.publish(reply, b"", headers=headers)
        except nats.errors.Error as error:
            log.warning("tool %s: an error could not be sent: %s", self._name, error)

    async def stop(self) -> None:
        """Take no more calls, let those that run end, close."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(DRAIN_SECONDS):
                if self._subscription is not None:
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
                if self._tasks:
                    await asyncio.wait(list(self._tasks))
                await self._client.flush()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        with contextlib.suppress(Exception):
            await self._client.close()


def _call(name: str, message: Msg, headers: Mapping[str, str], deadline: float | None) -> ToolCall:
    attempt = headers.get("Parley-Attempt", "")
    try:
        arguments = message.data.decode()
    except UnicodeError as error:
        raise ToolError(f"the arguments of {name!r} are not text") from error
    return ToolCall(
        name,
        unquote(headers.get("Parley-Call-Id", "")),
        parse_arguments(name, arguments),
        key=headers.get("Nats-Msg-Id", ""),
        session_uid=unquote(headers.get("Parley-Session-Uid", "")),
        namespace=unquote(headers.get("Parley-Namespace", "")),
        session=unquote(headers.get("Parley-Session", "")),
        attempt=int(attempt) if attempt.isdecimal() and len(attempt) <= 9 else 0,
        deadline_unix=deadline,
    )


def _deadline(headers: Mapping[str, str]) -> float | None:
    try:
        return datetime.fromisoformat(headers["Parley-Deadline"]).timestamp()
    except (KeyError, ValueError):
        return None


def _seconds(headers: Mapping[str, str]) -> float:
    """How long the worker waits, whatever the clocks say."""
    text = headers.get("Parley-Timeout-Ms", "")
    return int(text) / 1000 if text.isdecimal() and len(text) <= 9 else DEFAULT_SECONDS
