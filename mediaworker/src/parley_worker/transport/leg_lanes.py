"""In which order a caller gets what waits for it: sound does not wait for events. No I/O.

A stream of gRPC takes one message a turn of the event loop. The end of an answer is eight events at once,
while its audio still plays: in one line, they held the next frame up for 80 ms and more. Frames that wait go
in one message for the same reason: one a turn, they would never catch up while a turn takes 20 ms.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

from parley_realtime.formats import FRAME_MS

from parley_worker.core.media_path import OutFrame

Message = TypeVar("Message")

AT_MOST: Final = 4
"""Messages of sound in a row that pass an event which waits: a caller that bursts gets its events, too."""


class Queued(Generic[Message]):
    """A message, or a frame that is written when it leaves: most of what is queued is audio."""

    __slots__ = ("after", "frame", "mark", "message", "size")

    def __init__(
        self, size: int, message: Message | None = None, frame: OutFrame | None = None, mark: bool = False
    ) -> None:
        self.size = size
        self.message = message
        self.frame = frame
        self.mark = mark
        self.after = 0
        """Of an event: how many messages of sound go before it."""


class Lanes(Generic[Message]):
    """What waits for one caller. Each lane keeps its order, and no event passes sound that came before it."""

    def __init__(self) -> None:
        self._sound: deque[Queued[Message]] = deque()
        self._events: deque[Queued[Message]] = deque()
        self._came = 0
        self._went = 0
        self._in_a_row = 0

    def __len__(self) -> int:
        return len(self._sound) + len(self._events)

    def sound(self, queued: Queued[Message]) -> None:
        """Audio, and what has its place within it."""
        self._came += 1
        self._sound.append(queued)

    def event(self, queued: Queued[Message]) -> None:
        """What sound may pass."""
        queued.after = self._came
        self._events.append(queued)

    def behind_all(self, queued: Queued[Message]) -> None:
        """What nothing passes, and what passes nothing."""
        self._came += len(self._events)
        self._sound += self._events
        self._events.clear()
        self.sound(queued)

    def take(self, together: int = 1) -> Queued[Message]:
        """The next to go; of frames of 20 ms that follow each other as many as may go together, as one.
        IndexError: nothing waits."""
        events = self._events
        waits = bool(events) and events[0].after <= self._went
        if self._sound and not (waits and self._in_a_row >= AT_MOST):
            self._in_a_row = self._in_a_row + 1 if waits else 0
            first = self._next_sound()
            if together > 1 and self._sound and first.frame is not None:
                return self._with_following(first, first.frame, together)
            return first
        self._in_a_row = 0
        return events.popleft()

    def _next_sound(self) -> Queued[Message]:
        self._went += 1
        return self._sound.popleft()

    def _with_following(self, first: Queued[Message], frame: OutFrame, together: int) -> Queued[Message]:
        payloads = [frame.payload]
        size = first.size
        while len(payloads) < together and self._sound:
            following = self._sound[0].frame
            if following is None or not _goes_on(frame, len(payloads), following):
                break
            payloads.append(following.payload)
            size += self._next_sound().size
        if len(payloads) == 1:
            return first
        return Queued(size, None, _with_payload(frame, b"".join(payloads)))

    def drop_audio(self) -> list[Queued[Message]]:
        """Forget frames and marks that wait; these, in their order."""
        # How many stay of the first so many messages of sound.
        before = [0]
        kept: deque[Queued[Message]] = deque()
        dropped: list[Queued[Message]] = []
        for queued in self._sound:
            (dropped if queued.frame is not None or queued.mark else kept).append(queued)
            before.append(len(kept))
        for event in self._events:
            event.after = self._went + before[max(0, event.after - self._went)]
        self._sound = kept
        self._came = self._went + len(kept)
        return dropped


def _goes_on(first: OutFrame, frames: int, following: OutFrame) -> bool:
    """True for a frame that begins where so many frames of 20 ms from `first` on end."""
    gap = following.position_ms - first.position_ms - frames * FRAME_MS
    return (
        -0.5 < gap < 0.5
        and following.epoch == first.epoch
        and following.content_index == first.content_index
        and following.item_id == first.item_id
    )


def _with_payload(frame: OutFrame, payload: bytes) -> OutFrame:
    return OutFrame(
        payload,
        frame.item_id,
        frame.content_index,
        frame.epoch,
        frame.position_ms,
        frame.response_id,
        frame.late,
    )
