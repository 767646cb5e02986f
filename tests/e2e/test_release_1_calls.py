"""Five sessions applied at once, five callers with digits of their own, and what is left to read of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cluster_fixture import ClusterError, wait_for
from e2e_calls import reach, resolve
from e2e_release import ADMIN, OPERATOR_PORT, Release, condition, moved, pool, session
from nats_reader import Record, check_complete, events_of, journal_of
from parley_client import Target
from speech import code_phrase, random_code
from spoken import Answer, Caller, check_gapless, heard_digits

FORMATS = {
    "mu-law": "g711_ulaw",
    "a-law": "g711_alaw",
    "narrow": "pcm16@8000",
    "wide": "pcm16@16000",
    "outside": "pcm16@24000",
}
POOLS = {"default": 4, "outside": 1}
HOST_PORTS = {"min": 30800, "max": 30801}


@dataclass
class Call:
    """One of the calls, over."""

    name: str
    digits: str
    target: Target
    caller: Caller
    answer: Answer
    final: dict[str, Any]
    events: list[Record]
    journal: list[Record]

    @property
    def uid(self) -> str:
        return str(self.final["metadata"]["uid"])


@dataclass
class Party:
    """All calls, and how far every counter of workers and operator moved meanwhile."""

    calls: list[Call]
    moved: dict[str, dict[str, float]]


def scrape(release: Release) -> dict[str, dict[str, float]]:
    found = {"operator": release.metrics(release.operator(), OPERATOR_PORT)}
    for name in POOLS:
        found[name] = release.metrics(release.workers(name)[0]["metadata"]["name"], ADMIN)
    return found


async def call(release: Release, name: str, folder: Path) -> Call:
    digits = random_code()
    target = await resolve(release, name)
    with reach(release, target, outside=name == "outside") as reached:
        async with Caller(reached, FORMATS[name], folder / f"{name}.wav") as caller:
            answer = await caller.ask(code_phrase(digits))
    final = await asyncio.to_thread(release.wait_phase, name, "Completed", timeout=20)
    return Call(name, digits, target, caller, answer, final, [], [])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(release: Release, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Party]:
    folder = tmp_path_factory.mktemp("recordings")
    async with asyncio.timeout(240):
        outside = pool(release, "outside", exposure={"type": "HostPort", "hostPortRange": HOST_PORTS})
        await asyncio.to_thread(release.apply, outside)
        for name in POOLS:
            await asyncio.to_thread(release.wait_workers, name)
        before = await asyncio.to_thread(scrape, release)
        sessions = [
            session(name, poolRef={"name": "outside" if name == "outside" else "default"}) for name in FORMATS
        ]
        await asyncio.to_thread(release.apply, *sessions)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(release, name, folder)) for name in FORMATS]
        calls = [task.result() for task in tasks]
        with release.nats_url() as url:
            for one in calls:
                one.events = await read_to_end(url, release.namespace, one.uid)
                one.journal = await journal_of(url, release.namespace, one.uid)
        after = await asyncio.to_thread(scrape, release)
    yield Party(calls, {name: moved(before[name], after[name]) for name in after})


async def read_to_end(url: str, namespace: str, uid: str) -> list[Record]:
    """The events once the last one has arrived; publishing is not awaited by the call."""
    for _ in range(50):
        found = await events_of(url, namespace, uid)
        if found and found[-1].kind == "ended":
            return found
        await asyncio.sleep(0.2)
    return found


def test_helm_test_passes(release: Release) -> None:
    output = release.cluster.helm(
        "test", "parley-e2e", "-n", release.namespace, "--logs", "--timeout", "120s"
    )
    for line in ("ok: operator is ready", "ok: NATS answers", "ok: the trial provider listens"):
        assert line in output


def test_workers_run_compiled_modules(release: Release, party: Party) -> None:
    for name, found in scrape(release).items():
        built = [key for key in found if key.startswith("parley_worker_build_info{")]
        assert name == "operator" or ['compiled="true"' in key for key in built] == [True], built


def test_every_caller_hears_its_own_digits(party: Party) -> None:
    assert len({one.digits for one in party.calls}) > 1
    heard = {one.name: heard_digits(one.caller.recording) for one in party.calls}
    assert heard == {one.name: one.digits for one in party.calls}


def test_every_answer_is_complete_and_gapless(party: Party) -> None:
    for one in party.calls:
        assert one.answer.response["status"] == "completed"
        check_gapless(one.caller)
        assert one.caller.call.stats.events_missed == 0
        assert one.caller.call.stats.resumes == 0


def test_one_caller_came_through_a_port_of_the_node(release: Release, party: Party) -> None:
    outside = next(one for one in party.calls if one.name == "outside")
    host, _, port = outside.target.address.rpartition(":")
    assert host in release.cluster.node_addresses
    assert HOST_PORTS["min"] <= int(port) <= HOST_PORTS["max"]
    pod = release.get("pod", outside.target.worker)
    assert host != pod["status"]["podIP"]
    assert outside.target.tls


def test_status_is_the_record_of_the_call(party: Party) -> None:
    for one in party.calls:
        status = one.final["status"]
        assert status["endReason"] == "CallerHangup", status
        assert status["attempt"] == 1
        assert status["startTime"] <= status["endTime"]
        assert condition(one.final, "Accepted")["status"] == "True"
        assert status["webSocketId"]
        assert status["clientId"]
        assert status["usage"]["inputAudioSeconds"] > 1
        assert status["usage"]["outputAudioSeconds"] > 1
        assert status["usage"]["outputTokens"] > 0
        assert status["ticketHash"] != one.target.ticket


def test_columns_of_kubectl_get(release: Release, party: Party) -> None:
    lines = release.kubectl("get", "vs").splitlines()
    assert {"NAME", "PHASE"} <= set(lines[0].split())
    rows = {line.split()[0]: line for line in lines[1:]}
    for one in party.calls:
        assert "Completed" in rows[one.name]


def test_worker_counters_moved_by_exactly_what_was_done(party: Party) -> None:
    for name, count in POOLS.items():
        counters = party.moved[name]
        calls = [one for one in party.calls if (one.name == "outside") == (name == "outside")]
        assert len(calls) == count
        stats = [one.caller.call.stats for one in calls]
        p = "parley_worker_"
        expected = {
            "admissions_total": count,
            'sessions_ended_total{reason="CallerHangup"}': count,
            "leg_attaches_total": count,
            "provider_connects_total": count,
            'audio_frames_total{direction="in"}': sum(s.frames_sent for s in stats),
            'audio_frames_total{direction="out"}': sum(s.frames_received for s in stats),
            'audio_bytes_total{direction="out"}': sum(s.bytes_received for s in stats),
            'events_published_total{kind="event"}': sum(len(one.events) for one in calls),
            'events_published_total{kind="journal"}': sum(len(one.journal) for one in calls),
            "first_audio_seconds_count": sum(
                record.kind == "first_audio" for one in calls for record in one.events
            ),
        }
        assert {key: counters.get(p + key, 0) for key in expected} == expected
        for nothing in ("events_dropped_total", "frames_dropped_total", "leg_errors_total", "refusals_total"):
            assert not [key for key in counters if nothing in key], counters


def test_operator_counters_moved_by_exactly_what_was_done(release: Release, party: Party) -> None:
    counters = party.moved["operator"]
    p = "parley_operator_"
    expected = {
        "placements_total": 5,
        'admits_total{result="Admitted"}': 5,
        'sessions_ended_total{reason="CallerHangup"}': 5,
    }
    assert {key: counters.get(p + key, 0) for key in expected} == expected
    assert not [key for key in counters if "refusals_total" in key or "api_errors_total" in key], counters

    def counted() -> bool:
        found = release.metrics(release.operator(), OPERATOR_PORT)
        return found[p + 'sessions{phase="Completed"}'] == 5 and found[p + "stray_sessions"] == 0

    assert wait_for(counted, "the gauges, renewed every few seconds", timeout=15)


def test_events_are_in_order_and_gapless(release: Release, party: Party) -> None:
    for one in party.calls:
        check_complete(one.events, one.uid, "ended")
        kinds = [record.kind for record in one.events]
        story = [
            "admitted", "provider_connected", "leg_attached", "speech_started", "speech_stopped",
            "response_started", "first_audio", "response_done", "ended",
        ]  # fmt: skip
        positions = [kinds.index(kind) for kind in story]
        assert positions == sorted(positions), kinds
        for record in one.events:
            dashed = record.kind.replace("_", "-")
            assert record.subject == f"parley.events.{release.namespace}.{one.uid}.{dashed}"
            assert record.headers["ce-specversion"] == "1.0"
            assert one.digits not in record.text, "an event holds content"
        times = [record.body.occur_time.ToMilliseconds() for record in one.events]
        assert times == sorted(times)


def test_journal_holds_what_was_said(party: Party) -> None:
    for one in party.calls:
        check_complete(one.journal, one.uid, "session_ended")
        said = [record.body.transcript for record in one.journal if record.kind == "transcript"]
        assert {part.role for part in said} == {"user", "assistant"}
        digits = "".join(c for part in said if part.role == "user" for c in part.text if c.isdigit())
        assert digits == one.digits
        journal = one.final["status"]["journal"]
        assert journal["stream"] == "PARLEY_JOURNAL"


def test_the_ticket_is_nowhere_but_in_its_secret(release: Release, party: Party) -> None:
    said = release.everything_said()
    for one in party.calls:
        assert one.target.ticket not in said
        assert all(one.target.ticket not in record.text for record in one.events + one.journal)
        assert release.cluster.secret(f"{one.name}-ticket", namespace=release.namespace)["ticket"]


def test_operator_may_not_list_secrets(release: Release) -> None:
    account = f"--as=system:serviceaccount:{release.namespace}:parley-e2e-operator"
    with pytest.raises(ClusterError):
        release.kubectl("auth", "can-i", "list", "secrets", account)
    with pytest.raises(ClusterError):
        release.kubectl("auth", "can-i", "update", "voicesessions", account)
    assert release.kubectl("auth", "can-i", "get", "secrets", account).strip() == "yes"
