"""The bare floor: a bridge from gRPC to an OpenAI-Realtime WebSocket that does nothing else.

No tickets, no events to anybody, no journal, no resampling, no limits, no barge-in beyond throwing away
what waits, no metrics. What it takes is what the two protocols take in Python: a stream for each call
(Session), or one for all (Mux), and picows or websockets towards the provider. Playout is paced to 20 ms.
Prints one line of JSON when ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import floor_pb2
import floor_pb2_grpc
import grpc
import grpc.aio
import orjson
import picows
import pybase64
import uvloop
import websockets

FRAME_BYTES = 960
FRAME_S = 0.02
CATCH_UP_S = 0.1
PREFIX = b'{"type":"input_audio_buffer.append","audio":"'


class Bridge(ABC):
    """One session of the provider; `out` is the agent's audio that waits."""

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.out = bytearray()

    @abstractmethod
    async def connect(self, url: str, trust: ssl.SSLContext | None) -> None: ...

    @abstractmethod
    async def send(self, message: bytes) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    def update(self) -> bytes:
        """The session.update that begins a session."""
        pcm = {"type": "audio/pcm", "rate": 24000}
        audio = {
            "input": {"format": pcm, "turn_detection": {"type": "server_vad"}},
            "output": {"format": pcm, "voice": "marin"},
        }
        session = {"type": "realtime", "instructions": f"floor sid={self.sid}", "audio": audio}
        update: bytes = orjson.dumps({"type": "session.update", "session": session})
        return update

    async def append(self, frame: bytes) -> None:
        await self.send(PREFIX + pybase64.b64encode(frame) + b'"}')

    def take_event(self, message: bytes | memoryview | str) -> None:
        event = orjson.loads(message)
        match event["type"]:
            case "response.output_audio.delta":
                self.out += pybase64.b64decode(event["delta"])
            case "input_audio_buffer.speech_started":
                self.out.clear()

    def frame(self) -> bytes:
        """The next 20 ms of the agent's audio; empty when none waits."""
        frame = bytes(self.out[:FRAME_BYTES])
        del self.out[:FRAME_BYTES]
        return frame


class PicowsBridge(Bridge):
    """Over picows."""

    async def connect(self, url: str, trust: ssl.SSLContext | None) -> None:
        bridge = self

        class Listener(picows.WSListener):
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if frame.msg_type == picows.WSMsgType.TEXT:
                    bridge.take_event(frame.get_payload_as_memoryview())

        self._transport, _ = await picows.ws_connect(Listener, url, ssl_context=trust)
        await self.send(self.update())

    async def send(self, message: bytes) -> None:
        self._transport.send(picows.WSMsgType.TEXT, message)

    async def close(self) -> None:
        self._transport.disconnect()


class WebsocketsBridge(Bridge):
    """Over websockets."""

    async def connect(self, url: str, trust: ssl.SSLContext | None) -> None:
        self._socket = await websockets.connect(url, compression=None, max_size=None, ssl=trust)
        self._reader = asyncio.create_task(self._read())
        await self.send(self.update())

    async def _read(self) -> None:
        async for message in self._socket:
            self.take_event(message)

    async def send(self, message: bytes) -> None:
        await self._socket.send(message, text=True)

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()


BRIDGES: dict[str, type[Bridge]] = {"picows": PicowsBridge, "websockets": WebsocketsBridge}


class Pace:
    """Ticks of 20 ms that do not drift; after a stall they are caught up for a moment, then let go."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._next = self._now()

    def restart(self) -> None:
        self._next = self._now()

    async def tick(self) -> None:
        self._next = max(self._next + FRAME_S, self._now() - CATCH_UP_S)
        await asyncio.sleep(max(0.0, self._next - self._now()))


class Media(floor_pb2_grpc.MediaServicer):
    """The floor's service."""

    def __init__(self, bridge: type[Bridge], url: str, trust: ssl.SSLContext | None) -> None:
        self._bridge, self._url, self._trust = bridge, url, trust

    async def _connected(self, sid: int) -> Bridge:
        bridge = self._bridge(sid)
        await bridge.connect(self._url, self._trust)
        return bridge

    async def Session(self, requests: AsyncIterator[Any], context: Any) -> None:
        bridge = await self._connected(int(dict(context.invocation_metadata())["sid"]))

        async def play() -> None:
            pace, sequence = Pace(), 0
            while True:
                if frame := bridge.frame():
                    await context.write(floor_pb2.Down(seq=sequence, audio=frame))
                    sequence += 1
                else:
                    pace.restart()
                await pace.tick()

        player = asyncio.create_task(play())
        try:
            async for message in requests:
                await bridge.append(message.audio)
        finally:
            player.cancel()
            await bridge.close()

    async def Mux(self, requests: AsyncIterator[Any], context: Any) -> None:
        bridges: dict[int, Bridge] = {}
        opening: dict[int, asyncio.Task[None]] = {}

        async def open_bridge(sid: int) -> None:
            bridges[sid] = await self._connected(sid)

        async def play() -> None:
            pace, sequence = Pace(), 0
            while True:
                waiting = ((sid, bridge.frame()) for sid, bridge in bridges.items())
                frames = [floor_pb2.Frame(sid=s, seq=sequence, audio=audio) for s, audio in waiting if audio]
                sequence += 1
                if frames:
                    await context.write(floor_pb2.Tick(frames=frames))
                await pace.tick()

        player = asyncio.create_task(play())
        try:
            async for tick in requests:
                for frame in tick.frames:
                    bridge = bridges.get(frame.sid)
                    if bridge is not None:
                        await bridge.append(frame.audio)
                    elif frame.sid not in opening:
                        opening[frame.sid] = asyncio.create_task(open_bridge(frame.sid))
        finally:
            player.cancel()
            for task in opening.values():
                task.cancel()
            for bridge in bridges.values():
                await bridge.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", required=True, help="ws:// or wss:// URL of the provider")
    parser.add_argument("--websocket", default="picows", choices=sorted(BRIDGES))
    parser.add_argument("--tls", type=Path, help="folder with ca.crt, tls.crt and tls.key, for both sides")
    options = parser.parse_args()
    trust = None
    if options.tls and options.provider.startswith("wss:"):
        trust = ssl.create_default_context(cafile=str(options.tls / "ca.crt"))
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 4000)])
    media = Media(BRIDGES[options.websocket], options.provider, trust)
    floor_pb2_grpc.add_MediaServicer_to_server(media, server)
    if options.tls:
        pair = (options.tls / "tls.key").read_bytes(), (options.tls / "tls.crt").read_bytes()
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    print(json.dumps({"endpoint": f"127.0.0.1:{port}"}), flush=True)
    await over.wait()
    await server.stop(0.5)


if __name__ == "__main__":
    uvloop.run(main())
