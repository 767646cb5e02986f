"""A session whose provider is lost, comes back, runs low or is out of quota."""

from __future__ import annotations

from typing import Any

import pytest
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.model import SessionKey
from parley_worker.core.provider_health import ProviderHealth
from parley_worker.core.recorder import Recorder

KEY = SessionKey("default", "call", "uid", 1)


def health() -> ProviderHealth:
    return ProviderHealth(Recorder(KEY, 0.0, privacy=False))


def facts(effects: list[fx.Effect]) -> list[tuple[str, dict[str, Any]]]:
    return [(e.record.type, dict(e.record.fields)) for e in effects if isinstance(e, fx.Publish)]


def measured(effects: list[fx.Effect]) -> list[tuple[fx.Measure, float, str]]:
    return [(e.measure, e.value, e.word) for e in effects if isinstance(e, fx.Observe)]


def test_the_way_to_a_new_web_socket_is_told() -> None:
    subject = health()
    tried = subject.on_reconnecting(ev.ProviderReconnecting("ProviderUnavailable", 2, 0.25), 1.0)
    fields = {"reason": "ProviderUnavailable", "try": 2, "delay_ms": 250}
    assert facts(tried) == [("provider_reconnecting", fields)]
    done = subject.on_reconnected(ev.ProviderReconnected("ws_2", "lost", 1.5, 7), 2.0)
    fields = {"web_socket_id": "ws_2", "cause": "lost", "gap_ms": 1500, "items": 7}
    assert facts(done) == [("provider_reconnected", fields)]
    assert measured(done) == [(fx.Measure.RECONNECTED, 1.5, "lost")]
    assert subject.on_lost() == []


def test_a_provider_that_never_comes_back_is_counted() -> None:
    subject = health()
    subject.on_reconnecting(ev.ProviderReconnecting("ProviderUnavailable", 1, 0.0), 1.0)
    assert measured(subject.on_lost()) == [(fx.Measure.RECONNECT_FAILED, 1, "lost")]
    assert subject.on_lost() == []


def test_a_refusal_is_told_with_its_reason() -> None:
    effects = health().on_refused(ev.RestoreRefused("rotation", "set this"), 1.0)
    assert facts(effects) == [("restore_refused", {"reason": "set this"})]
    assert measured(effects) == [(fx.Measure.RESTORE_REFUSED, 1, "rotation")]


def limits(*rows: object) -> dict[str, Any]:
    return {"type": "rate_limits.updated", "rate_limits": list(rows)}


def tokens(remaining: object, limit: object = 1000) -> dict[str, Any]:
    return {"name": "tokens", "limit": limit, "remaining": remaining, "reset_seconds": 1.5}


def test_a_low_limit_is_told_once_until_it_was_well_again() -> None:
    subject = health()
    told = [facts(subject.on_rate_limits(limits(tokens(n)), 1.0)) for n in (900, 50, 10, 80, 40, 101, 50)]
    assert [len(each) for each in told] == [0, 1, 0, 0, 0, 0, 1]
    fields = {"name": "tokens", "remaining": 50, "limit": 1000, "reset_seconds": 1.5}
    assert told[1] == [("rate_limited", fields)]


@pytest.mark.parametrize(
    "row", ["text", {}, tokens("many"), tokens(5, 0), {**tokens(5), "name": "secret-name"}, None]
)
def test_limits_that_make_no_sense_are_passed_over(row: object) -> None:
    effects = health().on_rate_limits(limits(row), 1.0)
    assert all(name == "tokens" for _, _, name in measured(effects))
    assert health().on_rate_limits({"rate_limits": 5}, 1.0) == []


@pytest.mark.parametrize("where", ["error", "response"])
@pytest.mark.parametrize("word", ["code", "type"])
def test_a_used_up_quota_is_known_wherever_it_is_said(where: str, word: str) -> None:
    error = {word: "insufficient_quota", "message": "check your plan"}
    payload: dict[str, Any] = {"type": "error", "error": error}
    if where == "response":
        details = {"type": "failed", "error": error}
        payload = {"type": "response.done", "response": {"status": "failed", "status_details": details}}
    assert "quota is used up" in ProviderHealth.quota_used_up(payload)
    assert "check your plan" in ProviderHealth.quota_used_up(payload)


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "error", "error": {"code": "rate_limit_exceeded"}},
        {"type": "response.done", "response": {"status_details": None}},
        {"type": "session.updated"},
    ],
)
def test_other_errors_are_no_quota(payload: dict[str, Any]) -> None:
    assert ProviderHealth.quota_used_up(payload) == ""
