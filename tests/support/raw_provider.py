"""A provider that writes bytes: whatever a test wants on the wire, before and after the upgrade."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
PATIENCE = 10.0


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes = b"", length: int = -1
) -> bytes:
    """A frame as a server writes it; `length` lies about the payload's."""
    size = len(payload) if length < 0 else length
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask else 0
    if size < 126:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    return head + mask + bytes(b ^ mask[i % 4] if mask else b for i, b in enumerate(payload))


def event(kind: str, **fields: object) -> bytes:
    """A server event in one frame."""
    return frame(TEXT, json.dumps({"type": kind, **fields}).encode())


CREATED = event("session.created", session={"id": "s"})


@dataclass
class Wire:
    """One client, seen from below."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: bytes = b""
    got: list[tuple[int, bytes]] = field(default_factory=list)

    def answer(self, more: str = "", connection: str = "Upgrade", accept: str = "") -> bytes:
        """The 101 to the request."""
        key = next(
            line.partition(b":")[2].strip()
            for line in self.request.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key:")
        )
        right = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        return (
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: {connection}\r\n"
            f"Sec-WebSocket-Accept: {accept or right}\r\n{more}\r\n"
        ).encode()

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """Byte by byte, each in a segment of its own."""
        for at in range(len(data)):
            await self.write(data[at : at + 1])
            await asyncio.sleep(0)

    def reset(self) -> None:
        """RST instead of FIN."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def read_frame(self) -> tuple[int, bytes]:
        """The next frame of the client: its opcode and its payload without the mask."""
        first, second = await self.reader.readexactly(2)
        assert second & 0x80, "a client masks"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        mask = await self.reader.readexactly(4)
        payload = await self.reader.readexactly(size)
        return first & 0xF, bytes(b ^ mask[i % 4] for i, b in enumerate(payload))

    async def until_close(self) -> int:
        """Read to the client's close frame; its code, 1006 when it sends none."""
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    one = await self.read_frame()
                    self.got.append(one)
                    if one[0] == CLOSE:
                        return int.from_bytes(one[1][:2], "big") if one[1] else 1005
        except (asyncio.IncompleteReadError, ConnectionError):
            return 1006


Script = Callable[[Wire], Awaitable[None]]


@asynccontextmanager
async def raw_provider(script: Script) -> AsyncIterator[str]:
    """Runs `script` for each client once its request is read; gives the base URL."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            await script(Wire(reader, writer, request))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        if running:
            await asyncio.wait(running, timeout=PATIENCE)
        await server.wait_closed()


def opened(then: Script) -> Script:
    """A session first, and then what `then` does."""

    async def script(wire: Wire) -> None:
        await wire.write(wire.answer() + CREATED)
        await then(wire)

    return script
