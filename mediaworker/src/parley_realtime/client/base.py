"""What the GA and the beta client have in common: everything but how the methods take their arguments."""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

from parley_realtime.client.connection import Connection, ConnectionState
from parley_realtime.client.dispatch import Dispatcher
from parley_realtime.client.lifeline import Lifeline
from parley_realtime.client.line_fill import LineFill
from parley_realtime.client.listeners import Listeners, RealtimeEvent
from parley_realtime.client.media import MediaHub
from parley_realtime.client.pacing import Done
from parley_realtime.client.parameters import (
    ClearMediaBufferParameters,
    Outcome,
    RealtimeAPIClientParameters,
    SendMediaParameters,
    Statistics,
)
from parley_realtime.client.statistics import METERED, Meter
from parley_realtime.client.uplink import Uplink
from parley_realtime.errors import ClientStateError, InvalidEventError, RealtimeError, ScenarioError
from parley_realtime.events import (
    AUDIO_DONE_TYPES,
    SESSION_READY_TYPES,
    MediaChunk,
    MediaSource,
    MediaUnit,
    WebSocketCloseEvent,
)
from parley_realtime.formats import AudioFormat
from parley_realtime.payloads.common import RateLimit
from parley_realtime.protocol.core import ProtocolCore, ServerEvent
from parley_realtime.protocol.shape import Shape
from parley_realtime.recovery import RecoveryEvents, RecoveryRecord

logger = logging.getLogger(__name__)
MAX_RATE_LIMITS = 16
_FOLLOWED = AUDIO_DONE_TYPES | {
    "response.created",
    "response.done",
    "input_audio_buffer.speech_started",
    "rate_limits.updated",
}
"""What `_follow` looks at."""


