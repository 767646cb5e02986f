"""What is under way to NATS on one connection, and when a stream that refuses is asked again."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from itertools import count

from nats.aio.client import Client
from nats.aio.msg import Msg

from parley_worker.core.outbox import Entry, Lane


class StreamRefused(Exception):
    """A stream did not take a record; `err_code` is JetStream's, 0 when no stream listens on the subject."""

    def __init__(self, err_code: int, description: str) -> None:
        super().__init__(f"{description} ({err_code})")
        self.err_code = err_code


class AckInbox:
    """Publishes and gives each acknowledgement back as a future, without a round trip in between.

    The client library's own asynchronous publishing loses refusals: they are wanted here.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = count(1)
        self._acks: dict[str, asyncio.Future[int]] = {}

    async def open(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> asyncio.Future[int]:
        """Send; the future has the record's stream sequence, or StreamRefused."""
        reply = f"{self._inbox}.{next(self._numbers)}"
        ack: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._acks[reply] = ack
        try:
            await self._client.publish(subject, payload, reply=reply, headers=headers)
        except BaseException:
            del self._acks[reply]
            ack.cancel()
            raise
        return ack

    async def _answered(self, message: Msg) -> None:
        ack = self._acks.pop(message.subject, None)
        if ack is None or ack.done():
            return
        if (message.headers or {}).get("Status") == "503":
            ack.set_exception(StreamRefused(0, "no stream takes this subject"))
            return
        try:
            body = json.loads(message.data)
            error = body.get("error")
            if error is None:
                ack.set_result(int(body["seq"]))
            else:
                ack.set_exception(StreamRefused(int(error.get("err_code", 0)), str(error.get("description"))))
        except (ValueError, TypeError, KeyError, AttributeError):
            ack.set_exception(StreamRefused(0, "the acknowledgement is not readable"))


class Gate:
    """Lets everything through while a stream takes records; after a refusal a probe at a time, ever later.

    Starts with a probe. Delays and times are monotonic seconds.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._min, self._max = shortest, longest
        self._delay = self._min
        self._shut_until: float | None = 0.0
        self._out = 0

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


class Flight:
    """Records that were sent on one connection and are not acknowledged."""

    def __init__(self, wake: asyncio.Event) -> None:
        self._wake = wake
        self._out: dict[asyncio.Future[int], tuple[Lane, Entry, float]] = {}
        self._done: deque[asyncio.Future[int]] = deque()

    def add(self, lane: Lane, entry: Entry, ack: asyncio.Future[int], deadline: float) -> None:
        self._out[ack] = (lane, entry, deadline)
        ack.add_done_callback(self._answered)

    def _answered(self, ack: asyncio.Future[int]) -> None:
        self._done.append(ack)
        self._wake.set()

    def results(self) -> list[tuple[Lane, Entry, asyncio.Future[int]]]:
        """Those that were answered, in the order of the answers."""
        results = [(*self._out.pop(ack)[:2], ack) for ack in self._done if ack in self._out]
        self._done.clear()
        return results

    def next_deadline(self) -> float:
        return next(iter(self._out.values()))[2] if self._out else float("inf")

    def expired(self, now: float) -> bool:
        return self.next_deadline() <= now

    def abandon(self) -> None:
        for ack in list(self._out):
            if ack.done() and not ack.cancelled():
                ack.exception()
            else:
                ack.cancel()
        self._out.clear()
