"""One conversation over as many WebSockets as it takes: reconnects, restores, rotates.

Stands where a `Connection` stands and has one underneath. One task drives it; whatever a connection that is
not the current one still says is dropped, and what a restoration echoes is nobody else's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from parley_realtime.client.connection import ConnectionState
from parley_realtime.client.following import Following
from parley_realtime.client.line import LifelineSink, Line, RestoreFailed
from parley_realtime.client.naming import event_id, named
from parley_realtime.client.parameters import Outcome, RealtimeAPIClientParameters, Statistics
from parley_realtime.client.uplink import Uplink
from parley_realtime.errors import (
    ClientStateError,
    ConnectAborted,
    OutgoingQueueFull,
    RealtimeError,
    UnavailableError,
)
from parley_realtime.events import WebSocketCloseEvent
from parley_realtime.protocol.core import ProtocolCore, ServerEvent
from parley_realtime.protocol.keeper import AT_ONCE, ConversationKeeper
from parley_realtime.protocol.outstanding import CONFIRMED
from parley_realtime.protocol.restore import Refusal, RestorePlan
from parley_realtime.protocol.rotation import RotationSchedule
from parley_realtime.protocol.shape import ClientType
from parley_realtime.protocol.vigil import GiveUp, Vigil
from parley_realtime.recovery import (
    Cause,
    Reconnected,
    Reconnecting,
    RecoveryParameters,
    RecoveryRecord,
    RestoreRefused,
)

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""How often a moment for a rotation is looked for, and deadlines are looked at while something is awaited."""
SHORT_LIFE = 2.0
"""A connection that served for less is one of a row that may have the same cause."""
USUAL_SHORT_LIVES = 3
MAX_SHORT_LIVES = 40
"""So many such connections in a row are waited for ever longer, and so many are the end."""


