"""Takes the journal of a session over from the worker that wrote it: reads it, and fences that worker out.

The record that says who writes from here on is stored under the condition that nothing was stored since the
last record that was read; where something was, that is read too. So what was read is all there is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass

from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from parley_worker.clock import Clock
from parley_worker.codec import events_pb, journal_json
from parley_worker.core.model import RestoreMode, SessionKey
from parley_worker.core.records import EventRecord
from parley_worker.core.restored import JournalRecord
from parley_worker.transport.nats_connection import FAILURES, ConnectionSettings, close_client, open_client

AT_ONCE = 16
"""Journals that are read side by side."""
TRIES = 8
BATCH = 64
"""Records that are parsed in one turn of the event loop."""
MAX_RECORDS = 20_000
MAX_BYTES = 32 * 1024 * 1024
"""Of one journal; of a longer one the newest part is taken."""
ANSWER_SECONDS = 2.0
_WRONG_LAST_SEQUENCE = (10071, 10164)
_SKIPPED = frozenset({"trace", "scenario-log", "session-configured", "dtmf"})


class JournalUnavailable(Exception):
    """The journal cannot be read now; the text says why."""


class JournalTaken(Exception):
    """A newer attempt writes it already."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a journal held. `position` is the stream's sequence of its last record, 0 for none; `numbers` are
    attempt and sequence of every record, `cut` is true where the first of them were too many."""

    records: tuple[JournalRecord, ...]
    numbers: tuple[tuple[int, int], ...]
    position: int
    cut: bool


class _Reading:
    """What was read so far."""

    def __init__(self) -> None:
        self.records: deque[tuple[JournalRecord | None, tuple[int, int], int]] = deque()
        self.bytes = 0
        self.position = 0
        self.cut = False

    def add(self, headers: dict[str, str], payload: bytes, position: int) -> None:
        word = headers.get("ce-type", "").rpartition(".")[2]
        numbers = events_pb.parse_journal_id(headers.get("Nats-Msg-Id", "")) or (0, 0)
        record = None if word in _SKIPPED else journal_json.read(payload)
        size = len(payload) if record is not None else 0
        self.records.append((record, numbers, size))
        self.bytes += size
        self.position = position
        while len(self.records) > MAX_RECORDS or self.bytes > MAX_BYTES:
            self.bytes -= self.records.popleft()[2]
            self.cut = True

    @property
    def attempt(self) -> int:
        return max((numbers[0] for _, numbers, _ in self.records), default=0)

    def taken(self, position: int) -> Taken:
        records = tuple(record for record, _, _ in self.records if record is not None)
        return Taken(records, tuple(numbers for _, numbers, _ in self.records), position, self.cut)


class Journals:
    """The journals of JetStream. `timeout` seconds are taken for one at most, waiting for a turn aside."""

    def __init__(
        self, settings: ConnectionSettings, *, worker: str, instance: str, clock: Clock, timeout: float = 3.0
    ) -> None:
        self._settings, self._timeout = settings, timeout
        self._worker, self._instance, self._clock = worker, instance, clock
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def take_over(self, key: SessionKey, mode: RestoreMode, *, write: bool = True) -> Taken:
        """Read all of it and become its writer; without `write` only read.

        Raises JournalUnavailable or JournalTaken.
        """
        async with self._turns:
            client = Client()
            try:
                async with asyncio.timeout(self._timeout):
                    await open_client(client, self._settings, lambda: None)
                    return await self._take(client.jetstream(timeout=ANSWER_SECONDS), key, mode, write)
            except TimeoutError:
                raise JournalUnavailable(f"NATS did not give it within {self._timeout:g} s") from None
            except (*FAILURES, JetStreamError) as error:
                raise JournalUnavailable(f"NATS: {type(error).__name__}") from None
            finally:
                await close_client(client)

    async def _take(self, js: JetStreamContext, key: SessionKey, mode: RestoreMode, write: bool) -> Taken:
        reading = _Reading()
        for _ in range(TRIES):
            await self._read(js, key, reading)
            if reading.attempt >= key.attempt:
                raise JournalTaken
            if not write:
                return reading.taken(reading.position)
            try:
                stored = await self._write(js, key, mode, reading)
            except APIError as error:
                if error.err_code in _WRONG_LAST_SEQUENCE:
                    continue
                raise
            return reading.taken(stored)
        raise JournalUnavailable("somebody else keeps writing it")

    async def _read(self, js: JetStreamContext, key: SessionKey, reading: _Reading) -> None:
        subject = events_pb.journal_subject(key)
        try:
            last = await js.get_last_msg(events_pb.JOURNAL_STREAM, subject)
        except NotFoundError:
            return
        end = last.seq or 0
        if end <= reading.position:
            return
        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=reading.position + 1,
            ack_policy=api.AckPolicy.NONE,
            inactive_threshold=10.0,
            mem_storage=True,
            num_replicas=1,
        )
        consumer = await js.pull_subscribe(subject, stream=events_pb.JOURNAL_STREAM, config=config)
        try:
            while reading.position < end:
                for message in await consumer.fetch(BATCH, timeout=ANSWER_SECONDS):
                    position = message.metadata.sequence.stream
                    reading.add(message.headers or {}, message.data, position)
        finally:
            with contextlib.suppress(*FAILURES, JetStreamError):
                await consumer.unsubscribe()

    async def _write(self, js: JetStreamContext, key: SessionKey, mode: RestoreMode, read: _Reading) -> int:
        fields = {"from_attempt": read.attempt, "mode": str(mode)}
        record = EventRecord("journal", key, 1, self._clock.wall(), "takeover", fields)
        message = events_pb.encode(record, self._worker, self._instance)
        headers = dict(message.headers)
        headers[api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value] = str(read.position)
        ack = await js.publish(message.subject, message.payload, headers=headers)
        return ack.seq
