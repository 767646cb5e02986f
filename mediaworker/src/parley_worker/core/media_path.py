"""The audio of one session: frames, epochs, played counters. No event, JSON or protobuf.

The session steers it (attach, clear, detach); it decides nothing about the conversation.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from parley_realtime.formats import CATCH_UP_SECONDS, FRAME_MS, FRAME_SECONDS

from parley_worker.core.audio import AudioFormat, Converter, converter
from parley_worker.core.backlog import Delay
from parley_worker.core.leg_codec import LegCodec
from parley_worker.core.playout import AudioCounters, PartKey, PlayoutLedger
from parley_worker.core.underruns import WORKER_LATE_SECONDS, UnderrunWatch

MAX_INPUT_FRAME_MS = 1000
LATE_SECONDS = 10.0
"""How much late audio may come at once: a caller who was silent for an hour has no hour to catch up on."""
BURST_FRAME_MS = 100
MUTED_RESPONSES = 64
MAX_WAITING_PARTS = 1024


class PlayoutMode(Enum):
    """How agent audio is delivered."""

    REALTIME = "realtime"
    BURST = "burst"


class InputFault(Enum):
    """What is wrong with a caller's frame; any of them but STALE ends the leg."""

    EMPTY = "frame-empty"
    UNALIGNED = "frame-unaligned"
    OVERSIZED = "frame-oversized"
    TOO_FAST = "faster-than-real-time"
    STALE = "frame-stale"


class InputPath:
    """One leg's audio on its way to the provider.

    `burst` seconds of audio may be ahead of real time, and LATE_SECONDS more that were late before: what a
    stalled network or machine held back comes at once, and is not faster than real time.
    """

    def __init__(self, leg: AudioFormat, provider: AudioFormat, burst: float) -> None:
        self._leg = leg
        self._sample = leg.sample_bytes
        self._most = leg.bytes_per_ms * MAX_INPUT_FRAME_MS
        self._rate = leg.bytes_per_second
        self._convert = None if leg == provider else converter(leg, provider).convert
        self._burst = burst
        self._last = 0
        self._ahead = 0.0
        self._at: float | None = None
        self.delay = Delay()
        self.gaps = 0
        self.stale = 0

    @property
    def last(self) -> int:
        """Sequence of the last frame that was taken; 0 for none."""
        return self._last

    def accept(self, payload: bytes, sequence: int, now: float) -> bytes | InputFault:
        """Provider-format bytes that are ready (may be empty), or what is wrong with the frame."""
        size = len(payload)
        if not 0 < size <= self._most or size % self._sample:
            return self._fault(size)
        since = 0.0 if self._at is None else now - self._at
        ahead = self._ahead - since
        self._at = now
        duration = size / self._rate
        self._ahead = ahead = (ahead if ahead > -LATE_SECONDS else -LATE_SECONDS) + duration
        if ahead > self._burst:
            return InputFault.TOO_FAST
        self.delay.came(ahead, since, duration)
        last = self._last
        if sequence != last + 1:
            if sequence <= last:
                self.stale += 1
                return InputFault.STALE
            self.gaps += 1
            self.delay.missed((sequence - last - 1) * duration)
        self._last = sequence
        return payload if self._convert is None else self._convert(payload)

    def _fault(self, size: int) -> InputFault:
        if not size:
            return InputFault.EMPTY
        return InputFault.UNALIGNED if size % self._sample else InputFault.OVERSIZED


class OutFrame:
    """Audio for the caller, in its format. `position_ms` is within the content part; `late` is the
    worker's part, in seconds, of how late it leaves.

    Not to be changed by whoever gets it. No dataclass: one is made for every 20 ms of every session, and the
    constructor that a dataclass writes is not compiled.
    """

    __slots__ = ("content_index", "epoch", "item_id", "late", "payload", "position_ms", "response_id")

    def __init__(
        self,
        payload: bytes,
        item_id: str,
        content_index: int,
        epoch: int,
        position_ms: float,
        response_id: str = "",
        late: float = 0.0,
    ) -> None:
        self.payload = payload
        self.item_id = item_id
        self.content_index = content_index
        self.epoch = epoch
        self.position_ms = position_ms
        self.response_id = response_id
        self.late = late


@dataclass(frozen=True, slots=True)
class OutMark:
    """A point of a content part in the caller's stream: its end, or every so often where that was asked."""

    item_id: str
    content_index: int
    epoch: int
    position_ms: float


Out = OutFrame | OutMark


