"""One WebSocket from the attempt to open it until nothing of it is left.

A supervisor task owns the task that opens it, and the socket. Whatever ends the connection calls `end`; the
first call decides the outcome. Between the two nothing runs but callbacks: a frame is handled where it was
read, and what is to be sent goes out at once while the socket takes it, else when it does again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Protocol

from parley_realtime import transport
from parley_realtime.client.intake import Hearer, Intake
from parley_realtime.client.outgoing import Outgoing, SendQueue
from parley_realtime.client.parameters import Outcome, RealtimeAPIClientParameters, Statistics
from parley_realtime.client.trace import Trace
from parley_realtime.client.turns import Turns
from parley_realtime.client.uplink import Uplink
from parley_realtime.errors import (
    ClientStateError,
    ConnectAborted,
    ConnectTimeout,
    ProtocolError,
    RealtimeError,
    UnavailableError,
)
from parley_realtime.events import WebSocketCloseEvent
from parley_realtime.protocol.core import ProtocolCore
from parley_realtime.protocol.refusals import from_code
from parley_realtime.redaction import scrub
from parley_realtime.transport import Ending, Socket, SocketOptions, closed_error

logger = logging.getLogger(__name__)


class ConnectionState(Enum):
    """Where a connection is in its life."""

    NEW = "new"  # connect() was not called
    CONNECTING = "connecting"  # TCP, TLS, upgrade, or waiting for the first session event
    OPEN = "open"  # the provider has a session for us
    CLOSING = "closing"  # the outcome is known, tasks and socket are going
    CLOSED = "closed"  # nothing is left


TRANSITIONS: Mapping[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.NEW: frozenset({ConnectionState.CONNECTING, ConnectionState.CLOSED}),
    ConnectionState.CONNECTING: frozenset({ConnectionState.OPEN, ConnectionState.CLOSING}),
    ConnectionState.OPEN: frozenset({ConnectionState.CLOSING}),
    ConnectionState.CLOSING: frozenset({ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}


class Sink(Hearer, Protocol):
    """Who is told what happens. Only `closed` may wait; nothing may raise."""

    def opened(self, socket_id: str) -> None:
        """The upgrade succeeded."""

    def ending(self, outcome: Outcome) -> None:
        """The outcome is known."""

    async def closed(self, event: WebSocketCloseEvent | None) -> None:
        """The socket is gone; None when there never was one."""


class Connection:
    """See the module."""

    def __init__(
        self,
        parameters: RealtimeAPIClientParameters,
        core: ProtocolCore,
        statistics: Statistics,
        sink: Sink,
        *,
        on_audio_taken: Callable[[bytes], None] | None = None,
    ) -> None:
        """`on_audio_taken` gets caller audio that leaves the queue to be sent; not what an uplink sends."""
        self._p = parameters
        self._secrets = parameters.secrets()
        self._core = core
        self._statistics = statistics
        self._sink = sink
        self._state = ConnectionState.NEW
        self._queue = SendQueue(
            parameters.input_format, parameters.media_buffer_ms, parameters.outgoing_events
        )
        self._on_audio_taken = on_audio_taken
        self._outcome: Outcome = None
        self._uplink: Uplink | None = None
        self._turns: Turns | None = None
        self._socket: Socket | None = None
        self._hung_up = False
        self._trace: Trace | None = None
        self._began = 0.0
        self._ready = False
        self._over = asyncio.Event()
        self._settled = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._intake = Intake(
            core, statistics, sink, self.now, self._greeted, self._end_by, self._secrets, parameters.privacy
        )
        self._open_task: asyncio.Task[None] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.socket_id = ""

    @property
    def queued_audio_bytes(self) -> int:
        """Caller audio that was not sent yet."""
        return self._queue.audio_bytes

    def lend(self, uplink: Uplink | None) -> None:
        """Caller audio comes by this one while nothing else waits; it is shut before it is taken away."""
        if self._uplink is not None:
            self._uplink.shut()
        self._uplink = uplink
        self._flush()

    def put_again(self, audio: bytes) -> None:
        """Queue caller audio that an earlier connection had: none of it is dropped for its length."""
        self._queue.widen(audio=len(audio))
        self.put_audio(audio)

    def expect_events(self, number: int) -> None:
        """Let so many more client events wait: they are bounded elsewhere."""
        self._queue.widen(events=number)

    def take_unsent_audio(self) -> bytes:
        """Caller audio that was not sent, off the queue."""
        return self._queue.take_audio()

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def outcome(self) -> Outcome:
        """What ended the connection: None while it lives and after `close()` of an open one."""
        return self._outcome

    @property
    def received_at(self) -> float:
        """When the provider said something last; 0 before."""
        return self._intake.received_at

    def hand_to(self, hearer: Hearer) -> None:
        """What the provider sends goes there from now on."""
        self._intake.hearer = hearer

    def now(self) -> float:
        """The loop's clock; 0 before `connect`."""
        return self._loop.time() if self._loop is not None else 0.0

    def _enter(self, state: ConnectionState) -> None:
        assert state in TRANSITIONS[self._state], f"{self._state} -> {state}"
        self._state = state

    async def connect(self) -> None:
        """Returns when the provider has created the session; raises the RealtimeError that prevented it."""
        if self._state is not ConnectionState.NEW:
            raise ClientStateError(
                f"connect() works once, the client is {self._state.value}: make a new client"
            )
        self._loop = asyncio.get_running_loop()
        if self._p.trace is not None:
            self._trace = self._intake.trace = Trace(self._p.trace, self._secrets)
        self._began = self._loop.time()
        self._enter(ConnectionState.CONNECTING)
        self._deadline = self._loop.call_later(self._p.connect_timeout, self._too_late)
        self._open_task = self._loop.create_task(self._open(), name="realtime-open")
        self._supervisor = self._loop.create_task(self._supervise(), name="realtime-supervisor")
        try:
            await self._settled.wait()
        except asyncio.CancelledError:
            self.end(ConnectAborted("connect() was cancelled"))
            await self._all_gone.wait()
            raise
        if not self._ready and self._outcome is not None:
            raise self._outcome

    def close(self) -> None:
        """End an open connection, or the attempt (its `connect` then raises ConnectAborted). Never waits."""
        if self._state is ConnectionState.NEW:
            self._enter(ConnectionState.CLOSED)
            self._all_gone.set()
        elif self._state is ConnectionState.CONNECTING:
            self.end(ConnectAborted("close() was called before the connection was open"))
        else:
            self.end(None)

    def end(self, outcome: Outcome) -> None:
        """Start the end; only the first call counts."""
        if self._state not in (ConnectionState.CONNECTING, ConnectionState.OPEN):
            return
        self._enter(ConnectionState.CLOSING)
        self._outcome = outcome
        self._intake.over = True
        self._shut()
        for timer in (self._deadline, self._due, self._stuck):
            if timer is not None:
                timer.cancel()
        if self._open_task is not None:
            self._open_task.cancel()
        if self._turns is not None:
            self._turns.clear()
        self._over.set()
        self._sink.ending(outcome)

    async def wait_closed(self) -> Outcome:
        """Wait until the socket and all tasks are gone."""
        if self._state is ConnectionState.NEW:
            raise ClientStateError("wait_closed() needs connect() before it")
        await self._all_gone.wait()
        return self._outcome

    def put_event(self, event: Mapping[str, Any]) -> None:
        """Queue a client event; counted and forgotten after the end, ClientStateError before `connect`."""
        text = self._core.encode(event)
        if self._state is ConnectionState.NEW:
            raise ClientStateError(f"{event['type']} needs a connection: await connect() first")
        if self._state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            self._statistics.events_ignored_after_close += 1
            return
        if (first := self._core.needed_before(event["type"])) is not None:
            self._queue.put_event(first)
        self._queue.put_event(text)
        self._flush()

    def put_audio(self, payload: bytes) -> None:
        """Send or queue caller audio, whole samples; dropped and counted after the end."""
        if not payload:
            return
        if self._state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            self._statistics.input_bytes_dropped += len(payload)
            return
        if (first := self._core.needed_before("input_audio_buffer.append")) is not None:
            self._queue.put_event(first)
        self._statistics.input_bytes_dropped += self._queue.put_audio(payload, self.now())
        self._flush()

    def _too_late(self) -> None:
        if (last := self._intake.last_error) is not None:
            message = scrub(last.message, self._secrets)
            said = f" ({message})" if message else ""
            if (refusal := from_code(last.code, said, None)) is not None:
                self.end(refusal)
                return
        what = "did not create a session" if self._socket is not None else "could not be connected to"
        self.end(
            ConnectTimeout(
                f"the provider {what} within {self._p.connect_timeout:g} s", code="connect_timeout"
            )
        )

    async def _supervise(self) -> None:
        try:
            await self._see_it_end()
        except asyncio.CancelledError:
            self.end(ConnectAborted("the event loop ends"))
            if self._socket is not None:
                self._socket.abort()
            raise
        finally:
            if self._trace is not None:
                self._trace.close()
            self._enter(ConnectionState.CLOSED)
            self._settled.set()
            self._all_gone.set()

    async def _see_it_end(self) -> None:
        assert self._open_task is not None
        await asyncio.wait({self._open_task})
        if not self._open_task.cancelled() and (error := self._open_task.exception()) is not None:
            self._end_by(error)
        await self._over.wait()
        close_event = await self._close_socket() if self._socket is not None else None
        await self._sink.closed(close_event)

    def _end_by(self, error: BaseException) -> None:
        """A provider's error is the outcome; any other is ours, and told to the log."""
        if not isinstance(error, RealtimeError):
            shown = None if self._p.privacy else error
            logger.error("the connection ended by an unexpected %s", type(error).__name__, exc_info=shown)
            error = RealtimeError(f"unexpected {type(error).__name__} in the client")
        self.end(error)

    async def _close_socket(self) -> WebSocketCloseEvent:
        socket = self._socket
        assert socket is not None
        code, reason = (1002, "protocol error") if isinstance(self._outcome, ProtocolError) else (1000, "")
        await socket.close(code, reason)
        closed_by = socket.close_code
        said = "" if self._p.privacy else scrub(socket.close_reason, self._secrets)
        return WebSocketCloseEvent(self.socket_id, closed_by, said, closed_by != 1006)

    async def _open(self) -> None:
        p, shape = self._p, self._core.shape
        options = SocketOptions(
            headers=p.handshake_headers(shape),
            tls=p.ssl,
            proxy=p.proxy,
            ping_interval=p.ping_interval,
            ping_timeout=p.ping_timeout,
            close_timeout=p.close_timeout,
            max_frame_bytes=p.max_frame_bytes,
            allow_address=p.allow_address,
            secrets=self._secrets,
            private=p.privacy,
            congestion=tuple(p.congestion),
        )
        self._socket = await transport.open_socket(p.url(shape), options, p.transport)
        self.socket_id = f"ws_{uuid.uuid4().hex}"
        self._sink.opened(self.socket_id)
        assert self._loop is not None
        self._intake.socket = self._socket
        self._turns = Turns(self._intake.frame, self._loop.call_soon, gather=p.gather)
        self._socket.start(self)

    # What the socket tells (see transport.Receiver)

    def frame(self, data: bytes) -> None:
        """See Receiver."""
        assert self._turns is not None
        self._turns.put(data)

    def filled(self) -> None:
        """See Receiver."""
        if self._state is ConnectionState.OPEN:
            self._wait_for_drain()

    def drained(self) -> None:
        """See Receiver."""
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        self._flush()

    def lost(self, ending: Ending) -> None:
        """See Receiver."""
        assert self._turns is not None
        self._hung_up = True
        self._shut()
        self._turns.finish(lambda: self._lost(ending))

    def _lost(self, ending: Ending) -> None:
        self.end(
            closed_error(
                ending,
                self._intake.last_error,
                ready=self._ready,
                secrets=self._secrets,
                private=self._p.privacy,
            )
        )

    def _greeted(self) -> None:
        """The provider has a session for us."""
        if self._state is not ConnectionState.CONNECTING:
            return
        self._enter(ConnectionState.OPEN)
        self._statistics.connect.add(self.now() - self._began)
        if self._deadline is not None:
            self._deadline.cancel()
        self._ready = True
        self._settled.set()
        self._flush()

    # What goes out

    def _shut(self) -> None:
        if self._uplink is not None:
            self._uplink.shut()

    def _open_uplink(self, socket: Socket) -> None:
        """Frames may pass by the queue while it is empty; a traced one, or the first of all, may not."""
        passes = not self._queue and not self._hung_up and self._trace is None
        if self._uplink is None:
            return
        if passes and not self._core.wants_formats:
            self._uplink.open(socket.send)
        else:
            self._uplink.shut()

    def _flush(self) -> None:
        """Send what is due, as far as the socket takes it."""
        socket = self._socket
        if socket is None or self._state is not ConnectionState.OPEN:
            return
        while socket.writable and (outgoing := self._queue.take(self.now())) is not None:
            self._send(socket, outgoing)
        if not socket.writable:
            self._wait_for_drain()
            return
        self._open_uplink(socket)
        due = self._queue.deadline()
        if due is not None and self._due is None and self._loop is not None:
            self._due = self._loop.call_at(due, self._on_due)

    def _send(self, socket: Socket, outgoing: Outgoing) -> None:
        if self._on_audio_taken is not None and outgoing.audio:
            self._on_audio_taken(outgoing.audio)
        socket.send(outgoing.data)
        self._statistics.events_sent += 1
        self._statistics.audio_bytes_sent += outgoing.audio_bytes
        if self._trace is not None:
            self._trace.sent(self.now(), json.loads(outgoing.data))

    def _on_due(self) -> None:
        self._due = None
        self._flush()

    def _wait_for_drain(self) -> None:
        """The queue fills from now on; the provider has `send_timeout` to read again."""
        self._shut()
        if self._stuck is None and self._loop is not None:
            self._stuck = self._loop.call_later(self._p.send_timeout, self._reads_nothing)

    def _reads_nothing(self) -> None:
        text = f"the provider has read nothing for {self._p.send_timeout:g} s"
        self.end(UnavailableError(text, code="send_timeout"))
