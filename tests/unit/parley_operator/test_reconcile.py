"""Sessions: placed, asked about, ended, deleted, whatever happens in between."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.model import (
    AdmitOutcome,
    AdmitRequest,
    AdmitVerdict,
    SessionReport,
    SessionState,
    Usage,
)
from parley_operator.handlers.queue import DOOM, Key
from parley_operator.ports import Conflict, StoreError
from reconcile_plane import HOSTS, POOL, PROVIDER, SECRET, SESSION, Links, Plane


@pytest.fixture
async def plane() -> Plane:
    made = Plane()
    await made.apply(POOL, "default", {**HOSTS, "allowedNamespaces": ["*"]})
    return made


def unanswered(worker: str, request: AdmitRequest) -> AdmitOutcome:
    return AdmitOutcome(AdmitVerdict.UNKNOWN, "no answer")


async def test_an_end_is_kept_when_the_pod_is_gone_before_it_is_written(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.ACTIVE)
    await plane.look()
    usage = Usage(output_tokens=7)
    ended = plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup", usage=usage)
    plane.reconciler.worker_changed("w", ended)
    plane.links.remove("w")
    await plane.look()
    assert plane.status()["endReason"] == "CallerHangup"
    assert plane.status()["usage"]["outputTokens"] == 7


@pytest.mark.parametrize(("gone", "reason"), [(False, "CallerHangup"), (True, "WorkerLost")])
async def test_what_ended_while_no_operator_ran(plane: Plane, gone: bool, reason: str) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.ACTIVE)
    await plane.look()
    plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup")
    if gone:
        plane.links.remove("w")
    await plane.restart()
    await plane.look()
    assert plane.status()["endReason"] == reason
    assert len(plane.links.admits) == 1


async def test_what_is_over_goes_on_nowhere(plane: Plane) -> None:
    plane.links.add("w")
    body = await plane.session()
    await plane.look()
    plane.links.remove("w")
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    uid = body["metadata"]["uid"]
    zombie = SessionReport(uid, 7, "default", "call", SessionState.ACTIVE)
    plane.links.add("other", sessions={uid: zombie})
    assert await plane.look() == 2.0
    assert plane.links.terminates == [("other", uid)]


async def test_an_end_told_of_another_instance_does_not_count(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.add("other")
    ended = plane.links.report("other", request, SessionState.ENDED, end_reason="CallerHangup")
    plane.reconciler.worker_changed("other", ended)
    plane.links.remove("w")
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"


@pytest.mark.parametrize("access", [{"ticket": "None"}, {"ticket": "Secret"}])
async def test_who_was_asked_is_known_after_a_restart(plane: Plane, access: Any) -> None:
    view = plane.links.add("w")
    plane.links.answer = unanswered
    await plane.session(access=access)
    await plane.look()
    assert [worker for worker, _ in plane.links.admits] == ["w"]
    # The worker, silent now, may have the session; another one has room.
    plane.links.workers["w"] = replace(view, connected=False, instance_id="")
    plane.links.add("free")
    plane.clock.at += 3.0
    await plane.restart()
    assert await plane.look() == 1.0
    assert [worker for worker, _ in plane.links.admits] == ["w"]
    # It answers again, and is asked the same question.
    plane.links.add("w")
    plane.links.answer = Links().answer
    await plane.look()
    assert [(worker, r.attempt) for worker, r in plane.links.admits] == [("w", 1), ("w", 1)]


async def test_a_note_is_no_placement_once_the_worker_said_no(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.FULL)
    await plane.session(access={"ticket": "None"})
    await plane.look()
    assert plane.reconciler.sessions.book.get(plane.links.admits[0][1].uid) is None
    plane.links.answer = Links().answer
    plane.links.workers.clear()
    plane.links.add("other")
    await plane.look()
    assert [worker for worker, _ in plane.links.admits] == ["w", "other"]


async def test_the_attempt_never_falls(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = unanswered
    await plane.session()
    await plane.look()
    # The worker is gone; the next one says no, the third yes.
    plane.links.remove("w")
    plane.links.add("second")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.DRAINING)
    await plane.look()
    plane.links.remove("second")
    plane.links.add("third")
    plane.links.answer = Links().answer
    await plane.look()
    assert [(worker, r.attempt) for worker, r in plane.links.admits] == [
        ("w", 1), ("second", 2), ("third", 2),
    ]  # fmt: skip


async def test_a_worker_lost_while_asked_is_told_so_in_the_end(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = unanswered
    await plane.session()
    await plane.look()
    plane.links.remove("w")
    assert (await plane.look() or 0.0) > 0.5
    plane.clock.at += 31
    await plane.look()
    assert plane.status()["endReason"] == "NoCapacity"
    assert "w said Gone" in plane.status()["endMessage"]
    assert plane.conditions()["Ready"] == ("False", "NoCapacity")


async def test_a_session_that_ended_before_the_answer_keeps_its_reason(plane: Plane) -> None:
    plane.links.add("w")
    plane.links.answer = lambda worker, request: AdmitOutcome(AdmitVerdict.ENDED)
    await plane.session()
    await plane.look()
    assert "endReason" not in plane.status()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.ENDED, end_reason="ProviderAuthFailed")
    await plane.look()
    assert plane.status()["endReason"] == "ProviderAuthFailed"


async def test_a_secret_of_somebody_else_is_left_alone_and_named(plane: Plane) -> None:
    plane.links.add("w")
    metadata = {"name": "call-ticket", "namespace": "default"}
    data = {"ticket": base64.b64encode(b"theirs").decode()}
    theirs = await plane.store.create(
        SECRET, {"apiVersion": "v1", "kind": SECRET, "metadata": metadata, "data": data}
    )
    await plane.session()
    assert await plane.look() == 0.5
    assert plane.conditions() == {}
    plane.clock.at += 11
    await plane.look()
    assert plane.conditions()["Accepted"] == ("False", "TicketSecretTaken")
    assert "call-ticket" in plane.status()["conditions"][0]["message"]
    writes = len(plane.store.status_writes)
    await plane.look()
    assert len(plane.store.status_writes) == writes
    plane.clock.at += 30
    await plane.look()
    assert plane.status()["endReason"] == "InvalidSpec"
    assert plane.links.admits == []
    assert plane.store.peek(SECRET, "default", "call-ticket") == theirs
    assert "theirs" not in str(plane.status())
    # When it is gone before the end, all is well.
    await plane.store.delete(SECRET, "default", "call-ticket", "")
    await plane.session("next")
    await plane.look("next")
    assert len(plane.links.admits) == 1


@pytest.mark.parametrize("restart", [False, True])
async def test_the_secret_names_the_endpoint_before_the_status_does(plane: Plane, restart: bool) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    plane.links.report("w", request, SessionState.READY, endpoint="1.2.3.4:5", tls_server_name="w.example")
    if restart:
        await plane.restart()

    def fail(verb: str, kind: str) -> None:
        raise StoreError("no answer")

    plane.store.before = fail
    with pytest.raises(StoreError):
        await plane.look()
    assert plane.status() == {}
    plane.store.before = lambda verb, kind: None
    await plane.look()
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    assert base64.b64decode(body["data"]["endpoint"]) == b"1.2.3.4:5"
    assert base64.b64decode(body["data"]["tlsServerName"]) == b"w.example"
    assert plane.status()["phase"] == "Ready"


def telephony_of(plane: Plane) -> str:
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    return base64.b64decode(body["data"]["telephonyEndpoint"]).decode()


async def test_a_foreseen_telephony_endpoint_costs_no_second_write(plane: Plane) -> None:
    here = "wss://10.0.0.1:50200/twilio"
    plane.links.add("w", media_endpoint="1.2.3.4:5", telephony_endpoint=here)
    plane.links.answer = lambda worker, request: AdmitOutcome(
        AdmitVerdict.ADMITTED, endpoint="1.2.3.4:5", telephony_endpoint=here
    )
    writes: list[str] = []
    plane.store.before = lambda verb, kind: writes.append(f"{verb} {kind}") if kind == SECRET else None
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    facts = {"endpoint": "1.2.3.4:5", "telephony_endpoint": here}
    plane.links.report("w", request, SessionState.READY, **facts)
    await plane.look()
    assert writes == [f"create {SECRET}"]
    assert telephony_of(plane) == plane.status()["telephonyEndpoint"] == here
    # The worker has the last word: it serves telephony elsewhere now.
    plane.links.report("w", request, SessionState.ACTIVE, **{**facts, "telephony_endpoint": "wss://b/twilio"})
    await plane.look()
    assert telephony_of(plane) == plane.status()["telephonyEndpoint"] == "wss://b/twilio"


async def test_while_a_session_waits_nobody_reads_its_secret(plane: Plane) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": SECRET,
        "metadata": {
            "name": "key",
            "namespace": "default",
            "labels": {"parley.dev/provider-credentials": "true"},
            "annotations": {"parley.dev/provider-hosts": "127.0.0.1"},
        },
        "stringData": {"apiKey": "sk-1"},
    }
    await plane.store.create(SECRET, secret)
    provider = {**PROVIDER, "credentialsSecretRef": {"name": "key"}}
    await plane.session(agent={"provider": provider})
    for _ in range(20):
        await plane.look()
    assert plane.store.reads.count("key") == 1
    plane.links.add("w")
    await plane.look()
    assert plane.store.reads.count("key") == 2
    assert plane.links.admits[0][1].provider.api_key.reveal() == "sk-1"


async def test_a_session_deleted_while_the_worker_is_asked(plane: Plane) -> None:
    plane.links.add("w")
    body = await plane.session()
    uid = body["metadata"]["uid"]

    def admit(worker: str, request: AdmitRequest) -> AdmitOutcome:
        plane.reconciler.observe(SESSION, body, deleted=True)
        return AdmitOutcome(AdmitVerdict.ADMITTED)

    plane.links.answer = admit
    await plane.look()
    assert await plane.reconciler._doom(Key(DOOM, "", uid)) is None
    assert plane.links.terminates == [("w", uid)]
    assert plane.reconciler.sessions.book.get(uid) is None
    assert plane.context.ledger.reservations == 0


async def test_a_list_older_than_the_deletion_brings_nothing_back(plane: Plane) -> None:
    plane.links.add("w")
    body = await plane.session()
    plane.reconciler.observe(SESSION, body, deleted=True)
    plane.reconciler.observe(SESSION, body)
    await plane.look()
    assert plane.links.admits == []


async def test_workers_of_other_pools_are_not_believed(plane: Plane) -> None:
    body = await plane.session()
    report = SessionReport(body["metadata"]["uid"], 1, "default", "call", SessionState.ENDED, "CallerHangup")
    plane.links.add("stranger", namespace="evil", sessions={report.uid: report})
    await plane.look()
    assert "endReason" not in plane.status()


async def test_a_final_write_whose_answer_was_lost_is_counted_once(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    plane.links.remove("w")

    def lose(verb: str, kind: str) -> None:
        plane.store.after = lambda verb, kind: None
        raise Conflict("the repeated write found its own work")

    plane.store.after = lose
    await plane.look()
    await plane.look()
    assert plane.status()["endReason"] == "WorkerLost"
    assert b'sessions_ended_total{reason="WorkerLost"} 1.0' in plane.context.metrics.render()
    assert plane.reconciler.sessions.book.get(plane.links.admits[0][1].uid) is None


async def test_nothing_is_kept_of_sessions_that_are_over(plane: Plane) -> None:
    plane.links.add("w", capacity=100)
    for number in range(30):
        await plane.session(f"call-{number}")
        await plane.look(f"call-{number}")
    for _, request in plane.links.admits:
        ended = plane.links.report("w", request, SessionState.ENDED, end_reason="CallerHangup")
        plane.reconciler.worker_changed("w", ended)
        await plane.look(request.name)
        await plane.look(request.name)
    kept = vars(plane.reconciler.sessions.book) | vars(plane.reconciler.sessions)
    for name, value in kept.items():
        if isinstance(value, (dict, set)):
            assert not value, name
    desk = plane.context.desk
    assert (len(desk), desk.grants, desk._came, plane.context.ledger.reservations) == (0, 0, {}, 0)


async def test_a_growing_journal_is_no_reason_to_write(plane: Plane) -> None:
    plane.links.add("w")
    await plane.session()
    await plane.look()
    [(_, request)] = plane.links.admits
    for last in range(1, 6):
        journal = {"journal_stream": "J", "journal_first": 1, "journal_last": last}
        plane.links.report("w", request, SessionState.ACTIVE, **journal)
        await plane.look()
    assert len(plane.store.status_writes) == 1
    plane.links.report("w", request, SessionState.ENDED, end_reason="AgentHangup", **journal)
    await plane.look()
    assert plane.status()["journal"] == {"stream": "J", "first": 1, "last": 5}