@dataclass(slots=True)
class _Part:
    """One content part on its way. `chunks` are in the provider's format, `ready` in the caller's from `at`
    on."""

    key: PartKey
    response_id: str
    epoch: int
    chunks: deque[bytes | memoryview] = field(default_factory=deque)
    ready: bytes = b""
    at: int = 0
    done: bool = False
    flushed: bool = False
    taken: float = 0.0
    position: float = 0.0
    marked: float = 0.0

    @property
    def left(self) -> int:
        """Bytes that are ready."""
        return len(self.ready) - self.at

    def add(self, ready: bytes) -> None:
        """More is ready."""
        self.ready = self.ready[self.at :] + ready if self.left else ready
        self.at = 0

    def cut(self, size: int) -> bytes:
        """The next bytes that are ready, at most `size`."""
        payload = self.ready[self.at : self.at + size]
        self.at += len(payload)
        return payload


class Mix(Protocol):
    """Other sound for the caller, in the caller's format."""

    @property
    def sounding(self) -> bool:
        """True when there is some now."""

    def over(self, payload: bytes) -> bytes:
        """A frame of the agent with that sound under it, as long as before."""

    def background(self, ms: int) -> bytes | None:
        """A frame of that sound alone; None when there is none."""


class OutputPath:
    """Agent audio on its way to the caller: queue, conversion, playout clock, epochs.

    Audio waits in the provider's format and is converted when it is due, so a caller that comes back with
    another format goes on where it was. `push` tells when more than `max_bytes` wait (or too many parts):
    then the answer has to be cancelled.

    In real time a clock that starts gives `lead_frames` at once beside the first frame. The caller holds them
    from then on: a frame that is late by less leaves no gap.
    """

    def __init__(
        self,
        provider: AudioFormat,
        ledger: PlayoutLedger,
        counters: AudioCounters,
        max_bytes: int,
        underruns: UnderrunWatch | None = None,
        lead_frames: int = 0,
    ) -> None:
        self._provider = provider
        self._lead = lead_frames
        self._underruns = underruns or UnderrunWatch()
        self._ledger = ledger
        self._counters = counters
        self._max = max_bytes
        self._parts: deque[_Part] = deque()
        self._muted: deque[str] = deque(maxlen=MUTED_RESPONSES)
        self._epochs: dict[str, int] = {}
        self._leg: AudioFormat | None = None
        self._mode = PlayoutMode.REALTIME
        self._asked = PlayoutMode.REALTIME
        self._mix: Mix | None = None
        self._mark_ms = 0
        self._convert: Converter | None = None
        self._codec: LegCodec | None = None
        self._whole = True
        self._untouched = False
        self._plain = False
        self._size = 0
        self._due: float | None = None
        self._ahead = 0
        self.following: float | None = None
        """When `next_frame` gives the next one, told with each frame; None: it has to be looked for."""
        self.epoch = 0
        self.bytes = 0
        self.muted_chunks = 0

    def attach(
        self,
        leg: AudioFormat,
        mode: PlayoutMode,
        mark_interval_ms: int = 0,
        codec: LegCodec | None = None,
    ) -> None:
        """Deliver in this format from now on; what waits goes on.

        With `mark_interval_ms` there are marks within parts, that far apart; without only at their ends.
        With a `codec` all frames have 20 ms, and silence behind a part pushes out what it holds back.
        """
        self._leg, self._asked, self._mark_ms = leg, mode, mark_interval_ms
        self._codec = codec
        convert = converter(self._provider, leg)
        self._convert = convert if codec is None else codec.behind(convert, leg)
        self._untouched = codec is None and leg == self._provider
        self._size = leg.frame_bytes
        self._due = None
        self._underruns.attached(leg.bytes_per_ms)
        self._settle()

    def mix_with(self, mix: Mix | None) -> None:
        """Let the caller hear other sound, too, until None. So long everything goes out in real time."""
        self._mix = mix
        self._settle()

    def _settle(self) -> None:
        self._mode = self._asked if self._mix is None else PlayoutMode.REALTIME
        realtime = self._mode is PlayoutMode.REALTIME
        self._whole = realtime or self._codec is not None
        self._plain = realtime and self._leg is not None and self._mix is None and not self._mark_ms

    def detach(self) -> None:
        """Hold what waits. What was converted but not sent (at most the conversion's delay) is lost."""
        self._leg = None
        self._due = None
        self._plain = False
        self._underruns.forget()
        for part in self._parts:
            if self._untouched and part.left:
                rest = part.cut(part.left)
                part.chunks.appendleft(rest)
                part.taken -= self._provider.ms(len(rest))
                self.bytes += len(rest)
            part.ready, part.at = b"", 0
            part.position = part.taken

    def push(self, payload: bytes, response_id: str, item_id: str, content_index: int, now: float) -> bool:
        """Queue a delta; False when it does not fit any more. Deltas of a cleared answer are dropped."""
        if response_id in self._muted:
            self.muted_chunks += 1
            return True
        self._underruns.fed(now)
        epoch = self._epoch_of(response_id)
        key = (item_id, content_index)
        before = self._ledger.received(key, epoch, self._provider.ms(len(payload)), now)
        if not self._parts and self._due is not None and self._runs_out(self._due) < now:
            self._due = None
        part = self._parts[-1] if self._parts else None
        if part is None or part.key != key:
            part = next((p for p in reversed(self._parts) if p.key == key), None)
        if part is None or part.done or part.flushed:
            part = _Part(key, response_id, epoch, taken=before, position=before, marked=before)
            self._parts.append(part)
        part.chunks.append(payload)
        self.bytes += len(payload)
        return self.bytes <= self._max and len(self._parts) <= MAX_WAITING_PARTS

    def _epoch_of(self, response_id: str) -> int:
        """One more for each response; two that speak by turns keep theirs."""
        epoch = self._epochs.get(response_id)
        if epoch is None:
            self.epoch += 1
            epoch = self._epochs[response_id] = self.epoch
            while len(self._epochs) > MUTED_RESPONSES:
                del self._epochs[next(iter(self._epochs))]
        return epoch

    def end_part(self, response_id: str, item_id: str, content_index: int) -> None:
        """The provider has sent all audio of a part."""
        if response_id in self._muted:
            return
        key = (item_id, content_index)
        self._ledger.done(key)
        for part in self._parts:
            if part.key == key:
                part.done = True
        if self._parts and self._parts[0].done:
            self._underruns.forget()

    def clear(self, responses: Iterable[str]) -> int:
        """Drop everything that waits and what these answers still send; gives the epoch to clear up to."""
        latest = [response for response, epoch in self._epochs.items() if epoch == self.epoch]
        for response in {*responses, *latest, *(p.response_id for p in self._parts)}:
            if response and response not in self._muted:
                self._muted.append(response)
        self._parts.clear()
        self.bytes = 0
        self._underruns.forget()
        if self._convert is not None:
            self._convert.flush()
        self._ahead = 0
        if self._mix is None:
            self._due = None
        return self.epoch

    @property
    def waiting(self) -> bool:
        return bool(self._parts)

    @property
    def waiting_frames(self) -> int:
        """Frames of 20 ms that wait, the last one perhaps shorter."""
        return math.ceil(self._provider.ms(self.bytes) / FRAME_MS)

    def next_due(self, now: float) -> float | None:
        """When `take` has something; None while nothing waits or nobody is attached."""
        if self._leg is None:
            return None
        if self._plain and self._due is not None and self._parts and self._parts[0].left >= self._size:
            return self._due
        if not self._parts or not self._enough(self._parts[0]):
            return (self._due or now) if self._mix is not None and self._mix.sounding else None
        if self._mode is PlayoutMode.BURST or self._due is None:
            return now
        return self._due

    def next_frame(self, now: float) -> OutFrame | None:
        """The frame that is due while an answer plays and nothing else is to be done; None: see `take`.

        It gives what `take` would give, for less: this is called for every 20 ms of every session.
        """
        due = self._due
        if (
            due is None
            or not self._plain
            or not self._parts
            or self._ahead < self._lead
            or not due - 1e-6 <= now <= due + CATCH_UP_SECONDS
        ):
            return None
        part = self._parts[0]
        at = part.at
        end = at + self._size
        if end > len(part.ready):
            return None
        part.at = end
        position = part.position
        part.position = position + FRAME_MS
        self._due = due + FRAME_SECONDS
        self.following = self._due if end + self._size <= len(part.ready) else None
        late = now - due
        if late > WORKER_LATE_SECONDS:
            late = self._underruns.late(due, now, self._ahead * FRAME_SECONDS)
        self._ledger.sent(part.key, position, FRAME_MS, now)
        self._counters.output_ms += FRAME_MS
        item_id, index = part.key
        return OutFrame(part.ready[at:end], item_id, index, part.epoch, position, part.response_id, late)

    def watch(self, queued: int) -> None:
        """So many bytes wait in the caller's queue now."""
        if self._mode is PlayoutMode.REALTIME:
            self._underruns.queued(queued)

    def take(self, now: float, room: int) -> list[Out]:
        """What is due, at most `room` bytes of audio when bursting.

        The clock moves by 20 ms a frame whatever `now` is; behind by more than 200 ms, or idle, it
        starts anew, and with it the lead.
        """
        out: list[Out] = []
        while self._leg is not None and (self._parts or self._mix is not None):
            part = self._parts[0] if self._parts else None
            if part is None or not self._enough(part):
                runs_out = None if self._due is None else self._runs_out(self._due)
                if part is not None:
                    self._underruns.dry(runs_out)
                alone = self._alone(now)
                if alone is not None:
                    out.append(alone)
                    continue
                if runs_out is not None and runs_out <= now:
                    self._due = None
                break
            if self._finished(part):
                self._parts.popleft()
                end = part.position if self._codec is None else min(part.position, round(part.taken, 3))
                out.append(OutMark(part.key[0], part.key[1], part.epoch, end))
                continue
            if self._mode is PlayoutMode.BURST:
                if room <= 0:
                    break
                ms = FRAME_MS if self._whole else BURST_FRAME_MS
                frame = self._frame(part, self._leg, ms, 0.0, now)
                room -= len(frame.payload)
            else:
                late = 0.0 if self._due is None else now - self._due
                if late > WORKER_LATE_SECONDS:
                    late = self._underruns.late(now - late, now, self._ahead * FRAME_SECONDS)
                due = self._clock(now)
                if due > now + 1e-6:
                    break
                frame = self._frame(part, self._leg, FRAME_MS, max(late, 0.0), now)
                if self._ahead < self._lead:
                    self._ahead += 1
                else:
                    self._due = due + FRAME_SECONDS
            out.append(frame)
            if self._mark_ms and part.position - part.marked >= self._mark_ms:
                part.marked = part.position
                out.append(OutMark(frame.item_id, frame.content_index, frame.epoch, part.position))
        return out

    def _clock(self, now: float) -> float:
        """When the next frame is due, by a clock that starts where there is none or it is far behind."""
        due = self._due
        if due is None or now - due > CATCH_UP_SECONDS:
            due = self._due = now
            self._ahead = 0
        return due

    def _runs_out(self, due: float) -> float:
        """When a caller has nothing more to play whose next frame was due then."""
        return due + self._ahead * FRAME_SECONDS

    def _alone(self, now: float) -> OutFrame | None:
        """A frame that is due without the agent in it. Its epoch comes next, so no Clear so far drops it."""
        if self._mix is None or not self._mix.sounding:
            return None
        due = self._clock(now)
        if due > now + 1e-6 or (payload := self._mix.background(FRAME_MS)) is None:
            return None
        late = now - due
        self._due = due + FRAME_SECONDS
        return OutFrame(payload, "", 0, self.epoch + 1, 0.0, "", late)

    def _enough(self, part: _Part) -> bool:
        """Fills `ready` as far as needed; True when a frame or the part's end can go out."""
        assert self._leg is not None
        assert self._convert is not None
        want = self._size if self._whole else self._leg.bytes_per_ms * BURST_FRAME_MS
        while part.left < want and part.chunks:
            chunk = self._next_chunk(part)
            self.bytes -= len(chunk)
            part.taken += self._provider.ms(len(chunk))
            part.add(self._convert.convert(chunk))
        if not part.chunks and not part.flushed and (part.done or len(self._parts) > 1):
            part.add(self._convert.flush())
            part.flushed = True
        return part.flushed or part.left >= want or (not self._whole and part.left > 0)

    def _next_chunk(self, part: _Part) -> bytes:
        """What is converted next: no more than is lost with a caller who leaves."""
        chunk = part.chunks.popleft()
        step = self._provider.frame_bytes
        if self._untouched or len(chunk) <= step:
            return bytes(chunk)
        rest = memoryview(chunk)
        part.chunks.appendleft(rest[step:])
        return bytes(rest[:step])

    def _finished(self, part: _Part) -> bool:
        return part.flushed and not part.left

    def _frame(self, part: _Part, leg: AudioFormat, ms: int, late: float, now: float) -> OutFrame:
        size = leg.bytes_per_ms * ms
        payload = part.cut(size)
        duration = leg.ms(len(payload))
        if len(payload) < size and self._whole:
            payload += leg.silence * ((size - len(payload)) // leg.sample_bytes)
        if self._mix is not None:
            payload = self._mix.over(payload)
        frame = OutFrame(payload, part.key[0], part.key[1], part.epoch, part.position, part.response_id, late)
        self._ledger.sent(part.key, part.position, duration, now)
        part.position += duration
        self._counters.output_ms += duration
        return frame
