"""Events and journal to NATS JetStream, never on the path of a call.

`publish` only appends to a bounded buffer; one task empties it. Each connection is used until it breaks, then
all that was not acknowledged goes again, in order, over a new one: repeated records are recognised by their
`Nats-Msg-Id`, and past the streams' duplicate window by looking at what the subject holds. The journal is
written with `Nats-Expected-Last-Subject-Sequence`, so a worker whose session was placed anew cannot write.

Loss window: what waits in the buffer is lost when the process is killed; while NATS answers that is what
happened within about 20 ms and one round trip. `degraded` tells when it is wider, or when something was
dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, NotFoundError

from parley_worker.clock import Clock
from parley_worker.codec import events_pb
from parley_worker.core.model import SessionKey
from parley_worker.core.outbox import Entry, Lane, Outbox
from parley_worker.core.records import EventRecord, RecordKind
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.nats_connection import FAILURES, ConnectionSettings, close_client, open_client
from parley_worker.transport.nats_flight import Answer, Flight, Gate, StreamRefused

log = logging.getLogger(__name__)

LATE_SECONDS = 5.0
GATHER_SECONDS = 0.01
"""So long records are gathered to be sent together: it costs a third of sending each for itself."""
FLUSH_LOOK_SECONDS = 0.01
AT_ONCE = 16
"""Records that are written in one turn of the event loop: what waited for NATS goes out beside the audio."""
EXPECTED_LAST = api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value
NOTHING_SHUT: frozenset[RecordKind] = frozenset()
_WRONG_LAST_SEQUENCE = (10071, 10164)
_STREAM_EXISTS = 10058
_TOO_BIG = 10054


@dataclass(frozen=True, slots=True)
class BusSettings(ConnectionSettings):
    """Where NATS is and how much may wait. Seconds and bytes."""

    replicas: int = 1
    max_age: float = 7 * 86400.0
    max_bytes: int = 1 << 30
    duplicate_window: float = 120.0
    buffer_count: int = 100_000
    buffer_bytes: int = 64 << 20
    window: int = 256
    ack_timeout: float = 5.0


class NullBus:
    """No NATS configured: records go nowhere."""

    degraded = False

    def publish(self, record: EventRecord) -> None:
        """Forget the record."""

    async def run(self) -> None:
        """Nothing to do."""

    async def close(self, timeout: float) -> int:
        """Nothing is ever lost here."""
        return 0

    def chain(self, key: SessionKey, position: int) -> None:
        """There is no journal."""

    async def flushed(self, key: SessionKey, timeout: float) -> bool:
        """Nothing is ever on its way."""
        return True


class NatsBus:
    """The EventSink over JetStream. `run()` is its task; `close()` delivers what waits, within a deadline."""

    def __init__(
        self,
        settings: BusSettings,
        *,
        worker: str,
        instance: str,
        clock: Clock,
        metrics: Metrics,
        on_fenced: Callable[[SessionKey], None] = lambda key: None,
    ) -> None:
        self._settings = settings
        self._worker, self._instance = worker, instance
        self._clock, self._metrics = clock, metrics
        self._on_fenced = on_fenced
        self._outbox = Outbox(settings.buffer_count, settings.buffer_bytes, settings.window)
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._connected = False
        self._closed = False
        self._gates: dict[RecordKind, Gate] = {}
        metrics.refreshed_by(self._gauges)

    # The sink

    def publish(self, record: EventRecord) -> None:
        """Append; never waits, never raises. What has no room is dropped by the outbox's rule and counted."""
        if self._closed:
            self._metrics.event_dropped(record.kind, "shutdown")
            return
        for dropped in self._outbox.add(record, self._clock.monotonic()):
            self._metrics.event_dropped(dropped.kind, dropped.cause, dropped.count)
        self._changed()

    @property
    def degraded(self) -> bool:
        """True while records are late, and from a loss until all that waits is delivered."""
        late = self._outbox.oldest_age(self._clock.monotonic()) > LATE_SECONDS
        return self._outbox.lossy or late

    def chain(self, key: SessionKey, position: int) -> None:
        """Write this journal only behind that sequence of its stream: where somebody else wrote, look
        again."""
        self._outbox.expect(("journal", key.uid, key.attempt), position)

    async def flushed(self, key: SessionKey, timeout: float) -> bool:
        """Wait until this journal is stored; false where it is not within `timeout` seconds, or never can
        be."""
        deadline = self._clock.monotonic() + timeout
        while (empty := self._outbox.empty(("journal", key.uid, key.attempt))) is False:
            if self._clock.monotonic() >= deadline:
                return False
            await asyncio.sleep(FLUSH_LOOK_SECONDS)
        return bool(empty)

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def waiting(self) -> int:
        """Records not yet acknowledged."""
        return len(self._outbox)

    def _gauges(self) -> None:
        box = self._outbox
        self._metrics.events_buffered(box.count("event"), box.count("journal"), box.size)
        self._metrics.journal_degraded(self.degraded)

    def _changed(self) -> None:
        self._tell_empty()
        self._wake.set()

    def _tell_empty(self) -> None:
        if len(self._outbox):
            self._empty.clear()
        else:
            self._empty.set()

    async def close(self, timeout: float) -> int:
        """Wait until all is delivered, `timeout` seconds at most; returns how many records are lost."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            pass
        self._closed = True
        lost = self._outbox.clear()
        for part in lost:
            self._metrics.event_dropped(part.kind, "shutdown", part.count)
        self._changed()
        total = sum(part.count for part in lost)
        if total:
            log.error("%d records could not be delivered to NATS", total)
        return total

    # The connection

    async def run(self) -> None:
        """Connect, deliver, and connect again, until closed or cancelled."""
        delay = self._settings.retry_min
        told = False
        while not self._closed:
            client = Client()
            try:
                js = await self._open(client)
                log.info("connected to NATS")
                delay, told = self._settings.retry_min, False
                self._set_connected(True)
                await self._deliver(client, js)
                if not self._closed:
                    log.warning("lost NATS: records wait")
            except FAILURES as error:
                if not told:
                    log.warning("NATS cannot be used: %s: %s; records wait", type(error).__name__, error)
                told = True
            except Exception:
                # An error of the client library itself: no call ends for it.
                log.exception("the NATS client failed; records wait")
                self._metrics.task_crashed()
            finally:
                self._set_connected(False)
                self._outbox.put_all_back()
                await close_client(client)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, self._settings.retry_max)

    async def _open(self, client: Client) -> JetStreamContext:
        settings = self._settings
        await open_client(client, settings, self._wake.set)
        js = client.jetstream(timeout=settings.ack_timeout)
        await self._ensure(js, events_pb.EVENTS_STREAM, events_pb.EVENTS_SUBJECTS)
        await self._ensure(js, events_pb.JOURNAL_STREAM, events_pb.JOURNAL_SUBJECTS)
        self._gates = {
            "event": Gate(settings.retry_min, settings.retry_max),
            "journal": Gate(settings.retry_min, settings.retry_max),
        }
        return js

    async def _ensure(self, js: JetStreamContext, name: str, subjects: str) -> None:
        """Create the stream when it is missing; one that exists is left as it is."""
        try:
            await js.stream_info(name)
            return
        except NotFoundError:
            pass
        settings = self._settings
        config = api.StreamConfig(
            name=name,
            subjects=[subjects],
            storage=api.StorageType.FILE,
            num_replicas=settings.replicas,
            max_age=settings.max_age,
            max_bytes=settings.max_bytes,
            duplicate_window=_window(settings),
            allow_direct=True,
        )
        try:
            await js.add_stream(config)
            log.info("created stream %s", name)
        except APIError as error:
            if error.err_code != _STREAM_EXISTS:
                raise

    def _set_connected(self, connected: bool) -> None:
        self._connected = connected
        self._metrics.nats_connected(connected)

    # Delivery

    async def _deliver(self, client: Client, js: JetStreamContext) -> None:
        """Send and take acknowledgements until the connection is gone."""
        flight = Flight(client, self._wake)
        await flight.open()
        while client.is_connected and not self._closed:
            self._wake.clear()
            await self._take_answers(js, flight.answers())
            now = self._clock.monotonic()
            if flight.expired(now):
                raise nats.errors.TimeoutError
            for number in itertools.count(1):
                taken = self._outbox.take(self._shut(now))
                if taken is None:
                    break
                await self._send(js, flight, *taken)
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)
            await self._sleep(flight)
            await asyncio.sleep(GATHER_SECONDS)

    def _shut(self, now: float) -> frozenset[RecordKind]:
        """The kinds that nothing is to be sent of."""
        if all(gate.is_open for gate in self._gates.values()):
            return NOTHING_SHUT
        return frozenset(kind for kind, gate in self._gates.items() if not gate.passes(now))

    async def _sleep(self, flight: Flight) -> None:
        """Wait for news: a record, an acknowledgement, a lost connection, or the next deadline."""
        now = self._clock.monotonic()
        until = min([flight.next_deadline(), *(gate.opens_at(now) for gate in self._gates.values())])
        try:
            async with asyncio.timeout(max(0.0, min(until - now, 1.0))):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send(self, js: JetStreamContext, flight: Flight, lane: Lane, entry: Entry) -> None:
        record = entry.record
        try:
            message = events_pb.encode(record, self._worker, self._instance)
        except events_pb.RecordError as error:
            self._lose(lane, record.kind, str(error))
            return
        now = self._clock.monotonic()
        if entry.first_sent is not None:
            self._metrics.event_retried(record.kind)
            old = now - entry.first_sent > _window(self._settings) / 2
            if old and record.kind == "event" and await self._is_last(js, record, message.msg_id):
                self._outbox.stored(lane, 0)
                self._metrics.event_published(record.kind)
                return
        entry.first_sent = entry.first_sent or now
        headers = message.headers
        if record.kind == "journal":
            headers = {**headers, EXPECTED_LAST: str(lane.expected)}
        gate = self._gates[record.kind]
        gate.sent()
        deadline = now + self._settings.ack_timeout
        try:
            await flight.publish(lane, entry, deadline, message.subject, message.payload, headers)
        except nats.errors.MaxPayloadError:
            gate.answered()
            size = len(message.payload)
            self._lose(lane, record.kind, f"{record.kind} {record.type}: {size} bytes are too many")

    async def _is_last(self, js: JetStreamContext, record: EventRecord, msg_id: str) -> bool:
        subject = events_pb.events_subject(record.key)
        held, _ = await self._last(js, events_pb.EVENTS_STREAM, subject)
        return held == msg_id

    async def _last(self, js: JetStreamContext, stream: str, subject: str) -> tuple[str, int]:
        """Msg-Id and sequence of the last message on a subject; ("", 0) when there is none."""
        try:
            message = await js.get_last_msg(stream, subject)
        except NotFoundError:
            return "", 0
        return (message.headers or {}).get("Nats-Msg-Id", ""), message.seq or 0

    async def _take_answers(self, js: JetStreamContext, answers: list[Answer]) -> None:
        for answer in answers:
            kind = answer.entry.record.kind
            gate = self._gates[kind]
            gate.answered()
            if answer.refused is not None:
                await self._take_refusal(js, gate, answer, answer.refused)
                continue
            gate.open()
            self._outbox.stored(answer.lane, answer.sequence)
            self._metrics.event_published(kind)
        if answers:
            self._tell_empty()

    async def _take_refusal(
        self, js: JetStreamContext, gate: Gate, answer: Answer, refused: StreamRefused
    ) -> None:
        lane, entry = answer.lane, answer.entry
        kind = entry.record.kind
        if refused.err_code in _WRONG_LAST_SEQUENCE:
            await self._resolve(js, lane, entry)
        elif refused.err_code == _TOO_BIG:
            self._lose(lane, kind, f"{kind} {entry.record.type}: the stream refuses its size")
        else:
            if gate.shut(self._clock.monotonic()):
                log.warning("NATS refuses %s records: %s; they wait", kind, refused)
            self._outbox.put_back(lane)
            if not refused.err_code:
                await self._ensure(js, events_pb.EVENTS_STREAM, events_pb.EVENTS_SUBJECTS)
                await self._ensure(js, events_pb.JOURNAL_STREAM, events_pb.JOURNAL_SUBJECTS)

    async def _resolve(self, js: JetStreamContext, lane: Lane, entry: Entry) -> None:
        """The journal's subject holds something else than expected: ours after all, older, or newer."""
        key = entry.record.key
        held, sequence = await self._last(js, events_pb.JOURNAL_STREAM, events_pb.journal_subject(key))
        position = events_pb.parse_journal_id(held) if held else (0, 0)
        ours = (key.attempt, entry.record.sequence)
        if position == ours:
            self._outbox.stored(lane, sequence)
            self._metrics.event_published("journal")
        elif position is not None and position < ours:
            lane.expected = sequence
            self._outbox.put_back(lane)
        else:
            lost = self._outbox.fence(lane)
            self._metrics.event_dropped("journal", "fenced", lost)
            log.error("journal of session %s attempt %d is fenced: it holds %s", key.uid, key.attempt, held)
            self._on_fenced(key)

    def _lose(self, lane: Lane, kind: RecordKind, why: str) -> None:
        log.error("record lost: %s", why)
        self._metrics.event_dropped(kind, "invalid")
        self._outbox.give_up(lane)
        self._changed()


def _window(settings: BusSettings) -> float:
    return min(settings.duplicate_window, settings.max_age) if settings.max_age else settings.duplicate_window
