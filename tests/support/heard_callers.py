"""Callers that know exactly what they heard: a player of the test's own, and three ways to tell the worker.

cleared   answers Clear with Cleared
marks     returns marks as they are played, and answers no Clear
clock     says nothing; it only declared how much its player holds
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from media_calls import Worker, calling, start
from parley.media.v1 import media_pb2 as pb


@dataclass
class Piece:
    """Audio of an item from `position` on, in milliseconds; it sounds from `begins` (seconds) on."""

    item: str
    epoch: int
    position: float
    length: float
    begins: float

    def heard(self, now: float) -> float:
        return min(self.length, max(0.0, (now - self.begins) * 1000))


@dataclass
class Player:
    """Plays what it is given in real time, `hold` seconds after the first piece that finds it idle."""

    hold: float
    pieces: list[Piece] = field(default_factory=list)
    heard: dict[str, float] = field(default_factory=dict)
    got: dict[str, float] = field(default_factory=dict)
    cleared_epoch: int = 0
    too_late: list[str] = field(default_factory=list)

    def end(self, now: float) -> float:
        last = self.pieces[-1] if self.pieces else None
        return max(now, last.begins + last.length / 1000) if last else now

    def push(self, audio: Any, length: float, now: float) -> None:
        if audio.epoch <= self.cleared_epoch:
            self.too_late.append(f"{audio.item_id} at {audio.position_ms} of epoch {audio.epoch}")
        end = self.pieces[-1].begins + self.pieces[-1].length / 1000 if self.pieces else 0.0
        begins = end if end >= now else now + self.hold
        self.pieces.append(Piece(audio.item_id, audio.epoch, audio.position_ms, length, begins))
        self.got[audio.item_id] = max(self.got.get(audio.item_id, 0.0), audio.position_ms + length)

    def play(self, now: float) -> None:
        """Count what was heard up to now."""
        for piece in self.pieces:
            heard = piece.heard(now)
            if heard > 0:
                self.heard[piece.item] = max(self.heard.get(piece.item, 0.0), piece.position + heard)

    def clear(self, epoch: int, now: float) -> tuple[str, float]:
        """Throw away what was not heard; gives the first item of that and how far it was heard."""
        self.play(now)
        dropped = [p.item for p in self.pieces if p.epoch <= epoch and p.heard(now) < p.length]
        self.pieces = [piece for piece in self.pieces if piece.epoch > epoch]
        self.cleared_epoch = max(self.cleared_epoch, epoch)
        return (dropped[0], self.heard.get(dropped[0], 0.0)) if dropped else ("", 0.0)


class Arrivals(list[Any]):
    """Messages, and when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, message: Any) -> None:
        self.times.append(asyncio.get_running_loop().time())
        super().append(message)


@dataclass
class HeardCaller:
    """One call. After `run`, `player` holds the truth of what was heard of every item."""

    host: Worker
    config: Any
    kind: str
    wire: pb.AudioFormat
    bytes_per_ms: int
    chance: random.Random
    hold: float = 0.06
    jitter: float = 0.0
    burst: bool = False
    declared_ms: int = 0
    mark_ms: int = 0
    clears: int = 0
    marks: int = 0

    def __post_init__(self) -> None:
        self.player = Player(self.hold)
        self._marks: asyncio.Queue[pb.Mark] = asyncio.Queue()

    async def run(self) -> None:
        """Attach, give the provider its sign to begin, listen until the session ends."""
        mode = pb.PLAYOUT_MODE_BURST if self.burst else pb.PLAYOUT_MODE_REALTIME
        first = start(
            self.config,
            input_format=self.wire,
            output_format=self.wire,
            playout_mode=mode,
            playout_buffer_ms=self.declared_ms,
            mark_interval_ms=self.mark_ms,
        )
        async with calling(self.host, first) as caller:
            arrivals = caller.messages = Arrivals()
            answering = asyncio.create_task(self._return_marks(caller))
            try:
                await caller.expect("started")
                await caller.speak(bytes(self.bytes_per_ms * 200))
                await self._listen(caller, arrivals)
            finally:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        self.player.play(asyncio.get_running_loop().time() + 60)

    async def _listen(self, caller: Any, arrivals: Arrivals) -> None:
        """Take messages one by one, as a network delivers them: in order, up to `jitter` seconds late."""
        loop = asyncio.get_running_loop()
        read, due = 0, 0.0
        while True:
            while read >= len(caller.messages):
                if caller.done.is_set():
                    return
                async with caller._news:
                    await caller._news.wait()
            due = max(due, arrivals.times[read] + self.chance.uniform(0, self.jitter))
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            message = caller.messages[read]
            read += 1
            now = loop.time()
            match message.WhichOneof("message"):
                case "audio":
                    length = len(message.audio.payload) / self.bytes_per_ms
                    self.player.push(message.audio, length, now)
                case "mark":
                    self.marks += 1
                    if self.kind == "marks":
                        loop.call_at(self.player.end(now), self._marks.put_nowait, message.mark)
                case "clear":
                    self.clears += 1
                    item, heard = self.player.clear(message.clear.epoch, now)
                    if self.kind == "cleared":
                        word = pb.Cleared(epoch=message.clear.epoch, item_id=item, played_ms=int(heard))
                        await caller.send(cleared=word)

    async def _return_marks(self, caller: Any) -> None:
        while True:
            mark = await self._marks.get()
            if mark.epoch > self.player.cleared_epoch:
                await caller.send(mark_played=pb.MarkPlayed(name=mark.name, epoch=mark.epoch))
