"""Parsers, settings, queue, cache."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import kopf
import pytest
from parley_operator.api.fields import FieldError, parse_duration
from parley_operator.api.v1alpha1 import parse_agent_spec, parse_pool_spec, parse_session_spec
from parley_operator.config import ConfigError, help_text, load_settings
from parley_operator.handlers.cache import ObjectCache
from parley_operator.handlers.kopf_app import tune
from parley_operator.handlers.queue import Key, KeyedQueue
from parley_operator.kube.login import LoginError, find_login, from_kubeconfig
from parley_operator.telemetry.logging import JsonFormatter


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "f") == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1d", "1h ", "soon"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(FieldError, match=r"^spec\.x: .*write for example 90s"):
        parse_duration(text, "spec.x")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "spec: exactly one of agentRef and agent"),
        ("text", "spec: must be an object, not a string"),
        ({"agentRef": {}}, "spec.agentRef.name: is required"),
        ({"agentRef": {"name": "a", "x": 1}}, "spec.agentRef.x: is not a known field"),
        (
            {"agentRef": {"name": "a"}, "limits": {"idleTimeout": 5}},
            "spec.limits.idleTimeout: must be a duration",
        ),
        ({"agentRef": {"name": "a"}, "privacy": "yes"}, "spec.privacy: must be true or false"),
        ({"agentRef": {"name": "a"}, "recovery": {"policy": "Retry"}}, "spec.recovery.policy: 'Retry'"),
        (
            {"agentRef": {"name": "a"}, "recovery": {"policy": "Resume"}, "privacy": True},
            "spec.recovery.policy: Resume needs the journal",
        ),
        ({"agent": {"provider": {"type": "custom"}}}, "spec.agent.provider.url: is required"),
        ({"agent": {"provider": {"type": "aws"}}}, "spec.agent.provider.type: 'aws' is not supported"),
        ({"agent": {}}, "spec.agent.provider: is required"),
        ({"agentRef": {"name": "a"}, "ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished: is -1"),
        (
            {"agentRef": {"name": "a"}, "ttlSecondsAfterFinished": True},
            "must be a whole number, not a boolean",
        ),
        ({"agentRef": {"name": "../b"}}, "spec.agentRef.name: '../b' is not a name"),
    ],
)
def test_bad_sessions(spec: Any, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_session_spec(spec)
    assert words in str(caught.value)


def test_bad_pools_and_agents() -> None:
    with pytest.raises(FieldError, match=r"spec\.exposure\.hostPortRange"):
        parse_pool_spec({"exposure": {"type": "HostPort"}})
    with pytest.raises(FieldError, match=r"spec\.provider\.allowedHosts\[0\]"):
        parse_pool_spec({"provider": {"allowedHosts": [5]}})
    with pytest.raises(FieldError, match=r"spec\.tools\[1\]"):
        parse_agent_spec({"provider": {"type": "openai"}, "tools": [{}, "x"]})


def test_settings(tmp_path: Path) -> None:
    found = load_settings({"PARLEY_OPERATOR_NAMESPACE": "n", "PARLEY_OPERATOR_SERVICE_HOST": "10.0.0.1"})
    assert found.default_pool_namespace == "n"
    env = json.dumps([{"name": "A", "value": "b"}])
    assert load_settings({"PARLEY_OPERATOR_WORKER_ENV": env}).worker_env == (("A", "b"),)
    bad = {"PARLEY_OPERATOR_CONCURRENCY": "many", "PARLEY_OPERATOR_LOG_LEVEL": "loud",
           "PARLEY_OPERATOR_DEFAULT_POOL_FILE": str(tmp_path / "x"), "PARLEY_OPERATOR_NAMESPCE": "n",
           "PARLEY_OPERATOR_WORKER_ENV": "{"}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_settings(bad)
    assert all(name in str(caught.value) for name in bad)
    assert "PARLEY_OPERATOR_NAMESPACE" in help_text()


def test_login(tmp_path: Path) -> None:
    with pytest.raises(LoginError, match="neither KUBECONFIG"):
        find_login({"HOME": str(tmp_path)}, tmp_path)
    (tmp_path / "token").write_text("t1\n")
    (tmp_path / "ca.crt").write_text("CA")
    login = find_login({"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}, tmp_path)
    assert (login.server, login.token()) == ("https://[fd00::1]:6443", "t1")
    (tmp_path / "token").write_text("t2")
    assert login.token() == "t2"
    broken = tmp_path / "config"
    broken.write_text("current-context: x\ncontexts: []\n")
    with pytest.raises(LoginError, match="no entry 'x' in contexts"):
        from_kubeconfig(broken)


async def test_a_key_is_never_worked_on_twice_at_a_time() -> None:
    queue, key, other = KeyedQueue(), Key("k", "n", "a"), Key("k", "n", "b")
    for _ in range(3):
        queue.add(key)
    queue.add(other)
    assert len(queue) == 2
    assert await queue.get() == key
    queue.add(key)
    assert await queue.get() == other
    assert len(queue) == 0
    queue.done(key)
    assert await queue.get() == key
    queue.close()


async def test_a_later_look_gives_way_to_an_earlier_one() -> None:
    queue, key = KeyedQueue(), Key("k", "n", "a")
    queue.add_after(key, 100.0)
    queue.add_after(key, 0.001)
    async with asyncio.timeout(5):
        assert await queue.get() == key
    queue.done(key)
    queue.add_after(key, 100.0)
    assert (len(queue), queue.delayed) == (0, 1)
    queue.add(key)
    assert (len(queue), queue.delayed) == (1, 0)
    queue.close()
    queue.add(Key("k", "n", "c"))
    assert len(queue) == 1


def body(version: int, uid: str = "u") -> dict[str, Any]:
    return {"metadata": {"name": "a", "namespace": "n", "uid": uid, "resourceVersion": str(version)}}


def test_old_news_changes_nothing() -> None:
    cache = ObjectCache()
    cache.put("K", body(5))
    cache.put("K", body(4))
    assert cache.get("K", "n", "a") == body(5)
    cache.drop("K", body(9, "another"))
    assert cache.get("K", "n", "a") is not None
    cache.put("K", body(6, "next"))
    cache.put("K", body(7))
    assert cache.get("K", "n", "a") == body(6, "next")
    cache.drop("K", body(6, "next"))
    cache.put("K", body(6, "next"))
    assert cache.get("K", "n", "a") is None


def test_the_cache_keeps_no_record_of_writers() -> None:
    cache = ObjectCache()
    made = body(1)
    made["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache.put("K", made)
    assert cache.get("K", "n", "a") == body(1)
    assert "managedFields" in made["metadata"]


def test_kopf_neither_gives_up_nor_waits_long() -> None:
    settings = kopf.OperatorSettings()
    tune(settings)
    pauses = settings.networking.error_backoffs
    assert not isinstance(pauses, (int, float))
    assert max(itertools.islice(pauses, 10_000)) <= 5.0
    assert settings.posting.enabled is False


def test_logs_are_one_line_of_json() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "two\nlines %s", ("a",), None)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["message"] == "two\nlines a"
