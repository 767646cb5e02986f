"""Writes the end of sessions, or of attempts, whose shard is gone, in its place: the last journal record and
the last events. The last words on sessions that no worker has come here, too.

What the lost shard wrote is looked at in the streams, and gone on from. The journal is written as ever with
its expected sequence, so neither a record of the dead shard that was still under way nor a newer attempt on
another worker is written over; an event that was still under way takes the number, and ours the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError

from parley_worker.codec import events_pb
from parley_worker.core.lost import END_OF, Closing, LostSession, StoredRecord, closing_records
from parley_worker.core.model import SessionKey
from parley_worker.core.records import EventRecord
from parley_worker.telemetry.process_metrics import SupervisorMetrics
from parley_worker.transport.nats_connection import FAILURES, ConnectionSettings, close_client, open_client

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Sessions; more, and the oldest are given up."""
MAX_WALK = 100_000
"""Records of one session that are looked through for its own last one."""
TRIES = 5
ANSWER_SECONDS = 5.0
_WRONG_LAST_SEQUENCE = (10071, 10164)
_CLOSING = ("ended", "attempt_lost", "recording_failed", "recording_finished")


class _Unsettled(Exception):
    """Somebody else keeps writing."""


class LostEnds:
    """What waits to be written. `run()` is its task; a connection is opened only while something waits."""

    def __init__(
        self, settings: ConnectionSettings, *, worker: str, instance: str, metrics: SupervisorMetrics
    ) -> None:
        self._settings = settings
        self._worker, self._instance, self._metrics = worker, instance, metrics
        self._waiting: deque[LostSession] = deque()
        self._news = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def add(self, lost: LostSession) -> None:
        """Write this end; never waits."""
        self._waiting.append(lost)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self._metrics.end_written("dropped")
        self._empty.clear()
        self._news.set()

    async def close(self, timeout: float) -> int:
        """Wait until all is written, `timeout` seconds at most; returns how many ends are not."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            pass
        for _ in self._waiting:
            self._metrics.end_written("dropped")
        if self._waiting:
            log.error("the ends of %d sessions could not be written", len(self._waiting))
        return len(self._waiting)

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await self._news.wait()
            delay, told = self._settings.retry_min, False
            while self._waiting:
                client = Client()
                try:
                    await open_client(client, self._settings, lambda: None)
                    await self._write_all(client.jetstream(timeout=ANSWER_SECONDS))
                except FAILURES as error:
                    if not told:
                        log.warning("ends of lost sessions wait for NATS: %s", type(error).__name__)
                    told = True
                except Exception:
                    # An error of the client library itself: the worker goes on.
                    log.exception("the NATS client failed; ends of lost sessions wait")
                    self._metrics.task_crashed()
                finally:
                    await close_client(client)
                if self._waiting:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, self._settings.retry_max)
            self._news.clear()
            self._empty.set()

    async def _write_all(self, js: JetStreamContext) -> None:
        while self._waiting:
            lost = self._waiting[0]
            try:
                outcome = await self._write(js, lost)
            except (APIError, _Unsettled, events_pb.RecordError) as error:
                if isinstance(error, APIError) and (error.code or 0) >= 500:
                    raise
                log.error("the end of session %s is not written: %s", lost.report.key.uid, error)
                outcome = "dropped"
            self._metrics.end_written(outcome)
            if self._waiting and self._waiting[0] is lost:
                self._waiting.popleft()

    async def _write(self, js: JetStreamContext, lost: LostSession) -> str:
        """The journal before the events: whoever hears of the end finds the journal closed."""
        fenced = not await self._close_journal(js, lost)
        await self._close_events(js, lost)
        return "fenced" if fenced else "written"

    async def _close_journal(self, js: JetStreamContext, lost: LostSession) -> bool:
        """False when a newer attempt writes the journal."""
        key = lost.report.key
        subject = events_pb.journal_subject(key)
        for _ in range(TRIES):
            last = await self._last(js, events_pb.JOURNAL_STREAM, subject)
            if last.attempt > key.attempt:
                return False
            told = lost.closing is Closing.LAST_WORD and last.type == END_OF["journal"]
            present = {last.type} if last.attempt == key.attempt or told else set()
            for record in closing_records(lost, "journal", last, present):
                if not await self._publish(js, record, last.position):
                    break
            else:
                return True
        raise _Unsettled("others keep writing its journal")

    async def _close_events(self, js: JetStreamContext, lost: LostSession) -> None:
        key = lost.report.key
        subject = events_pb.events_subject(key)
        for _ in range(TRIES):
            last = await self._last(js, events_pb.EVENTS_STREAM, subject)
            if last.attempt > key.attempt:
                last = await self._own_last(js, subject, key)
            present = {type_ for type_ in _CLOSING if await self._written(js, lost, type_)}
            if "recording_finished" in present:
                present.add("recording_failed")
            for record in closing_records(lost, "event", last, present):
                if not await self._publish(js, record):
                    break
            else:
                return
        raise _Unsettled("others keep writing its events")

    async def _publish(self, js: JetStreamContext, record: EventRecord, expected: int | None = None) -> bool:
        """Store a record; false when somebody else was there first."""
        message = events_pb.encode(record, self._worker, self._instance)
        headers = dict(message.headers)
        if expected is not None:
            headers[api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value] = str(expected)
        try:
            ack = await js.publish(message.subject, message.payload, headers=headers, timeout=ANSWER_SECONDS)
        except APIError as error:
            if error.err_code in _WRONG_LAST_SEQUENCE:
                return False
            raise
        return not ack.duplicate

    # What the streams hold

    async def _written(self, js: JetStreamContext, lost: LostSession, type_: str) -> bool:
        key = lost.report.key
        subject = events_pb.subject(EventRecord("event", key, 0, 0.0, type_))
        attempt = (await self._last(js, events_pb.EVENTS_STREAM, subject)).attempt
        any_attempt = lost.closing is Closing.LAST_WORD and type_ == END_OF["event"]
        return attempt > 0 if any_attempt else attempt == key.attempt

    async def _last(self, js: JetStreamContext, stream: str, subject: str) -> StoredRecord:
        try:
            return _stored(await js.get_last_msg(stream, subject))
        except NotFoundError:
            return StoredRecord()

    async def _own_last(self, js: JetStreamContext, subject: str, key: SessionKey) -> StoredRecord:
        """The last event of this attempt, where a newer one has begun to write."""
        found, position = StoredRecord(), 1
        for _ in range(MAX_WALK):
            try:
                message = await js.get_msg(events_pb.EVENTS_STREAM, position, subject=subject, next=True)
            except NotFoundError:
                break
            stored = _stored(message)
            if stored.attempt == key.attempt:
                found = stored
            position = stored.position + 1
        return found


def _stored(message: api.RawStreamMsg) -> StoredRecord:
    headers = message.headers or {}
    identity = headers.get("Nats-Msg-Id", "")
    found = events_pb.parse_event_id(identity) or events_pb.parse_journal_id(identity) or (0, 0)
    type_ = headers.get("ce-type", "").rpartition(".")[2].replace("-", "_")
    return StoredRecord(*found, type_, message.seq or 0)
