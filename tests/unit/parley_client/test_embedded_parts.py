"""Manifests, metrics, turns, transcripts: the pure parts of embedded mode and of conversations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from parley_client import ConversationEvent, MissingProgram, UsageError, transcript_of
from parley_client.conversation import TurnWatch
from parley_client.embedded.demo import DemoResult, RunResult, find_example
from parley_client.embedded.manifests import (
    below,
    loopback_url,
    parse_manifests,
    point_at,
    provider_urls,
    read_manifests,
    store_hosts,
    volume_path,
    webhook_hosts,
)
from parley_client.embedded.metrics import highlights, parse_samples
from parley_client.embedded.programs import find_program
from parley_client.embedded.speech import question_for, random_code
from parley_client.embedded.stack import brain_environ
from parley_client.resolve import session_info

SESSION = """
kind: VoiceSession
metadata: {name: one}
spec:
  agent:
    provider: {type: custom, url: "ws://localhost:8765/v1/realtime?x=1"}
"""
AGENT = """
kind: VoiceAgent
metadata: {name: agent}
spec:
  provider: {type: custom, url: "wss://voice.example/v1/realtime"}
"""


def test_the_example_has_a_session_and_a_loopback_provider() -> None:
    manifests = find_example()
    assert manifests.session_name == "first-call"
    assert [loopback_url(url) for url in provider_urls(manifests)] == [True]


def test_only_the_loopback_provider_is_moved_and_its_path_stays() -> None:
    manifests = parse_manifests(f"{SESSION}---{AGENT}", "x")
    local = next(url for url in provider_urls(manifests) if loopback_url(url))
    moved = point_at(manifests, local, "ws://127.0.0.1:40001/v1/realtime")
    assert sorted(provider_urls(moved)) == [
        "ws://127.0.0.1:40001/v1/realtime?x=1",
        "wss://voice.example/v1/realtime",
    ]
    assert provider_urls(manifests) != provider_urls(moved)


def test_a_pool_and_a_key_of_the_file_follow_the_provider_to_its_port() -> None:
    others = """
kind: VoiceWorkerPool
metadata: {name: default}
spec: {provider: {allowedHosts: ["localhost:8765", voice.example]}}
---
kind: Secret
metadata: {name: key, annotations: {parley.dev/provider-hosts: "voice.example, localhost:8765"}}
---
kind: VoiceWorkerPool
metadata: {name: odd}
spec: null
"""
    moved = point_at(
        parse_manifests(f"{SESSION}---{others}", "x"),
        "ws://localhost:8765/v1/realtime?x=1",
        "ws://127.0.0.1:40001/v1/realtime",
    )
    key, pool, _ = moved.objects
    assert pool["spec"]["provider"]["allowedHosts"] == ["127.0.0.1:40001", "voice.example"]
    assert key["metadata"]["annotations"]["parley.dev/provider-hosts"] == "voice.example,127.0.0.1:40001"


def test_objects_come_before_what_refers_to_them() -> None:
    others = "kind: ConfigMap\nmetadata: {name: m}\n---\nkind: Secret\nmetadata: {name: s}\n"
    manifests = parse_manifests(f"{SESSION}---{AGENT}---\n{others}", "x")
    assert [o["kind"] for o in manifests.objects] == ["Secret", "ConfigMap", "VoiceAgent"]


RECORDED = """
kind: VoiceSession
metadata: {name: one}
spec:
  agentRef: {name: agent}
  recording: {volume: {path: /recordings/eu}}
---
kind: VoiceAgent
metadata: {name: agent}
spec:
  provider: {type: openai}
  tools:
    - {type: function, name: a, route: {webhook: {url: "https://hooks.example/x"}}}
    - {type: function, name: b, route: {webhook: {url: "http://[::1]:8080/x"}}}
    - {type: function, name: c, route: {webhook: {url: "http://h:odd"}}}
    - {type: function, name: d, route: {nats: {}}}
    - nonsense
