"""Twilio's side of a bidirectional media stream, after its documentation; knows nothing of the worker.

Every 20 ms a frame of mu-law audio goes out, silence when nobody speaks. What comes in waits in a buffer that
is played in real time. A mark comes back when all audio before it was played; after a `clear` all marks that
wait come back at once, in order. `events` is what happened, in order:

    ("media", ms) a frame came     ("mark", name) a mark came     ("clear",) a clear came
    ("played", name) a mark went back as its audio was played     ("flushed", name) ... was thrown away
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import ssl
from collections import deque
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

SILENCE = b"\xff" * 160
FRAME_SECONDS = 0.02


class TwilioCall:
    """`async with TwilioCall(url, ticket=...) as call`: connected and started. Leaving the block hangs up."""

    def __init__(
        self,
        url: str,
        *,
        parameters: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        start: bool = True,
    ) -> None:
        self._url, self._headers, self._tls, self._start = url, headers or {}, tls, start
        self.parameters = parameters or {}
        self.stream_sid = f"MZ{secrets.token_hex(16)}"
        self.call_sid = f"CA{secrets.token_hex(16)}"
        self.events: list[tuple[Any, ...]] = []
        self.heard = bytearray()
        self.messages: list[dict[str, Any]] = []
        self._speech: deque[bytes] = deque()
        self._buffer: deque[bytes | str] = deque()
        self._sequence = 0
        self._chunk = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._sounded = 0.0
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        self.socket = await connect(
            self._url, additional_headers=self._headers, ssl=self._tls, compression=None, close_timeout=1
        )
        if self._start:
            await self.begin()
        return self

    async def begin(self) -> None:
        """`connected`, `start`, and audio from then on."""
        await self.socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await self.send("start", start=self.start_object())
        self._tasks = [asyncio.create_task(work()) for work in (self._receive, self._speak, self._play)]

    def start_object(self) -> dict[str, Any]:
        return {
            "accountSid": "AC" + "0" * 32,
            "streamSid": self.stream_sid,
            "callSid": self.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": self.parameters,
        }

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.stop()
        await self.socket.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send(self, event: str, **fields: Any) -> None:
        self._sequence += 1
        frame = {
            "event": event,
            "sequenceNumber": str(self._sequence),
            "streamSid": self.stream_sid,
            **fields,
        }
        await self.socket.send(json.dumps(frame))

    def say(self, ulaw: bytes) -> None:
        """Speak; frames go out in real time."""
        self._speech.extend(ulaw[at : at + 160].ljust(160, b"\xff") for at in range(0, len(ulaw), 160))

    @property
    def speaking(self) -> bool:
        return bool(self._speech)

    @property
    def quiet_for(self) -> float:
        """Seconds since audio came or was played."""
        return asyncio.get_running_loop().time() - self._sounded

    async def press(self, digit: str) -> None:
        await self.send("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    async def stop(self) -> None:
        """The call ends."""
        await self.send("stop", stop={"accountSid": "AC" + "0" * 32, "callSid": self.call_sid})

    async def until(self, test: Any, timeout: float = 25) -> None:
        """Wait until `test()` holds; it is asked whenever something happens."""
        async with asyncio.timeout(timeout):
            while not test():
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await self._news.wait()

    async def closed(self, timeout: float = 20) -> tuple[int, str]:
        """Wait for the close of the other side: code and reason."""
        async with asyncio.timeout(timeout):
            await self.socket.wait_closed()
        return self.socket.close_code or 0, self.socket.close_reason or ""

    def of(self, kind: str) -> list[Any]:
        return [event[1] if len(event) > 1 else None for event in self.events if event[0] == kind]

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._news.set()

    async def _receive(self) -> None:
        async for text in self.socket:
            frame = json.loads(text)
            self.messages.append(frame)
            assert frame["streamSid"] == self.stream_sid
            match frame["event"]:
                case "media":
                    payload = base64.b64decode(frame["media"]["payload"], validate=True)
                    self._buffer.extend(payload[at : at + 160] for at in range(0, len(payload), 160))
                    self._sounded = asyncio.get_running_loop().time()
                    self._note("media", len(payload) / 8)
                case "mark":
                    self._buffer.append(frame["mark"]["name"])
                    self._note("mark", frame["mark"]["name"])
                case "clear":
                    waiting = [piece for piece in self._buffer if isinstance(piece, str)]
                    self._buffer.clear()
                    self._note("clear")
                    for name in waiting:
                        await self._return("flushed", name)
                case kind:
                    raise AssertionError(f"Twilio knows no event {kind!r}")

    async def _return(self, how: str, name: str) -> None:
        self._note(how, name)
        await self.send("mark", mark={"name": name})

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            frame = self._speech.popleft() if self._speech else SILENCE
            self._chunk += 1
            media = {
                "track": "inbound",
                "chunk": str(self._chunk),
                "timestamp": str(self._chunk * 20),
                "payload": base64.b64encode(frame).decode(),
            }
            await self.send("media", media=media)
            due += FRAME_SECONDS
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _play(self) -> None:
        """One piece of the buffer every 20 ms; marks before the next piece go back."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            while self._buffer and isinstance(self._buffer[0], str):
                name = self._buffer.popleft()
                assert isinstance(name, str)
                await self._return("played", name)
            if self._buffer:
                piece = self._buffer.popleft()
                assert isinstance(piece, bytes)
                self.heard += piece
                self._sounded = loop.time()
                self._news.set()
            due = max(due + FRAME_SECONDS, loop.time() - 0.1)
            await asyncio.sleep(max(0.0, due - loop.time()))
