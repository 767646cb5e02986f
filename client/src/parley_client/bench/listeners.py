"""Subscribers of `parley bench events`, as a process: `python -m parley_client.bench.listeners URL COUNT`.

Each is a connection of its own that speaks just enough of NATS' protocol to subscribe to every event and
read what comes: they must cost little, as the machine that they run on is the one that is measured. Prints
one line of JSON when all have subscribed, another at SIGTERM: messages, bytes, and whether every one got
the same.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Final
from urllib.parse import urlsplit

OPTIONS: Final = b'{"verbose":false,"pedantic":false,"headers":true,"protocol":1}'
HELLO: Final = b"CONNECT " + OPTIONS + b"\r\nSUB parley.events.> 1\r\nPING\r\n"
MARK: Final = b"HMSG "
QUIET_S: Final = 0.5


class Listener(asyncio.Protocol):
    """Counts bytes and messages; answers pings."""

    def __init__(self) -> None:
        self.bytes = self.messages = 0
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(HELLO)

    def data_received(self, data: bytes) -> None:
        if not self.ready.done():
            if b"PONG\r\n" in data:
                self.ready.set_result(None)
            return
        if data.startswith(b"PING\r\n"):
            self._transport.write(b"PONG\r\n")
        self.bytes += len(data)
        # A mark may be cut in two by the pieces that come.
        joined = self._rest + data
        self.messages += joined.count(MARK)
        self._rest = joined[-len(MARK) + 1 :]

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("the server closed the connection"))


async def main(url: str, count: int) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 4222
    made = [await loop.create_connection(Listener, host, port) for _ in range(count)]
    listeners = [listener for _, listener in made]
    await asyncio.gather(*(listener.ready for listener in listeners))
    print(json.dumps({"ready": True}), flush=True)  # noqa: T201 - it is a program
    await over.wait()
    before = -1
    while before != (now := sum(listener.bytes for listener in listeners)):
        before = now
        await asyncio.sleep(QUIET_S)
    got = sorted(listener.messages for listener in listeners)
    report = {"messages": got[0], "bytes": before, "even": got[0] == got[-1]}
    print(json.dumps(report), flush=True)  # noqa: T201 - it is a program


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