---
kind: VoiceWorkerPool
metadata: {name: default}
spec: {recordings: {directories: [/recordings]}}
"""


def test_recordings_go_below_a_folder_of_this_machine() -> None:
    manifests = parse_manifests(RECORDED, "x")
    moved = below(manifests, Path("/here"))
    assert volume_path(moved) == "/here/recordings/eu"
    [pool] = [o for o in moved.objects if o["kind"] == "VoiceWorkerPool"]
    assert pool["spec"]["recordings"]["directories"] == ["/here/recordings"]
    assert volume_path(manifests) == "/recordings/eu", "the file's own objects stay"
    assert (
        below(parse_manifests(SESSION, "x"), Path("/here")).session == parse_manifests(SESSION, "x").session
    )


def test_hosts_that_a_file_names() -> None:
    assert webhook_hosts(parse_manifests(RECORDED, "x")) == ["[::1]:8080", "hooks.example:443"]
    store = "recording: {s3: {url: s3://calls, endpoint: 'http://minio:9000'}}"
    named = RECORDED.replace("recording: {volume: {path: /recordings/eu}}", store)
    assert store_hosts(parse_manifests(named, "x")) == ["minio:9000"]
    aws = named.replace(", endpoint: 'http://minio:9000'", "")
    assert store_hosts(parse_manifests(aws, "x")) == ["*.amazonaws.com"]
    assert store_hosts(parse_manifests(RECORDED, "x")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "not YAML"),
        ("", "no VoiceSession in it; it has none"),
        (AGENT, "no VoiceSession in it"),
        (f"{SESSION}---{SESSION.replace('one', 'two')}", r"several VoiceSessions \(one, two\)"),
        ("- 1", "document 1: not an object"),
        ("metadata: {name: x}", "`kind` is missing"),
        ("kind: VoiceSession", "`metadata.name` is missing"),
        (f"{SESSION}---\nkind: Pod\nmetadata: {{name: p}}", "kind Pod means nothing here"),
    ],
)
def test_bad_files_are_explained(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_manifests(text, "file.yaml")


def test_a_session_is_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(f"{SESSION}---{SESSION.replace('one', 'two')}")
    assert read_manifests(path, "two").session_name == "two"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="no text"):
        read_manifests(path)


def test_metrics_worth_a_line() -> None:
    text = """# HELP parley_worker_admissions_total x
