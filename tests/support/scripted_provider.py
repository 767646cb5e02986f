"""A provider that does exactly what a test tells it, on a real WebSocket on loopback.

    async with ScriptedProvider() as provider:          # greets with session.created, then only listens
        client = await create_realtime_api_client(parameters(provider))
        line = await provider.accepted()
        await line.expect("response.create")
        await line.send({"type": "response.done", ...})

`script` replaces what is done with each connection, `status` answers the handshake with an HTTP status,
`tls` serves wss.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Event = dict[str, Any]
PATIENCE = 15.0


class Line:
    """One accepted connection, seen from the provider."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.received: list[Event] = []
        self._news = asyncio.Condition()
        self._read = 0
        self.closed = asyncio.Event()
        self._ids = 0

    @property
    def headers(self) -> dict[str, str]:
        assert self.socket.request is not None
        return {name.lower(): value for name, value in self.socket.request.headers.raw_items()}

    @property
    def path(self) -> str:
        assert self.socket.request is not None
        return self.socket.request.path

    async def send(self, event: Event) -> None:
        """Send an event; an `event_id` is added."""
        self._ids += 1
        await self.socket.send(json.dumps({"event_id": f"event_{self._ids}", **event}))

    async def send_raw(self, text: str | bytes) -> None:
        await self.socket.send(text)

    async def greet(self, **session: Any) -> None:
        await self.send({"type": "session.created", "session": {"id": "sess_1", **session}})

    async def refuse(self, code: int, error: Event, reason: str) -> None:
        """An `error` event, and the close right behind it."""
        await self.send({"type": "error", "error": error})
        await self.socket.close(code, reason)

    async def audio(
        self, payload: bytes, response_id: str = "resp_1", item_id: str = "item_1", beta: bool = False
    ) -> None:
        kind = "response.audio.delta" if beta else "response.output_audio.delta"
        await self.send(
            {
                "type": kind,
                "response_id": response_id,
                "item_id": item_id,
                "output_index": 0,
                "content_index": 0,
                "delta": base64.b64encode(payload).decode(),
            }
        )

    async def expect(self, kind: str) -> Event:
        """The next event of this type from the client; those before it are skipped."""
        async with asyncio.timeout(PATIENCE), self._news:
            while True:
                while self._read < len(self.received):
                    event = self.received[self._read]
                    self._read += 1
                    if event["type"] == kind:
                        return event
                await self._news.wait()

    async def heard(self, size: int) -> bytes:
        """Wait until the client has appended at least `size` bytes of audio; all of it."""
        async with asyncio.timeout(PATIENCE), self._news:
            while len(self.audio_in) < size:
                await self._news.wait()
        return self.audio_in

    @property
    def audio_in(self) -> bytes:
        return b"".join(
            base64.b64decode(e["audio"]) for e in self.received if e["type"] == "input_audio_buffer.append"
        )

    async def listen(self) -> None:
        """Record what the client sends until it goes."""
        try:
            async for text in self.socket:
                event = json.loads(text)
                async with self._news:
                    self.received.append(event)
                    self._news.notify_all()
        except ConnectionClosed:
            pass


Script = Callable[[Line], Awaitable[None]]


async def friendly(line: Line) -> None:
    """The default script."""
    await line.greet()
    await line.listen()


class ScriptedProvider:
    """See the module. `base_url` is what a client is given."""

    def __init__(
        self,
        script: Script = friendly,
        *,
        status: int | None = None,
        body: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._script = script
        self._status = status
        self._body = body
        self._tls = tls
        self._lines: asyncio.Queue[Line] = asyncio.Queue()
        self._server: Server | None = None
        self.connections = 0

    @property
    def base_url(self) -> str:
        assert self._server is not None
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def accepted(self) -> Line:
        """The next connection that passed the upgrade."""
        async with asyncio.timeout(PATIENCE):
            return await self._lines.get()

    async def __aenter__(self) -> ScriptedProvider:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            ssl=self._tls,
            process_request=self._refuse,
            compression=None,
            close_timeout=1,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _refuse(self, socket: ServerConnection, request: Request) -> Response | None:
        if self._status is None:
            return None
        return socket.respond(HTTPStatus(self._status), self._body)

    async def _serve(self, socket: ServerConnection) -> None:
        line = Line(socket)
        self.connections += 1
        self._lines.put_nowait(line)
        try:
            await self._script(line)
        except ConnectionClosed:
            pass
        finally:
            line.closed.set()
