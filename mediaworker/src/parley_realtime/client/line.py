"""One of the connections of a lifeline: it reports under its own name, and can be given a conversation."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Protocol

from parley_realtime.client.connection import Connection
from parley_realtime.client.parameters import Outcome, RealtimeAPIClientParameters, Statistics
from parley_realtime.errors import UnavailableError
from parley_realtime.events import SESSION_READY_TYPES, MediaChunk, WebSocketCloseEvent
from parley_realtime.protocol.core import ProtocolCore, ServerEvent
from parley_realtime.protocol.restore import RestoreCheck, RestorePlan
from parley_realtime.recovery import RecoveryRecord

MAX_UNCONFIRMED = 64
"""So many items are sent ahead of their echoes."""


class RestoreFailed(Exception):
    """The conversation cannot be carried over; `reason` says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LineOwner(Protocol):
    """Who is told what happens on which line."""

    def audio_taken(self, line: Line, audio: bytes) -> None: ...

    def received(self, line: Line, event: ServerEvent) -> None: ...

    def ended(self, line: Line) -> None: ...

    async def socket_closed(self, line: Line, event: WebSocketCloseEvent | None) -> None: ...


class LifelineSink(Protocol):
    """Who is told: as `connection.Sink`, with `closed` at the very end, and what becomes of the sockets."""

    def opened(self, socket_id: str) -> None:
        """The first upgrade succeeded."""

    def received(self, event: ServerEvent) -> None:
        """An event without audio."""

    def audio(self, chunk: MediaChunk) -> None:
        """Audio of a response."""

    def ending(self, outcome: Outcome) -> None:
        """The outcome is known."""

    async def closed(self, event: WebSocketCloseEvent | None) -> None:
        """All sockets are gone; `event` is always None here."""

    async def socket_closed(self, event: WebSocketCloseEvent) -> None:
        """One socket is gone."""

    def recovery(self, record: RecoveryRecord) -> None:
        """The conversation moves, has moved, or cannot."""


class Line:
    """See the module. While `restoring` its events go to the check of the restoration and nowhere else."""

    def __init__(
        self,
        parameters: RealtimeAPIClientParameters,
        core: ProtocolCore,
        statistics: Statistics,
        owner: LineOwner,
    ) -> None:
        self._owner = owner
        self._private = parameters.privacy
        self._check: RestoreCheck | None = None
        self._news = asyncio.Event()
        self.restoring = False
        self.over = False
        self.expires_at: float | None = None
        self.first: ServerEvent | None = None
        """By which the provider greeted."""
        self.on_opened: Callable[[str], None] | None = None
        self.connection = Connection(
            parameters,
            core,
            statistics,
            self,
            on_audio_taken=functools.partial(owner.audio_taken, self),
        )

    @property
    def queued_bytes(self) -> int:
        """What the provider has not read."""
        return self.connection._queue.size

    async def restore(self, plan: RestorePlan, timeout: float) -> None:
        """Give the new connection the plan and wait for every echo.

        RestoreFailed when the provider refuses it; the connection's error when it ends, the provider's when
        it cannot do it now, UnavailableError when it takes longer than `timeout` seconds.
        """
        self.connection.expect_events(MAX_UNCONFIRMED + 1)
        check = self._check = RestoreCheck(plan, private=self._private)
        try:
            async with asyncio.timeout(timeout):
                if plan.update is not None:
                    self.connection.put_event(plan.update)
                for number, create in enumerate(plan.creates):
                    while number - (len(plan.creates) - check.outstanding) >= MAX_UNCONFIRMED:
                        await self._progress(check)
                    self.connection.put_event(create)
                while not check.complete:
                    await self._progress(check)
        except TimeoutError:
            text = f"the provider did not take the conversation within {timeout:g} s"
            raise UnavailableError(text, code="restore_timeout") from None
        self._raise_if_over()

    async def _progress(self, check: RestoreCheck) -> None:
        self._raise_if_over()
        if check.failed is not None:
            raise RestoreFailed(check.failed)
        if check.trouble is not None:
            raise check.trouble
        await self._news.wait()
        self._news.clear()

    def _raise_if_over(self) -> None:
        if self.over:
            raise self.connection.outcome or UnavailableError("the connection was closed", code="closed")

    # What the connection reports (see connection.Sink)

    def opened(self, socket_id: str) -> None:
        """See Sink."""
        if self.on_opened is not None:
            self.on_opened(socket_id)

    def received(self, event: ServerEvent) -> None:
        """See Sink."""
        if event.type in SESSION_READY_TYPES:
            self.first = self.first or event
            session = event.payload.get("session")
            expires = session.get("expires_at") if isinstance(session, dict) else None
            if isinstance(expires, int | float) and not isinstance(expires, bool):
                self.expires_at = float(expires)
        if not self.restoring:
            self._owner.received(self, event)
            return
        if self._check is not None:
            self._check.server(event.payload)
        self._news.set()

    def audio(self, chunk: MediaChunk) -> None:
        """See Sink. Nothing is heard of a line that does not serve."""

    def ending(self, outcome: Outcome) -> None:
        """See Sink."""
        self.over = True
        self._news.set()
        self._owner.ended(self)

    async def closed(self, event: WebSocketCloseEvent | None) -> None:
        """See Sink."""
        await self._owner.socket_closed(self, event)