class BaseRealtimeAPIClient:
    """One conversation with one provider over one WebSocket.

    `await connect()` once; after it every method is synchronous and returns at once: what is to be sent waits
    in a bounded queue. After the end methods do nothing. Use from one event loop only.
    """

    shape: ClassVar[Shape]

    def __init__(self, parameters: RealtimeAPIClientParameters) -> None:
        self._p = parameters
        self._id = f"client_{uuid.uuid4().hex}"
        parameters.url(self.shape)
        self._statistics = Statistics()
        self._meter = Meter(self._statistics)
        self._listeners = Listeners(self.shape, parameters.handler_rules())
        self._dispatcher = Dispatcher(
            self._listeners, parameters.handler_timeout, parameters.pending_events, self._scenario_failed
        )
        self._connection = self._make_connection(parameters)
        self._uplink = Uplink(parameters.input_format, self._connection.put_audio)
        self._connection.lend(self._uplink)
        self._media = MediaHub(
            self,
            parameters.output_format,
            parameters.playout_buffer_ms,
            self._statistics,
            lambda data: self._emit(self.shape.media_started_name, data),
            lambda data: self._emit(self.shape.media_ended_name, data),
            lambda error: self._complain("a media unit is detached, it raised", error),
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._fill: LineFill | None = None
        self._scenario_error: ScenarioError | None = None
        self._rate_limits: dict[str, RateLimit] = {}

    def _make_connection(self, parameters: RealtimeAPIClientParameters) -> Connection | Lifeline:
        def core() -> ProtocolCore:
            formats = (parameters.input_format, parameters.output_format)
            return ProtocolCore(self.shape, parameters.type, *formats)

        if parameters.recovery is None:
            return Connection(parameters, core(), self._statistics, self)
        return Lifeline(parameters, parameters.recovery, core, self._statistics, self)

    # -- life ------------------------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Open the WebSocket and wait for the session. Raises the RealtimeError that prevented it.

        Ends after `connect_timeout` at the latest, or when `close()` is called (ConnectAborted).
        """
        await self._connection.connect()
        return self

    def close(self) -> None:
        """Close the connection or the attempt. Events that still wait are neither sent nor dispatched."""
        self._connection.close()

    async def wait_closed(self) -> Outcome:
        """Wait until socket and tasks are gone; returns what ended the client, None when `close()` did."""
        if self._dispatcher.runs_here():
            raise ClientStateError(
                "wait_closed() inside a listener would wait for itself: start a task for it"
            )
        return await self._connection.wait_closed()

    async def __aenter__(self) -> Self:
        if self._connection.state is ConnectionState.NEW:
            await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self.wait_closed()

    def id(self) -> str:
        """The client's own id."""
        return self._id

    def web_socket_id(self) -> str:
        """The id of the WebSocket; empty until it is open."""
        return self._connection.socket_id

    @property
    def state(self) -> ConnectionState:
        return self._connection.state

    @property
    def error(self) -> RealtimeError | None:
        """What ended the client, or None while it lives or after `close()`."""
        return self._connection.outcome

    @property
    def messages_received(self) -> int:
        """How many messages came from the provider up to now."""
        return self._statistics.events_received

    @property
    def queued_bytes(self) -> int:
        """Client events and caller audio that wait to be sent, about."""
        connection = self._connection
        return connection.queued_bytes if isinstance(connection, Lifeline) else connection._queue.size

    @property
    def scenario_error(self) -> ScenarioError | None:
        """The error of a listener that ended the scenario."""
        return self._scenario_error

    @property
    def statistics(self) -> Statistics:
        """Counters and latencies up to now: a copy."""
        self._uplink.count(self._statistics)
        return self._statistics.snapshot()

    @property
    def rate_limits(self) -> Mapping[str, RateLimit]:
        """What the provider said last of each limit, by its name (`requests`, `tokens`); empty before."""
        return dict(self._rate_limits)

    # -- listeners -------------------------------------------------------------------------------------------

    def add_event_listener(self, event: Any, callback: Any) -> None:
        """Call `callback(event)`, sync or async, for every such event; UnknownEventError: no such event.

        What is no function is taken too, and ends the scenario when an event reaches it. See the rules of
        `client.listeners` for order, duplicates, removal and what a callback may do.
        """
        self._listeners.add(event, callback)
        self._dispatcher.listener_added()

    def remove_event_listener(self, event: str, callback: object | None = None) -> None:
        """Remove one listener of the event, or all when no callback is given."""
        self._listeners.remove(event, callback)

    # -- media -----------------------------------------------------------------------------------------------

    def send_media_to(
        self, media_unit: MediaUnit, parameters: SendMediaParameters | Mapping[str, Any] | None = None
    ) -> None:
        """Send the provider's audio to the unit from now on. Several units at once are fine."""
        if media_unit is self:
            raise ValueError("a client cannot be its own media unit")
        if isinstance(parameters, Mapping):
            parameters = SendMediaParameters(**parameters)
        self._media.attach(media_unit, parameters, self._connection.now())
        self._arm()

    def stop_media_to(self, media_unit: MediaUnit) -> None:
        """Send it no more; what was not handed over yet is forgotten."""
        self._media.detach(media_unit, self._connection.now())

    def clear_media_buffer(
        self, parameters: ClearMediaBufferParameters | Mapping[str, Any] | None = None
    ) -> None:
        """Forget audio not played yet, here and in the units; running responses are not played on."""
        if isinstance(parameters, Mapping):
            parameters = ClearMediaBufferParameters(**parameters)
        tag, now = parameters.tag if parameters else None, self._connection.now()
        if tag is None:
            self._meter.cleared(now)
        self._media.clear(tag, now)
        self._arm()

    def push_media(self, payload: bytes) -> None:
        """Caller audio in the input format, whole samples. Never waits; see `media_buffer_ms`."""
        self._uplink.put(payload)
        if self._fill is not None:
            self._fill.pushed_at = self._connection.now()

    @property
    def media_inlet(self) -> Callable[[bytes], None]:
        """As `push_media`, for callers that push fifty times a second and are the only ones that do. A piece
        of up to 100 ms goes in one append."""
        return self._uplink.put_whole

    # -- the client as a media unit of another client --------------------------------------------------------

    @property
    def media_format(self) -> AudioFormat:
        """The format in which another unit is sent here; what comes in another one is converted."""
        return self._p.input_format

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """See MediaUnit."""

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        """See MediaUnit: what the other one says is heard by this client's provider, its silence too."""
        self._uplink.put(chunk.payload)
        if self._connection.state is ConnectionState.OPEN:
            if self._fill is None:
                self._fill = LineFill(self._p.input_format.samples, self._uplink.put)
            self._fill.came(len(chunk.payload))

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """See MediaUnit."""

    def media_cleared(self, source: MediaSource) -> None:
        """See MediaUnit."""

    def media_stopped(self, source: MediaSource) -> None:
        """See MediaUnit."""
        if self._fill is not None:
            self._fill.stop()
            self._fill = None

    # -- events to the provider ------------------------------------------------------------------------------

    def send_event(self, event: Mapping[str, Any]) -> None:
        """Send a whole client event, `type` included, in this client's shape; audio formats become ours.

        For callers that have the provider's own JSON; audio goes by `push_media`. InvalidEventError,
        OutgoingQueueFull.
        """
        if event.get("type") == "input_audio_buffer.append":
            raise InvalidEventError("input_audio_buffer.append: audio is sent by push_media")
        self._connection.put_event(event)
        self._meter.sent(str(event.get("type")), self._connection.now())

    # -- what the connection reports (see connection.Sink) ---------------------------------------------------

    def opened(self, socket_id: str) -> None:
        """See Sink."""
        if not self._p.privacy:
            logger.info("client %s: web socket %s is open", self._id, socket_id)
        self._dispatcher.start()

    def received(self, event: ServerEvent) -> None:
        """See Sink."""
        kind = event.type
        if kind in METERED:
            self._meter.received(event.payload, self._connection.now())
        if self._p.observer is not None:
            try:
                self._p.observer(event.payload)
            except Exception as exc:  # noqa: BLE001 - another party's code: the client cannot go on without it
                self._complain("the observer raised", exc)
                self._connection.end(RealtimeError(f"the observer raised {type(exc).__name__}"))
                return
        if kind in _FOLLOWED:
            self._follow(event)
        if kind in SESSION_READY_TYPES and self._connection.state is ConnectionState.OPEN:
            self._dispatcher.ready()
        if self._dispatcher.takes(event.name):
            self._emit(event.name, {"payload": event.payload})

    def _follow(self, event: ServerEvent) -> None:
        """Keep the media plane in step with what the provider says about responses."""
        payload = event.payload
        if event.type in AUDIO_DONE_TYPES:
            index = payload.get("content_index")
            self._media.audio_done(
                Done(
                    _text(payload, "response_id"),
                    _text(payload, "item_id"),
                    index if isinstance(index, int) else 0,
                ),
                self._connection.now(),
            )
            self._arm()
        elif event.type in ("response.created", "response.done"):
            response = payload.get("response")
            response_id = _text(response, "id") if isinstance(response, dict) else ""
            if event.type == "response.created":
                self._media.response_created(response_id)
            else:
                self._media.response_done(response_id)
        elif event.type == "input_audio_buffer.speech_started" and self._clears_on_speech():
            self.clear_media_buffer()
        elif event.type == "rate_limits.updated":
            self._note_limits(payload.get("rate_limits"))

    def _note_limits(self, limits: object) -> None:
        for limit in limits if isinstance(limits, list) else ():
            name = _text(limit, "name") if isinstance(limit, dict) else ""
            if name and (name in self._rate_limits or len(self._rate_limits) < MAX_RATE_LIMITS):
                self._rate_limits[name] = limit

    def _clears_on_speech(self) -> bool:
        chosen = self._p.clear_on_speech
        return self.shape.clears_on_speech if chosen is None else chosen

    def audio(self, chunk: MediaChunk) -> None:
        """See Sink."""
        now = self._connection.now()
        self._meter.audio(self._p.output_format.seconds(len(chunk.payload)), now)
        self._media.audio(chunk, now)
        self._arm()

    def ending(self, outcome: Outcome) -> None:
        """See Sink."""
        if self._timer is not None:
            self._timer.cancel()
        self._media.detach_all()
        if self._fill is not None:
            self._fill.stop()
        if outcome is not None and outcome is not self._scenario_error:
            self._report(outcome)
        self._dispatcher.end(forget=outcome is None or outcome is self._scenario_error)

    def _report(self, outcome: RealtimeError) -> None:
        """Tell listeners about a failed connection, where the shape has an event for it."""

    def recovery(self, record: RecoveryRecord) -> None:
        """See LifelineSink."""
        word = type(record).__name__
        self._meter.lost()
        if not self._p.privacy:
            logger.info("client %s: %s", self._id, record)
        self._emit(RecoveryEvents[word].value, {"payload": asdict(record)})
        told = self._p.recovery.on_recovery if self._p.recovery is not None else None
        if told is not None:
            try:
                told(record)
            except Exception as exc:  # noqa: BLE001 - another party's code: the client cannot go on without it
                self._complain("on_recovery raised", exc)
                self._connection.end(RealtimeError(f"on_recovery raised {type(exc).__name__}"))

    async def closed(self, event: WebSocketCloseEvent | None) -> None:
        """See Sink."""
        await self._dispatcher.finished()
        await self.socket_closed(event)
        if not self._p.privacy:
            logger.info("client %s: closed, %s", self._id, self.error or "by close()")
            if self._p.statistics:
                logger.info("client %s: %s", self._id, self.statistics)

    async def socket_closed(self, event: WebSocketCloseEvent | None) -> None:
        """See LifelineSink."""
        if event is not None and self._p.on_web_socket_close is not None:
            try:
                async with asyncio.timeout(self._p.handler_timeout):
                    result = self._p.on_web_socket_close(event)
                    if inspect.isawaitable(result):
                        await result
            except Exception as exc:  # noqa: BLE001 - user code; the end goes on
                self._complain("on_web_socket_close raised", exc)

    # -- inside ----------------------------------------------------------------------------------------------

    def _emit(self, name: str, data: dict[str, Any]) -> None:
        self._dispatcher.put(RealtimeEvent(name, self, data))

    def _scenario_failed(self, error: ScenarioError) -> None:
        if self._scenario_error is not None:
            return
        self._scenario_error = error
        if not self._p.privacy:
            logger.error("client %s: %s", self._id, error)
        self._connection.end(error)
        if self._p.on_scenario_error is not None:
            try:
                self._p.on_scenario_error(error)
            except Exception as exc:  # noqa: BLE001 - user code; the end goes on
                self._complain("on_scenario_error raised", exc)

    def _complain(self, what: str, error: Exception) -> None:
        """Log another party's error; under privacy without its text, which may hold content."""
        if self._p.privacy:
            logger.error("client %s: %s %s", self._id, what, type(error).__name__)
        else:
            logger.error("client %s: %s", self._id, what, exc_info=error)

    def _arm(self) -> None:
        deadline = self._media.deadline()
        if deadline is None or self._connection.state is not ConnectionState.OPEN:
            return
        # Not `TimerHandle.when`: uvloop gives a handle without it for a time that has passed.
        if self._timer is not None and not self._timer.cancelled() and self._timer_due <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._media.on_deadline(self._connection.now())
        self._arm()


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""
