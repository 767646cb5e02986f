"""Media units in the session core: facts about them, cuts, and a recording that ends after its session."""

from __future__ import annotations

from typing import Any

import pytest
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.model import (
    AccessConfig,
    EndReason,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
    SessionState,
)
from parley_worker.core.session import Session, SessionBounds
from parley_worker.core.units import UnitEventKind

KIND = UnitEventKind


def session(**changes: Any) -> Session:
    config = SessionConfig(
        key=SessionKey("default", "call", "uid-1", 1),
        provider=ProviderConfig("ws://x/v1/realtime", "ga", "m", Secret("k")),
        session={},
        greet=False,
        limits=LimitsConfig(60, 30, 20, 20),
        access=AccessConfig(b""),
        **changes,
    )
    made = Session(config, SessionBounds(), 0.0, 0.0)
    made.start(0.0)
    return made


def facts(effects: list[fx.Effect]) -> list[tuple[str, dict[str, object]]]:
    return [(e.record.type, dict(e.record.fields)) for e in effects if isinstance(e, fx.Publish)]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ev.UnitEvent("music", KIND.STARTED, "hold"), ("media_started", {"unit": "music", "tag": "hold"})),
        (
            ev.UnitEvent("music", KIND.ENDED, "hold", duration_ms=70),
            ("media_ended", {"unit": "music", "tag": "hold", "duration_ms": 70}),
        ),
        (
            ev.UnitEvent("recorder", KIND.RECORDING_FINISHED, url="file:///a", duration_ms=5, size=6),
            ("recording_finished", {"url": "file:///a", "duration_ms": 5, "bytes": 6}),
        ),
        (
            ev.UnitEvent("recorder", KIND.RECORDING_FAILED, url="file:///a", message="full"),
            ("recording_failed", {"url": "file:///a", "message": "full"}),
        ),
    ],
)
def test_what_happens_to_a_unit_is_a_fact(event: ev.UnitEvent, expected: tuple[str, Any]) -> None:
    assert facts(session().handle(event, 1.0)) == [expected]


@pytest.mark.parametrize("kind", [KIND.READY, KIND.FAILED, KIND.RECORDING_STARTED])
def test_the_rest_is_for_the_scenario_alone(kind: UnitEventKind) -> None:
    event = ev.UnitEvent("music", kind, message="https://host/secret")
    assert session().handle(event, 1.0) == []


def test_after_the_end_only_recordings_are_told_and_numbers_go_on() -> None:
    made = session()
    ended = made.handle(ev.TerminateRequested(EndReason.TERMINATED, "over"), 1.0)
    assert made.state is SessionState.ENDED
    last = [e.record.sequence for e in ended if isinstance(e, fx.Publish) and e.record.kind == "event"][-1]
    assert made.handle(ev.UnitEvent("music", KIND.ENDED), 2.0) == []
    done = made.handle(ev.UnitEvent("recorder", KIND.RECORDING_FINISHED, url="s3://b/k"), 2.0)
    (record,) = [e.record for e in done if isinstance(e, fx.Publish)]
    assert (record.type, record.sequence) == ("recording_finished", last + 1)
    assert fx.Observe(fx.Measure.RECORDING, 1, "finished") in done
    assert made.state is SessionState.ENDED