parley_worker_admissions_total 1.0
parley_worker_sessions_ended_total{reason="CallerHangup"} 1.0
parley_worker_events_dropped_total{kind="event",cause="full"} 0.0
parley_worker_first_audio_seconds_count 2.0
parley_worker_first_audio_seconds_sum 0.5
garbage
parley_worker_odd x
"""
    assert parse_samples(text)["parley_worker_admissions_total"] == 1
    assert highlights(text) == {
        "admissions_total": 1,
        'sessions_ended_total{reason="CallerHangup"}': 1,
        "first_audio_seconds (mean of 2)": 0.25,
    }


def test_codes_are_six_digits_and_countable() -> None:
    codes = {random_code() for _ in range(200)}
    assert len(codes) > 150
    for code in codes:
        assert len(code) == 6
        assert code.isdecimal()
        assert all(a != b for a, b in itertools.pairwise(code))
        assert code[0] not in "1248"
        assert code in question_for(code)


def test_the_demo_passes_only_with_all_digits(tmp_path: Path) -> None:
    run = RunResult.__new__(RunResult)
    assert DemoResult(run, "123456", "", "123456").passed
    assert not DemoResult(run, "123456", "", "12345").passed
    assert not DemoResult(run, "123456", "", "").passed


def test_programs_are_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PARLEY_CACHE", str(tmp_path))
    with pytest.raises(MissingProgram, match="some-thing is not installed; install it with"):
        find_program("some-thing")
    program = tmp_path / "bin" / "some-thing"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find_program("some-thing") == str(program)


def test_a_key_that_stands_twice_is_refused_and_not_the_last_one_taken() -> None:
    text = f"{SESSION}---{AGENT}".replace("spec:", "spec:\n  limits: {maxDuration: 1m}\n  limits: {}", 1)
    with pytest.raises(UsageError, match=r"my.yaml: .*'limits' stands twice in one object, in lines 5 and 6"):
        parse_manifests(text, "my.yaml")


def test_hang_up_comes_after_the_answer_and_its_silence() -> None:
    watch = TurnWatch(linger=1.0, answer_timeout=10.0)
    watch.sound(0.5)
    assert not watch.answered
    assert not watch.is_over(100)
    watch.question_sent(101)
    watch.event("input_audio_buffer.speech_started", 101)
    watch.event("input_audio_buffer.speech_stopped", 101.5)
    watch.event("response.created", 101.6)
    watch.sound(103)
    assert not watch.is_over(105)
    watch.event("response.done", 105)
    assert not watch.is_over(105.9)
    assert watch.is_over(106.1)


def test_who_listens_first_asks_when_the_greeting_was_heard() -> None:
    watch = TurnWatch(linger=20.0, answer_timeout=10.0)
    assert not watch.may_ask(4, since=0)
    watch.event("response.created", 4)
    watch.sound(4.5)
    assert not watch.may_ask(7, since=0)
    watch.event("response.done", 7)
    watch.sound(8)
    assert not watch.may_ask(8.9, since=0)
    assert watch.may_ask(9.1, since=0)
    assert not watch.answered


def test_who_listens_first_asks_an_agent_that_says_nothing_too() -> None:
    watch = TurnWatch(linger=1.0, answer_timeout=10.0)
    assert not watch.may_ask(12.9, since=3)
    assert watch.may_ask(13, since=3)


def test_a_silent_agent_is_given_up_on() -> None:
    watch = TurnWatch(linger=1.0, answer_timeout=10.0)
    watch.question_sent(1)
    watch.event("response.created", 2)
    watch.event("response.done", 3)
    assert not watch.is_over(12.9)
    assert watch.is_over(13.1)


@pytest.mark.parametrize(
    ("type", "body", "expected"),
    [
        (
            "conversation.item.input_audio_transcription.completed",
            {"transcript": " hi "},
            ("user", "hi", True),
        ),
        ("response.output_audio_transcript.done", {"transcript": "yes"}, ("assistant", "yes", True)),
        ("response.audio_transcript.done", {"transcript": "yes"}, ("assistant", "yes", True)),
        ("response.output_audio_transcript.delta", {"delta": " ye"}, ("assistant", " ye", False)),
        ("response.text.done", {"text": "t"}, ("assistant", "t", True)),
        ("response.done", {}, None),
    ],
)
def test_transcripts_of_both_shapes(
    type: str, body: dict[str, str], expected: tuple[str, str, bool] | None
) -> None:
    found = transcript_of(ConversationEvent(1, 1, type, body))
    assert (found and (found.role, found.text, found.final)) == expected


def test_a_session_is_read_from_its_status() -> None:
    body = {
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "creationTimestamp": "t"},
        "status": {
            "phase": "Pending",
            "attempt": 2,
            "worker": {"name": "w", "endpoint": "h:1", "tlsServerName": "s"},
            "conditions": [{"type": "Accepted", "status": "False", "message": "spec.x is wrong"}],
        },
    }
    info = session_info(body)
    assert (info.phase, info.worker, info.endpoint, info.attempt) == ("Pending", "w", "h:1", 2)
    assert info.message == "spec.x is wrong"
    assert info.ticket_secret == "a-ticket"
    empty = session_info(json.loads('{"metadata":{"name":"b"},"status":null}'))
    assert (empty.phase, empty.attempt) == ("", 0)


def test_the_local_provider_is_told_where_its_brain_is_and_nothing_else() -> None:
    told = brain_environ(
        {
            "PARLEY_LOCAL_CHAT_URL": "http://chat.test/v1",
            "PARLEY_LOCAL_CHAT_KEY": "k",
            "PYTHONPATH": "mine",
            "PARLEY_LOCAL_PORT": "1",
            "OPENAI_API_KEY": "secret",
        }
    )
    assert sorted(told) == ["PARLEY_LOCAL_CHAT_KEY", "PARLEY_LOCAL_CHAT_URL", "PYTHONPATH"]
