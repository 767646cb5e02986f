"""The worker's session core driven by hand: virtual time, a provider that has greeted, a caller."""

from __future__ import annotations

from typing import Any

from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.agent import Behaviour, Line, ToolRoute, ToolRouteKind
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import (
    AccessConfig,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
)
from parley_worker.core.session import Session, SessionBounds

TOOLS = (
    ToolRoute("f", ToolRouteKind.NATS, timeout=2.0, cancel_on_barge_in=True),
    ToolRoute("g", ToolRouteKind.SCENARIO),
    ToolRoute("h", ToolRouteKind.CALLER, timeout=1.0),
)
BEHAVIOUR = Behaviour(
    greeting=Line("hello"),
    hang_up_tool=True,
    hang_up_phrases=("goodbye",),
    farewell=Line("bye"),
    idle_after=5.0,
    idle_lines=(Line("still there?"), Line(instructions="ask again")),
    goodbye_before=20.0,
    goodbye=Line("time is up"),
)
PCM24 = PROVIDER_FORMATS["pcm16"]
MAX_DEADLINES = 2000


class WorkerCore:
    """A session and everything it asked for; `more` are fields of its SessionConfig."""

    def __init__(self, *, api_version: str = "ga", **more: Any) -> None:
        config = SessionConfig(
            key=SessionKey("ns", "name", "uid", 1),
            provider=ProviderConfig("ws://p", api_version, "m", Secret("sk-secret-value")),
            session={"instructions": "x"},
            greet=True,
            limits=LimitsConfig(max_duration=3600, idle_timeout=600, attach_timeout=30, reattach_timeout=20),
            access=AccessConfig(b"t" * 32, ticket_expires_at=1_000_050.0),
            **more,
        )
        self.now = 100.0
        self.session = Session(config, SessionBounds(), self.now, 1_000_000.0 - self.now)
        self.effects: list[fx.Effect] = self.session.start(self.now)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        new = self.session.handle(event, self.now)
        self.effects += new
        return new

    def ready(self) -> WorkerCore:
        self.feed(ev.ProviderOpened("client", "socket"))
        self.feed(ev.ProviderMessage({"type": "session.updated", "session": {}}))
        return self

    def attached(self) -> WorkerCore:
        request = ev.AttachRequest(
            ev.CredentialKind.TICKET, PCM24, PCM24, PlayoutMode.REALTIME, playout_buffer_ms=100
        )
        self.feed(ev.LegAttached(request, "token"))
        return self

    def advance(self, seconds: float) -> None:
        """Let time pass, with every deadline on the way; deadlines that do not move are a fault."""
        end = self.now + seconds
        for _ in range(MAX_DEADLINES):
            due = self.session.next_deadline()
            if due is None or due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            self.feed(ev.DeadlineReached())
        raise AssertionError(f"{MAX_DEADLINES} deadlines within {seconds:g} s")
