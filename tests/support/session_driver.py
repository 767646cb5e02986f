"""Drives the worker's session core by hand: virtual time, and everything that it asks for is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from parley_worker.core import effects as fx
from parley_worker.core import events as ev
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

PCM24 = PROVIDER_FORMATS["pcm16"]
KEY = SessionKey("ns", "name", "uid", 1)


class Driver:
    """A session, its clock, and everything it asked for."""

    def __init__(
        self, *, api_version: str = "ga", greet: bool = False, privacy: bool = False, **changes: Any
    ) -> None:
        config = SessionConfig(
            key=KEY,
            provider=ProviderConfig("ws://p", api_version, "m", Secret("sk-secret")),
            session={"instructions": "x"},
            greet=greet,
            limits=LimitsConfig(max_duration=3600, idle_timeout=60, attach_timeout=30, reattach_timeout=20),
            access=AccessConfig(b"t" * 32, ticket_expires_at=1_000_050.0),
            privacy=privacy,
        )
        config = replace(config, **changes)
        self.now = 100.0
        self.session = Session(config, SessionBounds(), self.now, 1_000_000.0 - self.now)
        self.effects: list[fx.Effect] = self.session.start(self.now)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        new = self.session.handle(event, self.now)
        self.effects += new
        return new

    def provider(self, type_: str, **fields: Any) -> list[fx.Effect]:
        return self.feed(ev.ProviderMessage({"type": type_, **fields}))

    def said(self, command: ev.LegCommand) -> list[fx.Effect]:
        return self.feed(ev.LegSaid(command))

    def ready(self, **session: Any) -> Driver:
        self.feed(ev.ProviderOpened("client", "socket"))
        self.provider("session.updated", session=session)
        return self

    def attach(self, kind: ev.CredentialKind = ev.CredentialKind.TICKET, last: int = 0) -> list[fx.Effect]:
        request = ev.AttachRequest(
            kind, PCM24, PCM24, PlayoutMode.REALTIME, playout_buffer_ms=100, last_event_sequence=last
        )
        return self.feed(ev.LegAttached(request, "token"))

    def speaking(self, ms: int = 1000, sent: int = 500) -> Driver:
        """The agent answers: `ms` received and `sent` of it sent, until now."""
        self.provider("response.created", response={"id": "r"})
        self.session.ledger.received(("i", 0), 1, ms, self.now)
        for position in range(0, sent, 20):
            self.session.ledger.sent(("i", 0), position, 20, self.now + position / 1000)
        self.now += sent / 1000
        return self

    def until(self, now: float) -> list[fx.Effect]:
        """Fire every deadline up to `now`."""
        fired: list[fx.Effect] = []
        for _ in range(100):
            due = self.session.next_deadline()
            if due is None or due > now:
                break
            self.now = max(self.now, due)
            fired += self.feed(ev.DeadlineReached())
        self.now = now
        return fired

    def facts(self) -> list[str]:
        return [e.record.type for e in self.effects if isinstance(e, fx.Publish) and e.record.kind == "event"]

    def journal(self) -> list[tuple[str, dict[str, object]]]:
        records = [e.record for e in self.effects if isinstance(e, fx.Publish)]
        content = [r for r in records if r.kind == "journal" and r.type != "checkpoint"]
        return [(r.type, dict(r.fields)) for r in content]


def sent(effects: list[fx.Effect], type_: str) -> list[Any]:
    return [e.event for e in effects if isinstance(e, fx.SendProvider) and e.event["type"] == type_]


def to_leg(effects: list[fx.Effect], kind: type) -> list[Any]:
    return [e.message for e in effects if isinstance(e, fx.SendLeg) and isinstance(e.message, kind)]
