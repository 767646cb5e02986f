"""One WebSocket: feeds the session core and carries out its effects."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import Coroutine, Mapping

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from .brains import BrainError
from .core.effects import (
    Abandon,
    BrainFailure,
    Close,
    Effect,
    Reply,
    Send,
    Speak,
    Think,
    Transcribe,
)
from .core.session import Session, SessionOptions
from .engines import Engines
from .speech.interfaces import SpeechError

log = logging.getLogger("parley_local")
MAX_OUTBOX_BYTES = 64 * 1024 * 1024
LARGE_MESSAGE = 256 * 1024
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def new_id(prefix: str) -> str:
    """An identifier in the protocol's style: prefix and 21 random characters."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(21))


def _text(event: Mapping[str, object]) -> str:
    """The event's JSON; halves of surrogate pairs, which a client may send escaped, become question marks."""
    text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Connection:
    """Runs one session until either side closes. `run` owns every task."""

    def __init__(self, socket: ServerConnection, engines: Engines, options: SessionOptions) -> None:
        self._socket = socket
        self._engines = engines
        self._loop = asyncio.get_running_loop()
        self._session = Session(options, engines.vad, new_id, self._loop.time())
        self._turn = asyncio.Lock()
        self._outbox: deque[str | Close] = deque()
        self._outbox_bytes = 0
        self._outgoing = asyncio.Event()
        self._changed = asyncio.Event()
        self._work: dict[str, set[asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve the session; returns when the socket is closed and all work is ended."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            helpers = [tasks.create_task(self._write()), tasks.create_task(self._keep_time())]
            try:
                self._apply(self._session.start(self._loop.time()))
                await self._read()
            finally:
                for helper in helpers:
                    helper.cancel()
                for running in self._work.values():
                    for task in running:
                        task.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                async with self._turn:
                    if len(message) > LARGE_MESSAGE:
                        now = self._loop.time()
                        effects = await asyncio.to_thread(self._session.receive, message, now)
                    else:
                        effects = self._session.receive(message, self._loop.time())
                    self._apply(effects)
        except ConnectionClosed:
            return

    async def _write(self) -> None:
        try:
            while True:
                await self._outgoing.wait()
                self._outgoing.clear()
                while self._outbox:
                    message = self._outbox.popleft()
                    if isinstance(message, Close):
                        await self._socket.close(message.code, message.reason)
                        return
                    await self._socket.send(message)
                    self._outbox_bytes -= len(message)
        except ConnectionClosed:
            return

    async def _keep_time(self) -> None:
        while True:
            self._changed.clear()
            due = self._session.next_deadline()
            if due is None:
                return
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            except TimeoutError:
                async with self._turn:
                    self._apply(self._session.tick(self._loop.time()))

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() | Close():
                    self._queue(effect)
                case Transcribe():
                    self._start(effect.item_id, self._transcribe(effect))
                case Think():
                    self._start(effect.response_id, self._think(effect))
                case Speak():
                    self._start(effect.response_id, self._speak(effect))
                case Abandon():
                    for task in self._work.get(effect.response_id, ()):
                        task.cancel()
        self._changed.set()

    def _queue(self, effect: Send | Close) -> None:
        """Hold events for the writer; a client that lets 64 MiB pile up is cut off."""
        if isinstance(effect, Send):
            text = _text(effect.event)
            self._outbox.append(text)
            self._outbox_bytes += len(text)
        else:
            self._outbox.append(effect)
        if self._outbox_bytes > MAX_OUTBOX_BYTES:
            self._outbox.clear()
            log.warning("a client does not read its events: closing")
            self._socket.transport.abort()
        self._outgoing.set()

    def _start(self, key: str, work: Coroutine[None, None, None]) -> None:
        if self._tasks is None:
            raise AssertionError("effects are applied inside run() only")
        task = self._tasks.create_task(work)
        running = self._work.setdefault(key, set())
        running.add(task)

        def forget(done: asyncio.Task[None]) -> None:
            running.discard(done)
            if not running:
                self._work.pop(key, None)

        task.add_done_callback(forget)

    async def _transcribe(self, effect: Transcribe) -> None:
        text: str | None = None
        try:
            text = await self._engines.transcribe(effect.audio, effect.wire)
        except SpeechError as error:
            log.warning("recognition failed: %s", error)
        async with self._turn:
            self._apply(self._session.transcribed(effect.item_id, text, self._loop.time()))

    async def _think(self, effect: Think) -> None:
        reply: Reply | BrainFailure | None = None
        try:
            reply = await self._engines.think(effect.request)
        except BrainError as error:
            reply = error.failure
            log.warning("the brain failed: %s", error.failure.code)
        except Exception as error:  # noqa: BLE001 - a brain is a plug-in: its fault fails one response only
            log.warning("the brain failed: %s", type(error).__name__)
        async with self._turn:
            self._apply(self._session.replied(effect.response_id, reply, self._loop.time()))

    async def _speak(self, effect: Speak) -> None:
        audio: bytes | None = None
        try:
            audio = await self._engines.speak(effect.text, effect.voice, effect.speed, effect.wire)
        except SpeechError as error:
            log.warning("synthesis failed: %s", error)
        async with self._turn:
            self._apply(self._session.spoke(effect.response_id, effect.text, audio, self._loop.time()))
