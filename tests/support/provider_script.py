"""A WebSocket server that plays a provider from a script: for behaviour no well-meaning provider shows."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Behaviour = Callable[["Socket"], Awaitable[None]]


class Socket:
    """One connection: what came, and helpers to answer. Audio appends are counted, not kept."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.received: list[dict[str, Any]] = []
        self.audio = bytearray()
        self._arrived = asyncio.Condition()
        self._number = 0

    async def send(self, type_: str, **fields: Any) -> None:
        self._number += 1
        event = {"type": type_, "event_id": f"event_{self._number}", **fields}
        await self.connection.send(json.dumps(event))

    async def greet(self, **session: Any) -> None:
        """session.created, then wait for session.update and answer it."""
        await self.send("session.created", session={"model": "m", **session})
        update = await self.expect("session.update")
        await self.send("session.updated", session={**update["session"], "model": "m"})

    async def expect(self, type_: str, count: int = 1, timeout: float = 25) -> dict[str, Any]:
        """The `count`-th client event of that type, waiting for it."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: len(self.of(type_)) >= count)
        return self.of(type_)[count - 1]

    async def expect_audio(self, size: int, timeout: float = 25) -> bytes:
        """At least `size` bytes of caller audio."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: len(self.audio) >= size)
        return bytes(self.audio)

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.received if event["type"] == type_]

    async def say(
        self, payload: bytes, response: str, item: str, *, chunk: int = 9600, finish: bool = True
    ) -> None:
        """A whole spoken answer in the GA shape; without its end when `finish` is false."""
        await self.send("response.created", response={"id": response, "status": "in_progress", "output": []})
        ids = {"response_id": response, "item_id": item, "output_index": 0}
        new = {"id": item, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        await self.send("response.output_item.added", response_id=response, output_index=0, item=new)
        for at in range(0, len(payload), chunk):
            delta = base64.b64encode(payload[at : at + chunk]).decode()
            await self.send("response.output_audio.delta", **ids, content_index=0, delta=delta)
        if finish:
            await self.finish(response, item)

    async def finish(self, response: str, item: str, status: str = "completed") -> None:
        ids = {"response_id": response, "item_id": item, "output_index": 0}
        await self.send("response.output_audio.done", **ids, content_index=0)
        await self.send(
            "response.output_audio_transcript.done", **ids, content_index=0, transcript=f"words of {item}"
        )
        done = {"id": item, "type": "message", "role": "assistant", "status": status, "content": []}
        await self.send("conversation.item.done", item=done, previous_item_id=None)
        await self.send("response.output_item.done", response_id=response, output_index=0, item=done)
        usage = {"input_tokens": 10, "output_tokens": 20, "input_token_details": {"cached_tokens": 3}}
        await self.send("response.done", response={"id": response, "status": status, "usage": usage})

    async def _read(self) -> None:
        async for message in self.connection:
            event = json.loads(message)
            async with self._arrived:
                if event["type"] == "input_audio_buffer.append":
                    self.audio += base64.b64decode(event["audio"])
                else:
                    self.received.append(event)
                self._arrived.notify_all()


class ScriptedProvider:
    """A running server; every connection runs `behaviour` while its messages are read."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.sockets: list[Socket] = []
        self.url = ""
        self.errors: list[BaseException] = []
        self._new = asyncio.Condition()

    async def socket(self, index: int = 0) -> Socket:
        """The connection number `index`, waiting for it."""
        async with asyncio.timeout(25), self._new:
            await self._new.wait_for(lambda: len(self.sockets) > index)
        return self.sockets[index]

    async def handle(self, connection: ServerConnection) -> None:
        socket = Socket(connection)
        async with self._new:
            self.sockets.append(socket)
            self._new.notify_all()
        reader = asyncio.create_task(socket._read())
        acting = asyncio.ensure_future(self.behaviour(socket))
        closed = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait((acting, closed), return_when=asyncio.FIRST_COMPLETED)
            if acting.done():
                acting.result()
                await closed
        except ConnectionClosed:
            pass
        except (AssertionError, TimeoutError) as exc:
            self.errors.append(exc)
        finally:
            for task in (acting, closed, reader):
                task.cancel()
            await asyncio.gather(acting, closed, reader, return_exceptions=True)


@asynccontextmanager
async def scripted(
    behaviour: Behaviour, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedProvider]:
    """Serve `behaviour` on loopback; assertion errors inside it fail the block's end."""
    provider = ScriptedProvider(behaviour)
    async with serve(provider.handle, "127.0.0.1", 0, ssl=tls, close_timeout=0.5) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        provider.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/v1/realtime"
        yield provider
    if provider.errors:
        raise provider.errors[0]
