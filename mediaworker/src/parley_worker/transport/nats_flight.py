"""What is under way to NATS on one connection, and when a stream that refuses is asked again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from parley_worker.core.outbox import Entry, Lane


class StreamRefused(Exception):
    """A stream did not take a record; `err_code` is JetStream's, 0 when no stream listens on the subject."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.err_code = err_code


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a record: it is stored at `sequence` of its stream, or it was `refused`."""

    lane: Lane
    entry: Entry
    sequence: int
    refused: StreamRefused | None


class _Refusal(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int | None = None
    error: _Refusal | None = None


_decode = msgspec.json.Decoder(_Ack).decode


class Flight:
    """Records that were sent on one connection and are not acknowledged. `wake` is set with each answer.

    No round trip lies between two of them. The client library's own asynchronous publishing loses refusals:
    they are wanted here, and each answer is a message that costs no future.
    """

    def __init__(self, client: Client, wake: asyncio.Event) -> None:
        self._client = client
        self._wake = wake
        self._inbox = client.new_inbox()
        self._numbers = count(1)
        self._out: dict[str, tuple[Lane, Entry, float]] = {}
        self._answers: list[Answer] = []

    async def open(self) -> None:
        """Listen for answers."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def publish(
        self, lane: Lane, entry: Entry, deadline: float, subject: str, payload: bytes, headers: dict[str, str]
    ) -> None:
        """Send; what it raises says that the record did not go out."""
        reply = f"{self._inbox}.{next(self._numbers)}"
        self._out[reply] = lane, entry, deadline
        try:
            await self._client.publish(subject, payload, reply=reply, headers=headers)
        except BaseException:
            self._out.pop(reply, None)
            raise

    async def _answered(self, message: Msg) -> None:
        sent = self._out.pop(message.subject, None)
        if sent is None:
            return
        lane, entry, _ = sent
        sequence, refused = _read(message)
        self._answers.append(Answer(lane, entry, sequence, refused))
        self._wake.set()

    def answers(self) -> list[Answer]:
        """Those that came since it was last asked, in their order."""
        answers, self._answers = self._answers, []
        return answers

    def next_deadline(self) -> float:
        """When the oldest record has waited too long; infinity when none is under way."""
        return next(iter(self._out.values()))[2] if self._out else float("inf")

    def expired(self, now: float) -> bool:
        """Whether an answer is overdue."""
        return self.next_deadline() <= now


def _read(message: Msg) -> tuple[int, StreamRefused | None]:
    if message.headers and message.headers.get("Status") == "503":
        return 0, StreamRefused(0, "no stream takes this subject")
    try:
        ack = _decode(message.data)
    except (msgspec.MsgspecError, ValueError):
        return 0, StreamRefused(0, "the acknowledgement is not readable")
    if ack.error is not None:
        return 0, StreamRefused(ack.error.err_code, ack.error.description)
    if ack.seq is None:
        return 0, StreamRefused(0, "the acknowledgement is not readable")
    return ack.seq, None


class Gate:
    """Lets everything through while a stream takes records; after a refusal a probe at a time, ever later.

    Starts with a probe. Delays and times are monotonic seconds.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._min, self._max = shortest, longest
        self._delay = self._min
        self._shut_until: float | None = 0.0
        self._out = 0

    @property
    def is_open(self) -> bool:
        """Everything goes through."""
        return self._shut_until is None

    def passes(self, now: float) -> bool:
        return self._shut_until is None or (self._out == 0 and now >= self._shut_until)

    def opens_at(self, now: float) -> float:
        """When a probe may go; infinity when nothing has to be waited for."""
        return (
            float("inf")
            if self._shut_until is None or self._out or self._shut_until <= now
            else self._shut_until
        )

    def sent(self) -> None:
        self._out += 1

    def answered(self) -> None:
        self._out -= 1

    def open(self) -> None:
        self._shut_until, self._delay = None, self._min

    def shut(self, now: float) -> bool:
        """True when it was open before."""
        was_open = self._shut_until is None
        if not was_open and now < (self._shut_until or 0.0):
            return False
        self._shut_until = now + self._delay
        self._delay = min(self._delay * 2, self._max)
        return was_open
