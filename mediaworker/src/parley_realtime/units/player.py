"""A player: sound from a file or a URL, sent to any media unit in real time."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from parley_realtime.audio import Encoding, SampleFormat, Samples
from parley_realtime.client.parameters import SendMediaParameters
from parley_realtime.events import MediaUnit
from parley_realtime.formats import CATCH_UP_SECONDS, FRAME_SECONDS
from parley_realtime.units.outlets import Outlets
from parley_realtime.units.sources import Decoder, PlayerAccess, PlayerError, checked_path, fetch, is_url

logger = logging.getLogger(__name__)

RATE = 24_000
FRAME = int(RATE * FRAME_SECONDS)
AHEAD = RATE * 2
"""Samples that are decoded ahead."""
MAX_VOLUME = 4.0


class PlayerEvents(StrEnum):
    """What a player tells its listeners."""

    PlaybackReady = "Player.PlaybackReady"
    Started = "Player.Started"
    PlaybackFinished = "Player.PlaybackFinished"
    Error = "Player.Error"


@dataclass(frozen=True, slots=True)
class PlayerEvent:
    """`data`: for PlaybackFinished `duration` (ms played) and `stopped`, for Error `message`."""

    name: PlayerEvents
    player: Player
    data: dict[str, Any] = field(default_factory=dict)


PlayerListener = Callable[[PlayerEvent], None]


class Player:
    """Plays one source. `run()` is its whole life; everything else returns at once.

    It begins when it is sent to a first unit (or by `play`), goes on for all its units alike, and ends at
    the end of its source or by `stop`. A player without a unit plays to nobody. Listeners are called on
    the event loop and must not block.
    """

    def __init__(
        self,
        source: str,
        *,
        loop: bool = False,
        volume: float = 1.0,
        access: PlayerAccess | None = None,
        executor: Executor | None = None,
    ) -> None:
        if not 0 <= volume <= MAX_VOLUME:
            raise ValueError(f"volume must be from 0 to {MAX_VOLUME:g}, got {volume!r}")
        self._source, self._loop, self._volume = source, loop, volume
        self._access = access or PlayerAccess()
        self._executor = executor
        self._id = f"player_{uuid.uuid4().hex}"
        self._outlets = Outlets(self, SampleFormat(Encoding.PCM16, RATE))
        self._listeners: list[tuple[PlayerEvents, PlayerListener]] = []
        self._decoder: Decoder | None = None
        self._refill: asyncio.Future[Samples | None] | None = None
        self._ready: deque[Samples] = deque()
        self._size = 0
        self._over = False
        self._playing = asyncio.Event()
        self._stopped = asyncio.Event()
        self._begun = False
        self.played_ms = 0

    def id(self) -> str:
        """The player's own id."""
        return self._id

    # What it is told

    def add_event_listener(self, event: PlayerEvents, callback: PlayerListener) -> None:
        """Call `callback(event)` for every such event."""
        self._listeners.append((PlayerEvents(event), callback))

    def send_media_to(
        self, media_unit: MediaUnit, parameters: SendMediaParameters | Mapping[str, Any] | None = None
    ) -> None:
        """Let the unit hear it from now on; the first one starts it."""
        self._outlets.attach(media_unit, parameters)
        if not self._begun:
            self.play()

    def stop_media_to(self, media_unit: MediaUnit) -> None:
        """The unit hears it no more; it goes on for others."""
        self._outlets.detach(media_unit)

    def play(self) -> None:
        """Begin, or go on after `pause`."""
        self._begun = True
        self._playing.set()

    def pause(self) -> None:
        """Hold where it is."""
        self._begun = True
        self._playing.clear()

    def stop(self) -> None:
        """End it."""
        self._stopped.set()
        self._playing.set()

    def clear_buffer(self) -> None:
        """Let its units forget what they were sent and did not play."""
        self._outlets.clear()

    # Its life

    async def run(self) -> None:
        """Load, play, end. Never raises but when cancelled: what goes wrong is told as an Error event."""
        try:
            await self._load()
            self._tell(PlayerEvents.PlaybackReady)
            if await self._wait_playing():
                await self._play()
        except PlayerError as exc:
            self._tell(PlayerEvents.Error, message=str(exc))
        finally:
            await self._close()

    async def _load(self) -> None:
        source = self._source
        if is_url(source):
            data: Any = await self._or_stopped(fetch(source, self._access))
        else:
            data = await self._in_thread(lambda: checked_path(source, self._access))
        if self._stopped.is_set():
            return
        self._decoder = await self._in_thread(
            lambda: Decoder(data, RATE, self._access, self._loop, self._volume)
        )
        await self._fill()

    async def _or_stopped(self, work: Any) -> Any:
        """The work's result; None when the player was stopped before it came."""
        working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, stopped):
                task.cancel()
            await asyncio.gather(working, stopped, return_exceptions=True)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._access.load_seconds):
                return await loop.run_in_executor(self._executor, work)
        except TimeoutError:
            raise PlayerError(f"the source took longer than {self._access.load_seconds:g} s") from None
        except OSError as exc:
            raise PlayerError(f"the source cannot be read: {exc.strerror or type(exc).__name__}") from None

    async def _fill(self) -> None:
        """Wait for the first frame."""
        while self._size < FRAME and not self._over:
            assert self._decoder is not None
            self._take_in(await self._in_thread(self._decoder.block))

    def _take_in(self, block: Samples | None) -> None:
        if block is None:
            self._over = True
        elif len(block):
            self._ready.append(block)
            self._size += len(block)

    async def _wait_playing(self) -> bool:
        await self._playing.wait()
        return not self._stopped.is_set()

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        self._tell(PlayerEvents.Started)
        while not self._stopped.is_set():
            if not self._playing.is_set():
                await self._playing.wait()
                due = loop.time()
                continue
            self._decode_ahead()
            frame = self._frame()
            if frame is None and self._over:
                break
            if frame is not None:
                self._outlets.send(frame.tobytes())
                self.played_ms += len(frame) * 1000 // RATE
            due = due + FRAME_SECONDS if loop.time() - due < CATCH_UP_SECONDS else loop.time()
            await asyncio.sleep(due - loop.time())
        if self._stopped.is_set():
            self._outlets.clear()
        else:
            self._outlets.done()
        stopped = self._stopped.is_set()
        self._tell(PlayerEvents.PlaybackFinished, duration=self.played_ms, stopped=stopped)

    def _decode_ahead(self) -> None:
        if self._refill is not None and self._refill.done():
            refill, self._refill = self._refill, None
            self._take_in(refill.result())
        if self._refill is None and not self._over and self._size < AHEAD and self._decoder is not None:
            loop = asyncio.get_running_loop()
            self._refill = loop.run_in_executor(self._executor, self._decoder.block)

    def _frame(self) -> Samples | None:
        """20 ms of sound, less at the very end; None when nothing is decoded."""
        if self._size < FRAME and not (self._over and self._size):
            return None
        taken, missing = [], min(FRAME, self._size)
        while missing:
            head = self._ready.popleft()
            if len(head) > missing:
                self._ready.appendleft(head[missing:])
                head = head[:missing]
            taken.append(head)
            missing -= len(head)
            self._size -= len(head)
        return np.concatenate(taken)

    async def _close(self) -> None:
        if self._refill is not None:
            await asyncio.gather(self._refill, return_exceptions=True)
        if self._decoder is not None:
            self._decoder.close()

    def _tell(self, name: PlayerEvents, **data: Any) -> None:
        event = PlayerEvent(name, self, data)
        for wanted, listener in tuple(self._listeners):
            if wanted is name:
                try:
                    listener(event)
                except Exception as exc:  # noqa: BLE001 - another party's code; the sound goes on
                    logger.error("a listener of a player raised %s", type(exc).__name__)
