"""The reconciler over FileStore and real gRPC workers: the life of sessions, faults included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from control_worker import ControlWorker
from parley.control.v1 import control_pb2 as pb
from parley_operator.domain.placement.strays import StrayRules
from parley_operator.embedded import EmbeddedControlPlane, InvalidObject, SessionEnded, WorkerTarget
from parley_operator.workers import codec

API = "parley.dev/v1alpha1"
pytestmark = pytest.mark.timeout(120)


def agent(**spec: Any) -> dict[str, Any]:
    provider = {"type": "custom", "url": "ws://127.0.0.1:8765/v1/realtime", "model": "m"}
    return {
        "apiVersion": API,
        "kind": "VoiceAgent",
        "metadata": {"name": "receptionist"},
        "spec": {"provider": provider, "instructions": "Be kind.", "voice": "slt", **spec},
    }


def session(name: str = "first-call", **spec: Any) -> dict[str, Any]:
    base = {"agentRef": {"name": "receptionist"}, **spec}
    return {"apiVersion": API, "kind": "VoiceSession", "metadata": {"name": name}, "spec": base}


def key_secret(hosts: str = "127.0.0.1", label: bool = True, key: str = "sk-very-secret") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "key",
            "labels": {"parley.dev/provider-credentials": "true"} if label else {},
            "annotations": {"parley.dev/provider-hosts": hosts},
        },
        "stringData": {"apiKey": key},
    }


async def until(check: Callable[[], Any], timeout: float = 30.0) -> Any:
    async with asyncio.timeout(timeout):
        while not (found := check()):  # noqa: ASYNC110 - any state may be waited for
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def plane_with(
    *workers: ControlWorker, directory: Path | None = None, **options: Any
) -> AsyncIterator[EmbeddedControlPlane]:
    targets = [WorkerTarget(w.name, f"127.0.0.1:{w.port}") for w in workers]
    async with EmbeddedControlPlane(directory, workers=targets, **options) as plane:
        yield plane


@pytest.fixture
async def worker() -> AsyncIterator[ControlWorker]:
    made = ControlWorker()
    await made.start()
    yield made
    await made.stop()


def uid_of(plane: EmbeddedControlPlane, name: str = "first-call") -> str:
    body: Any = plane.get("VoiceSession", name)
    return str(body["metadata"]["uid"])


async def test_a_session_becomes_ready_active_and_completed(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        body: Any = await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        uid = body["metadata"]["uid"]
        status = body["status"]
        assert status["worker"]["name"] == "worker-1"
        assert status["worker"]["endpoint"] == "127.0.0.1:7000"
        assert status["clientId"] == f"client-{uid}"
        assert {c["type"]: c["status"] for c in status["conditions"]} == {
            "Accepted": "True",
            "Placed": "True",
            "Ready": "True",
        }
        ticket = plane.ticket("first-call")
        assert ticket is not None
        assert ticket.endpoint == "127.0.0.1:7000"
        digest = sha256(ticket.ticket.reveal().encode())
        assert status["ticketHash"] == digest.hexdigest()
        [admit] = worker.admits
        assert admit.config.access.ticket_sha256 == digest.digest()
        assert '"instructions":"Be kind."' in admit.config.session_json
        worker.report(uid, pb.SESSION_STATE_ACTIVE)
        await plane.wait_phase("first-call", {"Active"}, timeout=30)
        usage = pb.Usage(input_tokens=7, output_tokens=9, input_audio_seconds=1.5)
        worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup", usage=usage)
        done: Any = await plane.wait_phase("first-call", {"Completed"}, timeout=30)
        assert done["status"]["endReason"] == "CallerHangup"
        assert done["status"]["usage"]["inputTokens"] == 7
        assert done["status"]["usage"]["inputAudioSeconds"] == 1.5


async def test_deleting_a_session_terminates_the_call(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        uid = uid_of(plane)
        await plane.delete("VoiceSession", "first-call")
        await until(lambda: not worker.live)
        assert worker.terminates[0].session.session_uid == uid
        assert worker.terminates[0].reason == "Terminated"
        assert plane.ticket("first-call") is None


async def test_deleting_during_admit_leaves_nothing_on_the_worker(worker: ControlWorker) -> None:
    worker.admit_delay = 0.5
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await until(lambda: worker.admits)
        await plane.delete("VoiceSession", "first-call")
        await until(lambda: worker.sessions and not worker.live)


async def test_a_name_that_comes_back_is_another_call(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        first = uid_of(plane)
        await plane.delete("VoiceSession", "first-call")
        await plane.apply([session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        second = uid_of(plane)
        assert first != second
        await until(lambda: [s.session.session_uid for s in worker.live] == [second])


async def test_a_restarted_worker_loses_its_sessions(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        await worker.crash()
        body: Any = await plane.wait_phase("first-call", {"Failed"}, timeout=30)
        assert body["status"]["endReason"] == "WorkerLost"


async def test_a_silent_worker_is_lost_after_a_while(worker: ControlWorker) -> None:
    async with plane_with(worker, worker_lost_after=1.0) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        await worker.stop()
        body: Any = await plane.wait_phase("first-call", {"Failed"}, timeout=30)
        assert body["status"]["endReason"] == "WorkerLost"


async def test_a_report_that_cannot_be_used_does_not_end_the_link(
    worker: ControlWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = codec.session_report, 1

    def sometimes(message: Any) -> Any:
        nonlocal broken
        if broken:
            broken -= 1
            raise OverflowError("a time beyond the calendar")
        return real(message)

    monkeypatch.setattr(codec, "session_report", sometimes)
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        assert broken == 0
        worker.report(uid_of(plane), pb.SESSION_STATE_ENDED, "CallerHangup")
        await plane.wait_phase("first-call", {"Completed"}, timeout=30)


async def test_an_unanswered_admit_is_asked_again_and_never_doubled(worker: ControlWorker) -> None:
    other = ControlWorker(name="worker-2")
    await other.start()
    worker.swallow_answers = 1
    other.swallow_answers = 1
    async with plane_with(worker, other) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        assert len(worker.live) + len(other.live) == 1
        assert not (worker.admits and other.admits)
    await other.stop()


async def test_a_lost_request_is_repeated_on_the_same_worker(worker: ControlWorker) -> None:
    worker.lose_requests = 2
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        [admit] = worker.admits
        assert admit.session.attempt == 1


async def test_restart_in_the_middle_of_admit_adopts_the_session(
    worker: ControlWorker, tmp_path: Path
) -> None:
    worker.admit_delay = 0.3
    async with plane_with(worker, directory=tmp_path) as plane:
        await plane.apply([agent(), session()])
        await until(lambda: worker.admits)
    worker.admit_delay = 0
    async with plane_with(worker, directory=tmp_path) as plane:
        body: Any = await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        assert body["status"]["attempt"] == 1
        tickets = {a.config.access.ticket_sha256 for a in worker.admits}
        assert [t.hex() for t in tickets] == [body["status"]["ticketHash"]]
        assert len(worker.live) == 1


async def test_restart_between_admit_and_status_adopts_the_session(
    worker: ControlWorker, tmp_path: Path
) -> None:
    worker.auto_ready = False
    async with plane_with(worker, directory=tmp_path) as plane:
        await plane.apply([agent(), session()])
        await until(lambda: worker.sessions)
        uid = uid_of(plane)
    async with plane_with(worker, directory=tmp_path) as plane:
        worker.report(uid, pb.SESSION_STATE_READY)
        body: Any = await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        assert len(worker.admits) == 1
        ticket = plane.ticket("first-call")
        assert ticket is not None
        assert body["status"]["ticketHash"] == sha256(ticket.ticket.reveal().encode()).hexdigest()


async def test_full_workers_make_sessions_wait_and_then_time_out(worker: ControlWorker) -> None:
    worker.capacity = 1
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        await plane.apply([session("second", limits={"queueTimeout": "1s"})])
        body: Any = await plane.wait_phase("second", {"Failed"}, timeout=30)
        assert body["status"]["endReason"] == "QueueTimeout"
        await plane.apply([session("third")])
        worker.report(uid_of(plane), pb.SESSION_STATE_ENDED, "CallerHangup")
        await plane.wait_phase("third", {"Ready"}, timeout=30)
        assert worker.peak == 1


async def test_no_worker_at_all_is_no_capacity() -> None:
    async with plane_with() as plane:
        await plane.apply([agent(), session(limits={"queueTimeout": "1s"})])
        body: Any = await plane.wait_phase("first-call", {"Failed"}, timeout=30)
        assert body["status"]["endReason"] == "NoCapacity"


async def test_many_at_once_fill_workers_and_never_overfill_them() -> None:
    workers = [ControlWorker(name=f"worker-{n}", capacity=5) for n in (1, 2)]
    for each in workers:
        await each.start()
    async with plane_with(*workers) as plane:
        names = [f"call-{n}" for n in range(10)]
        await plane.apply([agent(), *(session(name) for name in names)])
        for name in names:
            await plane.wait_phase(name, {"Ready"}, timeout=30)
        assert [w.peak for w in workers] == [5, 5]
        assert all(not w.terminates for w in workers)
    for each in workers:
        await each.stop()


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        (None, "SecretNotFound"),
        (key_secret(label=False), "SecretNotLabelled"),
        (key_secret(hosts="api.openai.com"), "SecretHostMismatch"),
        (key_secret(key=" "), "SecretKeyMissing"),
    ],
)
async def test_a_secret_that_may_not_be_used_goes_nowhere(
    worker: ControlWorker, secret: dict[str, Any] | None, reason: str
) -> None:
    provider = {
        "type": "custom",
        "url": "ws://127.0.0.1:8765/v1/realtime",
        "credentialsSecretRef": {"name": "key"},
    }
    manifests = [agent(provider=provider), session(limits={"queueTimeout": "1s"})]
    async with plane_with(worker) as plane:
        await plane.apply([*([secret] if secret else []), *manifests])
        body: Any = await plane.wait_phase("first-call", {"Failed"}, timeout=30)
        [accepted] = [c for c in body["status"]["conditions"] if c["type"] == "Accepted"]
        assert (accepted["status"], accepted["reason"]) == ("False", reason)
        assert "credentialsSecretRef" in accepted["message"]
        assert body["status"]["endReason"] == "InvalidSpec"
        assert "very-secret" not in str(body)
        assert worker.admits == []


async def test_a_missing_agent_and_secret_may_still_appear(worker: ControlWorker) -> None:
    provider = {
        "type": "custom",
        "url": "ws://127.0.0.1:8765/v1/realtime",
        "credentialsSecretRef": {"name": "key"},
    }
    async with plane_with(worker, environ={"KEY": "sk-from-environment"}) as plane:
        await plane.apply([session()])
        await until(lambda: "AgentNotFound" in str(plane.get("VoiceSession", "first-call")))
        await plane.apply([agent(provider=provider)])
        await until(lambda: "SecretNotFound" in str(plane.get("VoiceSession", "first-call")))
        await plane.apply([key_secret(key="$(KEY)")])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        assert worker.admits[0].config.provider.api_key == "sk-from-environment"
        assert "sk-from" not in str(plane.get("Secret", "key"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ws://10.0.0.1:8765", "HostNotAllowed"),
        ("wss://evil.example.com", "HostNotAllowed"),
        ("http://169.254.169.254/latest", "HostForbidden"),
        ("http://2852039166/latest", "HostForbidden"),
        ("http://[::ffff:169.254.169.254]/", "HostForbidden"),
    ],
)
async def test_hosts_outside_the_list_are_refused(worker: ControlWorker, url: str, reason: str) -> None:
    async with plane_with(worker) as plane:
        provider = {"type": "custom", "url": url}
        await plane.apply([agent(), session(provider=provider, limits={"queueTimeout": "0s"})])
        body: Any = await plane.wait_phase("first-call", {"Failed"}, timeout=30)
        [accepted] = [c for c in body["status"]["conditions"] if c["type"] == "Accepted"]
        assert accepted["reason"] == reason
        assert worker.admits == []


async def test_an_invalid_admit_fails_the_session(worker: ControlWorker) -> None:
    worker.refuse_with = pb.REFUSAL_REASON_INVALID
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session()])
        with pytest.raises(SessionEnded, match="InvalidSpec"):
            await plane.wait_phase("first-call", {"Ready"}, timeout=30)


async def test_a_finished_session_is_deleted_after_its_ttl(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        await plane.apply([agent(), session(ttlSecondsAfterFinished=1)])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        worker.report(uid_of(plane), pb.SESSION_STATE_ENDED, "AgentHangup")
        await plane.wait_phase("first-call", {"Completed"}, timeout=30)
        await until(lambda: plane.get("VoiceSession", "first-call") is None)


async def test_strays_are_ended_a_few_at_a_time(worker: ControlWorker) -> None:
    worker.capacity = 20
    for n in range(8):
        ref = pb.SessionRef(namespace="default", name=f"stray-{n}", session_uid=f"uid-{n}", attempt=1)
        worker.sessions[f"uid-{n}"] = pb.SessionReport(session=ref, state=pb.SESSION_STATE_ACTIVE)
    plane = EmbeddedControlPlane(workers=[WorkerTarget(worker.name, f"127.0.0.1:{worker.port}")])
    brake = StrayRules(hold=1.0, slow_share=0.25)
    plane._settings = replace(plane._settings, sweep_every=0.5, strays=brake)
    async with plane:
        # All have no object: that may be a wrong look, so they go slowly at first.
        await until(lambda: b"parley_operator_stray_brake 1.0" in plane.metrics.render())
        assert worker.terminates == []
        await until(lambda: worker.terminates)
        assert len(worker.terminates) == 2
        await until(lambda: not worker.live)
        await until(lambda: b"parley_operator_stray_sessions 0.0" in plane.metrics.render())
        assert b"parley_operator_stray_brake 0.0" in plane.metrics.render()


async def test_bad_objects_are_refused_with_the_field(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        with pytest.raises(InvalidObject, match=r"spec: exactly one of agentRef and agent"):
            await plane.apply([session(agent={"provider": {"type": "openai"}})])
        with pytest.raises(InvalidObject, match=r"spec.limits.maxDuration: 'soon'"):
            await plane.apply([session(limits={"maxDuration": "soon"})])
        await plane.apply([agent(), session()])
        with pytest.raises(InvalidObject, match=r"spec.privacy: cannot be changed"):
            await plane.apply([session(privacy=True)])


async def test_a_deletion_that_nobody_told_is_found(worker: ControlWorker) -> None:
    plane = EmbeddedControlPlane(workers=[WorkerTarget(worker.name, f"127.0.0.1:{worker.port}")])
    plane._settings = replace(plane._settings, resync_every=0.4, sweep_every=0.2)
    async with plane:
        await plane.apply([agent(), session()])
        await plane.wait_phase("first-call", {"Ready"}, timeout=30)
        plane._stop()
        plane._stop = lambda: None
        await plane.delete("VoiceSession", "first-call")
        await until(lambda: not worker.live)
        assert worker.terminates[0].reason == "Terminated"