class Lifeline:
    """See the module. The public methods are those of `Connection`."""

    def __init__(
        self,
        parameters: RealtimeAPIClientParameters,
        recovery: RecoveryParameters,
        core: Callable[[], ProtocolCore],
        statistics: Statistics,
        sink: LifelineSink,
    ) -> None:
        self._p = parameters
        self._r = recovery
        self._core = core
        self._template = core()
        self._statistics = statistics
        self._sink = sink
        self._state = ConnectionState.NEW
        self._outcome: Outcome = None
        self._keeps = recovery.keep_private or not parameters.privacy
        self._vigil = Vigil(recovery.progress_timeout, recovery.response_timeout)
        self._keeper = ConversationKeeper(
            ga=self._template.shape.label == "ga",
            answers=parameters.type is ClientType.REALTIME,
            audio=parameters.input_format,
            outward=parameters.output_format,
            replay_ms=recovery.replay_ms + parameters.media_buffer_ms,
            quiet_ms=recovery.quiet_replay_ms,
            held_ms=recovery.held_audio_ms,
            limit=parameters.outgoing_events,
        )
        self._given = RestorePlan(None, ())
        if recovery.carry is not None:
            recovery.carry(self._keeper.history)
        self._line: Line | None = None
        self._serving = False
        self._uplink: Uplink | None = None
        self._following = Following(self._keeper if self._keeps else None, sink, self.now, self._word)
        self._ordered_end = False
        self._next: Line | None = None
        self._leaving: set[Line] = set()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rotation = RotationSchedule()
        self._attempts = 0
        self._streak_since = 0.0
        self._served_since = 0.0
        self._short_lives = 0
        self.socket_id = ""

    # As Connection

    @property
    def state(self) -> ConnectionState:
        return self._state

    @property
    def outcome(self) -> Outcome:
        """What ended the client; a socket that was replaced ends nothing."""
        return self._outcome

    @property
    def queued_bytes(self) -> int:
        """What the provider has not read."""
        return self._line.queued_bytes if self._line is not None else 0

    @property
    def keeper(self) -> ConversationKeeper:
        """The conversation as it is known here."""
        return self._keeper

    def now(self) -> float:
        """The loop's clock; 0 before `connect`."""
        return self._line.connection.now() if self._line is not None else 0.0

    async def connect(self) -> None:
        """The first WebSocket; raises the RealtimeError that prevented it."""
        if self._state is not ConnectionState.NEW:
            raise ClientStateError(
                f"connect() works once, the client is {self._state.value}: make a new client"
            )
        self._state = ConnectionState.CONNECTING
        try:
            await self._open_first()
        except BaseException as exc:
            self._finish(exc if isinstance(exc, RealtimeError) else ConnectAborted("connect() was cancelled"))
            await self._shut()
            raise
        self._task = asyncio.get_running_loop().create_task(self._drive(), name="realtime-lifeline")

    async def _open_first(self) -> None:
        """Within `connect_timeout`, what failed before the upgrade and may go better later is tried again."""
        clock = asyncio.get_running_loop().time
        end = clock() + self._p.connect_timeout
        for attempt in itertools.count(1):
            given = self._p if attempt == 1 else replace(self._p, connect_timeout=end - clock())
            line = self._line = self._new_line(given)
            line.on_opened = self._first_opened
            line.restoring = self._r.carry is not None
            try:
                await line.connection.connect()
                if line.restoring:
                    await self._give(line)
                return
            except RealtimeError as error:
                again = clock() + self._r.delay(attempt)
                last = attempt >= self._r.connect_attempts or again >= end
                if last or self.socket_id or not error.retryable:
                    raise
                logger.info("try %d to reach the provider failed: %s", attempt, error.reason)
            await self._until(self._closing, again)
            if self._closing.is_set():
                raise ConnectAborted("close() was called before the connection was open")

    async def _give(self, line: Line) -> None:
        """Give the first connection what another client held; raises the RealtimeError that prevented it."""
        plan = self._keeper.plan()
        try:
            if isinstance(plan, Refusal):
                raise RestoreFailed(plan.reason)
            await line.restore(plan, self._r.restore_timeout)
        except RestoreFailed as failed:
            line.connection.close()
            text = f"the conversation cannot be carried over: {failed.reason}"
            raise UnavailableError(text, code="restore_refused", retryable=False) from None
        except BaseException:
            line.connection.close()
            raise
        self._given = plan
        line.restoring = False
        if line.first is not None:
            self.received(line, line.first)

    def lend(self, uplink: Uplink) -> None:
        """See `Connection.lend`: the connection that serves has it."""
        self._uplink = uplink
        uplink.tape = self._keeper.tape if self._keeps else None

    def handing_over(self) -> RestorePlan | Refusal | None:
        """What another client would have to be given; None while something is under way."""
        if not self._serving or not self._keeps or not self._keeper.settled:
            return None
        return self._keeper.plan()

    def unsettled_ms(self) -> float:
        """Of the latest caller audio: what another client's provider would have to hear again."""
        return self._keeper.unsettled_ms

    def _first_opened(self, socket_id: str) -> None:
        self.socket_id = socket_id
        self._sink.opened(socket_id)

    def close(self) -> None:
        """End it all, or the attempt to connect. Never waits."""
        if self._state is ConnectionState.NEW:
            self._state = ConnectionState.CLOSED
            self._gone.set()
        elif self._state is ConnectionState.CONNECTING and self._line is not None:
            self._closing.set()
            self._line.connection.close()
        else:
            self.end(None)

    def end(self, outcome: Outcome) -> None:
        """Start the end; only the first call counts."""
        self._finish(outcome)
        for line in (self._line, self._next):
            if line is not None:
                line.connection.end(outcome)

    def _finish(self, outcome: Outcome) -> None:
        if self._state not in (ConnectionState.CONNECTING, ConnectionState.OPEN):
            return
        self._state = ConnectionState.CLOSING
        self._outcome = outcome
        self._serving = False
        if self._line is not None:
            self._line.connection.lend(None)
            self._line.connection.hand_to(self._line)
        self._sink.ending(outcome)
        self._wake.set()
        self._closing.set()

    async def wait_closed(self) -> Outcome:
        """Wait until all sockets and tasks are gone."""
        if self._state is ConnectionState.NEW:
            raise ClientStateError("wait_closed() needs connect() before it")
        await self._gone.wait()
        return self._outcome

    def put_event(self, event: Mapping[str, Any]) -> None:
        """Send a client event, now or when there is a connection; see `Connection.put_event`."""
        if self._state is ConnectionState.NEW:
            raise ClientStateError(f"{event.get('type')} needs a connection: await connect() first")
        if self._state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
            self._statistics.events_ignored_after_close += 1
            return
        self._ordered_end = self._ordered_end or event.get("type") == "session.close"
        if not self._keeps:
            assert self._line is not None
            self._line.connection.put_event(event)
            return
        if event.get("type") == "session.close" and self._state is ConnectionState.OPEN and not self._serving:
            self.end(None)
            return
        each = named(event)
        if self._keeper.outstanding.full:
            raise OutgoingQueueFull(
                f"{len(self._keeper.outstanding)} client events wait for the provider: send fewer, or close "
                "the client"
            )
        word = self._done_here(each)
        if word is not None:
            self._tell(word)
        else:
            self._put(each)

    def _put(self, event: Mapping[str, Any]) -> None:
        """Send what the provider will confirm; keep it until then."""
        queued = 0
        if self._serving and self._line is not None:
            self._line.connection.put_event(event)
            queued = self._line.connection.queued_audio_bytes
        else:
            self._template.encode(event)
        kind = event.get("type")
        if kind in CONFIRMED:
            self._keeper.client(event, queued, self.now())
            self._wake.set()

    def _done_here(self, event: Mapping[str, Any]) -> dict[str, Any] | None:
        """A truncation or deletion the provider cannot do: see `shorten`, or there is no provider now."""
        if event.get("type") not in AT_ONCE:
            return None
        if self._serving and self._line is not None:
            made = self._keeper.shorten(event, event_id())
            if made is None:
                return None
            for each in made[1]:
                self._line.connection.put_event(each)
            return made[0]
        item_id = str(event.get("item_id"))
        known = self._keeper.history.get(item_id) is not None or self._keeper.is_here_only(item_id)
        return self._keeper.apply(event, event_id()) if known else None

    def put_audio(self, payload: bytes) -> None:
        """Caller audio, whole samples; it waits on the tape while there is no connection."""
        if self._line is not None and (self._serving or not self._keeps):
            self._line.connection.put_audio(payload)
        elif self._state in (ConnectionState.CONNECTING, ConnectionState.OPEN):
            self._keeper.tape.append(payload)
        elif payload:
            self._statistics.input_bytes_dropped += len(payload)

    # What the lines report

    def _new_line(self, parameters: RealtimeAPIClientParameters) -> Line:
        line = Line(parameters, self._core(), self._statistics, self)
        self._leaving.add(line)
        return line

    def audio_taken(self, line: Line, audio: bytes) -> None:
        """Audio goes out on a line."""
        if self._keeps and line is self._line:
            self._keeper.tape.append(audio)

    def received(self, line: Line, event: ServerEvent) -> None:
        """An event on a line that is not being restored, and does not serve yet."""
        if line is not self._line or self._state not in (ConnectionState.CONNECTING, ConnectionState.OPEN):
            return
        if self._state is ConnectionState.CONNECTING and line.connection.state is ConnectionState.OPEN:
            self._state = ConnectionState.OPEN
            self._begin(line, self._given)
        self._following.received(event)

    def _word(self, kind: str) -> None:
        """The provider says something that changes what is waited for."""
        if kind != "error":
            self._attempts = 0
            self._following.proven = True
        if kind == "response.created":
            self._wake.set()

    def ended(self, line: Line) -> None:
        """A line's connection is ending; what it did not send is kept at once, before anything follows it."""
        if line is self._line:
            self._serving = False
            if self._keeps:
                self._keeper.tape.append(line.connection.take_unsent_audio())
            if self._next is not None:
                self._next.connection.close()
            self._wake.set()

    async def socket_closed(self, line: Line, event: WebSocketCloseEvent | None) -> None:
        """Nothing is left of a line."""
        if event is not None:
            await self._sink.socket_closed(event)
        self._leaving.discard(line)

    # The task

    async def _drive(self) -> None:
        try:
            while self._state is ConnectionState.OPEN and self._line is not None:
                if self._line.over:
                    await self._recover(self._line)
                elif self._watch() and self._rotation.due(self.now(), self._calm):
                    await self._rotate(self._line)
                elif not self._line.over:
                    self._wake.clear()
                    await self._until(self._wake, self._next_look())
        except asyncio.CancelledError:
            self._finish(ConnectAborted("the event loop ends"))
            raise
        except Exception as exc:
            shown = None if self._p.privacy else exc
            logger.error("recovery ended by an unexpected %s", type(exc).__name__, exc_info=shown)
            self._finish(RealtimeError(f"unexpected {type(exc).__name__} in the client"))
        finally:
            await self._shut()

    async def _shut(self) -> None:
        for line in list(self._leaving):
            line.connection.close()
            if line.connection.state is not ConnectionState.CLOSED:
                await line.connection.wait_closed()
        await self._sink.closed(None)
        self._state = ConnectionState.CLOSED
        self._gone.set()

    async def _until(self, event: asyncio.Event, deadline: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await event.wait()

    # A connection was lost

    async def _recover(self, line: Line, cause: Cause = "lost") -> None:
        since = self.now()
        if self._attempts == 0:
            self._streak_since = since
        self._short_lives = self._short_lives + 1 if since - self._served_since < SHORT_LIFE else 0
        error = line.connection.outcome or UnavailableError(
            "the provider's limit is near and no quiet moment came", code="rotation"
        )
        ended = self._ordered_end or not self._r.replaces
        if not error.retryable or ended or self._short_lives > MAX_SHORT_LIVES:
            self._finish(error)
            return
        reason = self._privacy_refusal()
        if reason is not None:
            self._refuse(cause, reason, error)
            return
        loss = self._keeper.lost(b"", event_id())
        deadline = self._streak_since + self._r.deadline
        first = True
        while self._state is ConnectionState.OPEN:
            if self._attempts and (self._attempts >= self._r.attempts or self.now() >= deadline):
                self._finish(error)
                return
            self._attempts += 1
            self._following.proven = False
            delay = self._r.delay(self._attempts + max(0, self._short_lives - USUAL_SHORT_LIVES))
            cut_items = loss.cut_items if first else ()
            self._report(Reconnecting(cause, error.message, self._attempts, delay, cut_items, error.reason))
            if first:
                self._tell(*loss.closings)
            first = False
            grace = self._r.truncate_grace if cut_items and self._r.on_recovery is not None else 0.0
            pace = self._r.pace() if self._r.pace is not None else 0.0
            await self._until(self._closing, self.now() + max(delay, grace) + pace)
            try:
                new, items = await self._replace(deadline)
            except RestoreFailed as exc:
                self._refuse(cause, exc.reason, error)
                return
            except RealtimeError as exc:
                error = exc
                if not exc.retryable:
                    self._finish(exc)
                continue
            self._switch(new, items, cause, self.now() - since)
            return

    async def _replace(self, deadline: float) -> tuple[Line, RestorePlan]:
        """A new line that holds the conversation; RestoreFailed or the RealtimeError that prevented it."""
        if self._state is not ConnectionState.OPEN:
            raise ConnectAborted("the client was closed")
        timeout = max(0.5, min(self._r.attempt_timeout, deadline - self.now()))
        line = self._next = self._new_line(replace(self._p, connect_timeout=timeout))
        try:
            line.restoring = True
            await line.connection.connect()
            plan = self._keeper.plan()
            if isinstance(plan, Refusal):
                raise RestoreFailed(plan.reason)
            await line.restore(plan, self._r.restore_timeout)
        except BaseException:
            line.connection.close()
            raise
        finally:
            self._next = None
        return line, plan

    def _switch(self, line: Line, plan: RestorePlan, cause: Cause, gap: float) -> None:
        """From here on `line` is the connection; nothing waits in between, so nothing is lost or doubled."""
        if line.over or self._state is not ConnectionState.OPEN:
            line.connection.close()
            if self._line is not None and not self._line.over:
                return
            self._line = line
            return
        old, self._line, line.restoring = self._line, line, False
        if old is not None and not old.over:
            self._keeper.tape.append(old.connection.take_unsent_audio())
            old.connection.end(None)
        self.socket_id = line.connection.socket_id
        forgotten = self._keeper.history.forgotten
        told = Reconnected(self.socket_id, cause, gap, len(plan.creates), forgotten)
        self._begin(line, plan, told, rotation=cause == "rotation" and gap == 0)

    def _begin(
        self, line: Line, plan: RestorePlan, told: Reconnected | None = None, *, rotation: bool = False
    ) -> None:
        """From here on the connection is used: it gets what waits for one."""
        corrections = self._keeper.corrections(plan)
        again = self._keeper.carried(plan, rotation=rotation)
        self._serving = True
        self._served_since = self.now()
        self._schedule(line)
        line.connection.expect_events(len(corrections) + len(again))
        for event in corrections:
            line.connection.put_event(event)
        if told is not None:
            self._report(told)
        for each in again:
            if isinstance(each, bytes):
                line.connection.put_again(each)
            else:
                self._put(named(each))
        if self._state is ConnectionState.OPEN:
            line.connection.lend(self._uplink)
            line.connection.hand_to(self._following)

    def _privacy_refusal(self) -> str | None:
        if self._keeps:
            return None
        return "privacy is on, nothing is kept: set keepPrivate (keep_private) to keep it in memory only"

    def _refuse(self, cause: Cause, reason: str, error: RealtimeError) -> None:
        """The end: the conversation cannot be carried over."""
        self._report(RestoreRefused(cause, reason))
        text = f"{error.message}, and the conversation cannot be carried over: {reason}"
        outcome = UnavailableError(text, code="restore_refused", close_code=error.close_code, retryable=False)
        self._finish(outcome)

    # A connection that does not answer

    def _watch(self) -> bool:
        """End a connection of which nothing comes any more; False when that was done."""
        assert self._line is not None
        connection = self._line.connection
        verdict = self._vigil.verdict(self._keeper.outstanding, connection.received_at, self.now())
        if isinstance(verdict, GiveUp):
            connection.end(UnavailableError(verdict.why, code=verdict.code, close_code=1006))
            return False
        if verdict is not None:
            self._put(named({"type": "response.cancel", "response_id": verdict.answer.id}))
            verdict.answer.cancelled_at, verdict.answer.unwanted = self.now(), False
        return True

    def _next_look(self) -> float | None:
        """When something may be due."""
        assert self._line is not None
        now = self.now()
        due = self._vigil.next_due(self._keeper.outstanding, self._line.connection.received_at)
        dues = [each for each in (due, self._rotation.next_look(now, LOOK_SECONDS)) if each is not None]
        return max(min(dues), now + 0.01) if dues else None

    # A connection that is to be replaced

    def _schedule(self, line: Line) -> None:
        """When this connection is to be replaced, by the provider's limit and the parameters."""
        if not self._r.replaces:
            return
        expires = line.expires_at
        remaining = expires - self._r.wall() if expires is not None else 0.0
        if self._rotation.begin(self.now(), remaining, self._r.rotate_after, self._r.rotate_margin):
            self._wake.set()

    def _calm(self) -> bool:
        """Nothing is on its way, and whoever was asked says that it is quiet."""
        quiet = self._r.quiet is None or self._r.quiet()
        return self._keeper.settled and quiet

    async def _rotate(self, line: Line) -> None:
        plan = self._keeper.plan() if self._keeps else None
        reason = plan.reason if isinstance(plan, Refusal) else self._privacy_refusal()
        if reason is not None:
            self._rotation_refused(reason)
            return
        if self._rotation.forced(self.now()):
            self._rotation.taken()
            line.connection.end(None)
            await self._recover(line, "rotation")
            return
        version = self._keeper.history.version
        try:
            new, made = await self._replace(self.now() + self._r.attempt_timeout)
        except RestoreFailed as exc:
            self._rotation_refused(exc.reason)
            return
        except RealtimeError:
            self._rotation.failed(self.now(), LOOK_SECONDS, self._r.delay(4))
            return
        if line.over or version != self._keeper.history.version or not self._calm():
            new.connection.close()
            return
        self._switch(new, made, "rotation", 0.0)

    def _rotation_refused(self, reason: str) -> None:
        """Said once; the connection goes on as long as the provider lets it."""
        self._rotation.never()
        self._report(RestoreRefused("rotation", reason))

    # Telling

    def _tell(self, *payloads: Mapping[str, Any]) -> None:
        """Server events that no provider sent, because none can; none after the end."""
        if self._state not in (ConnectionState.CONNECTING, ConnectionState.OPEN):
            return
        names = self._template.shape
        for payload in payloads:
            kind = str(payload["type"])
            event = ServerEvent(kind, names.names.get(kind, names.unknown_name), dict(payload))
            self._sink.received(event)

    def _report(self, record: RecoveryRecord) -> None:
        self._sink.recovery(record)
