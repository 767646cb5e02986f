"""One session's leg on a stream of many: its bounded queue, its credit, and its turns at the stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from parley.media.v1 import media_pb2 as pb

from parley_worker.codec import many_pb, media_pb
from parley_worker.core.effects import ConversationEvent, Mark, ToLeg
from parley_worker.core.events import LegRefusal
from parley_worker.core.media_path import OutFrame
from parley_worker.transport.leg import SLOW_READER, LegBounds
from parley_worker.transport.ports import HearFrame, SessionPort

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

    Entries = RepeatedCompositeFieldContainer[pb.AgentEntry]

ENTRY_BYTES: Final = many_pb.ENTRY_BYTES


class Turns(Protocol):
    """What the legs of a stream share."""

    waiting: int
    """Bytes in the queues of all legs."""
    most_waiting: int
    """More is too much: `shed` is called."""

    def ask(self, leg: ManyLeg) -> None:
        """Let the leg give soon. A leg asks once until it has given."""

    def shed(self) -> None:
        """End the leg with the most waiting."""

    def over(self, leg: ManyLeg) -> None:
        """The leg's last word was given: its handle is free."""


class _Said:
    """Anything but audio. An event is written where it leaves: made before, it would be copied there."""

    __slots__ = ("mark", "message", "size")

    def __init__(self, message: pb.ConverseResponse | ConversationEvent, size: int, mark: bool) -> None:
        self.message = message
        self.size = size
        self.mark = mark


