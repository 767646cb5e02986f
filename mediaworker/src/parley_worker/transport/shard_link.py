"""The private line between the supervisor of a worker and one shard: a pair of sockets that nobody else has.

It has no name in any file system and passes to the shard by inheritance alone, so what goes over it (the keys
in an Admit) can be seen or said by no third process. When one side goes, the other one reads the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NoReturn

import grpc

from parley_worker.codec.shard_frames import HEADER_BYTES, FrameError, Kind, encode, parse_header

log = logging.getLogger(__name__)

MAX_UNREAD_BYTES = 16 << 20
"""What the other side has not read; more, and it counts as gone."""

UNHURRIED = frozenset({Kind.MIGRATE, Kind.METRICS})
"""What takes its time: other requests do not wait for it."""

Serve = Callable[[Kind, bytes], Awaitable[bytes]]
Hear = Callable[[Kind, bytes], None]


class LinkLost(Exception):
    """The other side is gone: a request was perhaps carried out, but nothing of it is left."""


class Aborted(Exception):
    """The other side ends a request with an error status."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class AbortingContext:
    """As much of a gRPC context as the control service uses."""

    async def abort(self, code: grpc.StatusCode, message: str) -> NoReturn:
        raise Aborted(code, message)


class ShardLink:
    """One end. `run()` reads until the other side is gone; requests are served one after the other, in order,
    but for those that wait for a moment to come (MIGRATE): they are served beside the others.

    `hear` is called with every frame that is no request and no answer, in order with the answers.
    """

    def __init__(self, connection: socket.socket, hear: Hear, serve: Serve | None = None) -> None:
        self._connection = connection
        self._hear, self._serve = hear, serve
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = count(1)
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self.lost = False

    async def open(self) -> None:
        """Take the connection into the event loop."""
        self._connection.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)

    def send(self, kind: Kind, body: bytes = b"", number: int = 0) -> None:
        """Send without waiting; nothing happens when the other side is gone."""
        writer = self._writer
        if self.lost or writer is None or writer.is_closing():
            return
        writer.write(encode(kind, number, body))
        if writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            log.error("the other side of the shard's link does not read: it counts as gone")
            self.close()

    async def call(self, kind: Kind, body: bytes = b"") -> bytes:
        """The answer to a request. Raises LinkLost or Aborted.

        Has no deadline of its own: a shard that does not answer is killed, and its link lost with it.
        """
        if self.lost:
            raise LinkLost
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        try:
            self.send(kind, body, number)
            return await answer
        finally:
            self._calls.pop(number, None)

    async def run(self) -> None:
        """Read until the end of the connection."""
        assert self._reader is not None
        try:
            while True:
                length, kind, number = parse_header(await self._reader.readexactly(HEADER_BYTES))
                await self._take(kind, number, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except FrameError as error:
            log.error("the shard's link carries nonsense: %s", error)
        finally:
            self._lose()

    async def _take(self, kind: Kind, number: int, body: bytes) -> None:
        if kind in (Kind.ANSWER, Kind.ABORT):
            answer = self._calls.get(number)
            if answer is None or answer.done():
                return
            if kind is Kind.ANSWER:
                answer.set_result(body)
            else:
                name, _, message = body.decode().partition("\n")
                answer.set_exception(Aborted(grpc.StatusCode[name], message))
        elif number == 0:
            self._hear(kind, body)
        elif self._serve is not None and kind in UNHURRIED:
            task = asyncio.create_task(self._answer(self._serve, kind, number, body), name="link's answer")
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)
        elif self._serve is not None:
            await self._answer(self._serve, kind, number, body)

    async def _answer(self, serve: Serve, kind: Kind, number: int, body: bytes) -> None:
        try:
            self.send(Kind.ANSWER, await serve(kind, body), number)
        except Aborted as error:
            self.send(Kind.ABORT, f"{error.code.name}\n{error.message}".encode(), number)

    async def flush(self, timeout: float = 1.0) -> None:
        """Wait until what was sent has left, `timeout` seconds at most, and close."""
        assert self._writer is not None
        self._writer.close()
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(timeout):
                await self._writer.wait_closed()

    def _lose(self) -> None:
        self.lost = True
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(LinkLost())
        for task in self._answers:
            task.cancel()
        self.close()

    def close(self) -> None:
        """Let go of the connection; the other side reads the end."""
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._connection.close()