class ManyLeg:
    """See LegPort. In use until its last word was given: the end of its session, or `failed`.

    `hear` is where its caller's audio goes: to `deaf` before the attach and after the end. `on_slow` is
    called once when the queue overflows, `on_room` when a session that was told of no room has some again.
    Sizes are estimates.
    """

    __slots__ = (
        "_audio_bytes",
        "_bounds",
        "_deaf",
        "_frames",
        "_giving_up",
        "_instance",
        "_item",
        "_queue",
        "_starved",
        "_turn",
        "_turns",
        "closing",
        "credit",
        "gone",
        "handle",
        "hear",
        "on_room",
        "on_slow",
        "refusal",
        "session",
        "waiting",
    )

    def __init__(self, handle: int, turns: Turns, bounds: LegBounds, instance: str, deaf: HearFrame) -> None:
        self.handle = handle
        self.hear = self._deaf = deaf
        self.session: SessionPort | None = None
        self.closing = False
        self.gone = False
        self.refusal: LegRefusal | None = None
        self.credit: int | None = None
        self.waiting = 0
        self.on_slow: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None
        self._turns = turns
        self._bounds = bounds
        self._instance = instance
        self._queue: deque[OutFrame | _Said] = deque()
        self._audio_bytes = 0
        self._frames = 0
        self._item: str | None = None
        self._turn = False
        self._starved = False
        self._giving_up: asyncio.TimerHandle | None = None

    # LegPort

    def send(self, message: ToLeg) -> None:
        """See LegPort."""
        if self.closing:
            return
        if isinstance(message, ConversationEvent):
            size = media_pb.event_size(message) + ENTRY_BYTES
            self._put(_Said(message, size, False), size)
        else:
            written = media_pb.write(message, self._instance)
            size = written.ByteSize() + ENTRY_BYTES
            self._put(_Said(written, size, isinstance(message, Mark)), size)

    def send_audio(self, frame: OutFrame) -> None:
        """See LegPort."""
        if not self.closing:
            size = len(frame.payload) + ENTRY_BYTES
            self._audio_bytes += size
            self._put(frame, size)

    def audio_room(self) -> int:
        """See LegPort. None while half of the messages that may wait do, however small they are."""
        room = self._bounds.audio_bytes - self._audio_bytes
        if len(self._queue) >= self._bounds.messages // 2:
            room = 0
        if self.credit is not None:
            room = min(room, self.credit - self._audio_bytes)
        if room <= 0:
            self._starved = True
        return room

    def queued_bytes(self) -> int:
        """See LegPort."""
        return self.waiting

    def drop_audio(self) -> dict[tuple[str, int], int]:
        """See LegPort."""
        kept: deque[OutFrame | _Said] = deque()
        forgotten: dict[tuple[str, int], int] = {}
        dropped = 0
        for queued in self._queue:
            if not isinstance(queued, _Said):
                forgotten.setdefault((queued.item_id, queued.content_index), int(queued.position_ms))
                dropped += len(queued.payload) + ENTRY_BYTES
            elif queued.mark:
                dropped += queued.size
            else:
                kept.append(queued)
        self._queue = kept
        self._audio_bytes = 0
        self._take_off(dropped)
        self._ask()
        return forgotten

    def finish(self, refusal: LegRefusal | None) -> None:
        """See LegPort. What is queued goes first; what waits for credit has `flush` seconds."""
        if self.closing:
            return
        self.closing = True
        self.hear = self._deaf
        self.refusal = refusal
        if self.credit is not None and self._audio_bytes:
            loop = asyncio.get_running_loop()
            self._giving_up = loop.call_later(self._bounds.flush, self.drop_audio)
        self._ask()

    def _put(self, item: OutFrame | _Said, size: int) -> None:
        if len(self._queue) >= self._bounds.messages or self.waiting + size > self._bounds.bytes:
            self.be_slow()
            return
        self._queue.append(item)
        self.waiting += size
        turns = self._turns
        turns.waiting += size
        if not self._turn:
            self._turn = True
            turns.ask(self)
        if turns.waiting > turns.most_waiting:
            turns.shed()

    def _ask(self) -> None:
        if not self._turn and not self.gone:
            self._turn = True
            self._turns.ask(self)

    def _take_off(self, size: int) -> None:
        self.waiting -= size
        self._turns.waiting -= size

    # The stream's side

    def be_slow(self) -> None:
        """End the leg of a caller that reads too slowly; what waits for it is thrown away."""
        if self.closing:
            return
        self.finish(SLOW_READER)
        self.on_slow()
        self._empty()

    def cut(self) -> None:
        """The stream is gone: no last word. The session has been told."""
        self.closing = self.gone = True
        self._empty()
        self._stop()

    def give_credit(self, credit: pb.Credit) -> LegRefusal | None:
        """The caller takes so much more audio."""
        total = many_pb.read_credit(credit, self.credit)
        if isinstance(total, LegRefusal):
            return total
        self.credit = total
        self._ask()
        self._tell_room()
        return None

    def give(self, entries: Entries, room: int, share: int) -> tuple[int, bool]:
        """Add what waits to `entries`: at most `room` bytes, and `share` unless the first entry is larger.

        Returns the bytes added, which the stream takes off what waits, and whether the leg has to give more.
        """
        queue, given, more = self._queue, 0, False
        while queue:
            item = queue.popleft()
            size = item.size if isinstance(item, _Said) else len(item.payload) + ENTRY_BYTES
            if given + size > room or (given and given + size > share):
                queue.appendleft(item)
                more = True
                break
            if isinstance(item, _Said):
                entry = entries.add()
                entry.handle = self.handle
                said = item.message
                if isinstance(said, ConversationEvent):
                    media_pb.write_event(said, entry.message)
                else:
                    entry.message.CopyFrom(said)
            else:
                if self.credit is not None:
                    if self.credit <= 0:
                        queue.appendleft(item)
                        break
                    self.credit -= size - ENTRY_BYTES
                self._audio_bytes -= size
                self._frames += 1
                # Set one by one: half the cost of keyword arguments.
                entry = entries.add()
                entry.handle = self.handle
                entry.audio = item.payload
                entry.sequence = self._frames
                entry.epoch = item.epoch
                entry.position_ms = int(item.position_ms)
                if item.content_index:
                    entry.content_index = item.content_index
                if item.item_id != self._item:
                    self._item = entry.item_id = item.item_id
            given += size
        self._turn = more
        self.waiting -= given
        if self.closing and not queue:
            self._give_last(entries)
        elif self._starved:
            self._tell_room()
        return given, more

    def _give_last(self, entries: Entries) -> None:
        if self.gone:
            return
        self.gone = True
        if self.refusal is not None:
            many_pb.write_failed(entries.add(), self.handle, self.refusal)
        self._stop()
        self._turns.over(self)

    def _tell_room(self) -> None:
        if self._starved and not self.closing:
            self._starved = False
            if self.audio_room() > 0:
                self.on_room()

    def _empty(self) -> None:
        self._queue.clear()
        self._audio_bytes = 0
        self._take_off(self.waiting)

    def _stop(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
