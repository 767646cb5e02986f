"""The control service over real gRPC: who may call, what is admitted, what a watch tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from parley.control.v1 import control_pb2 as pb
from parley_worker.app import WorkerApp
from parley_worker.config import Address, Settings
from pki import Certificate, TestAuthority
from provider_script import Socket, scripted
from worker_process import Control, control

LOCAL = Address("127.0.0.1", 0)


async def idle(socket: Socket) -> None:
    await socket.greet()
    await asyncio.Event().wait()


@pytest.fixture
async def provider() -> AsyncIterator[str]:
    async with scripted(idle) as script:
        yield script.url


def app(**changes: Any) -> WorkerApp:
    return WorkerApp(
        Settings(
            **{
                "name": "w1",
                "media_address": LOCAL,
                "control_address": LOCAL,
                "admin_address": LOCAL,
                "capacity": 2,
                "watch_heartbeat": 0.2,
                **changes,
            }
        )
    )


def client(worker: WorkerApp) -> Any:
    return control(worker.control_address, worker.instance)


async def code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def until(stream: Any, test: Any, timeout: float = 10) -> pb.WatchResponse:
    async with asyncio.timeout(timeout):
        while not test(message := await stream.read()):
            assert message is not grpc.aio.EOF, "the watch ended"
    found: pb.WatchResponse = message
    return found


async def test_admit_is_idempotent_and_bounded(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        first = await operator.admit(operator.request(provider, "a"))
        assert first.admitted.endpoint == worker.media_address
        assert first.worker_instance_id == worker.instance
        assert await operator.admit(operator.request(provider, "a")) == first
        assert worker.registry.admission.sessions == 1
        assert (await operator.admit(operator.request(provider, "b"))).HasField("admitted")
        refused = (await operator.admit(operator.request(provider, "c"))).refused
        assert refused.reason == pb.REFUSAL_REASON_FULL
        text = worker.metrics.render().decode()
        assert "parley_worker_admissions_total 2.0" in text
        assert 'parley_worker_admission_refusals_total{reason="Full"} 1.0' in text


async def test_many_admits_at_once_never_pass_the_capacity(provider: str) -> None:
    async with app(capacity=5) as worker, client(worker) as operator:
        requests = [operator.request(provider, f"u{n % 20}") for n in range(40)]
        answers = await asyncio.gather(*(operator.admit(r) for r in requests))
        pairs = zip(requests, answers, strict=True)
        admitted = {r.session.session_uid for r, a in pairs if a.HasField("admitted")}
        assert len(admitted) == 5
        assert worker.registry.admission.sessions == 5


async def test_many_are_admitted_in_one_call_and_their_reports_come_together(provider: str) -> None:
    async with app(capacity=2, watch_heartbeat=5) as worker, client(worker) as operator:
        fence = operator.request(provider, "x").fence
        stream = operator.stub.Watch(pb.WatchRequest(fence=fence, together=True))
        await until(stream, lambda m: m.HasField("snapshot"))
        bad = operator.request(provider, "bad")
        bad.config.session_json = "{"
        asked = [operator.request(provider, "a"), bad, *(operator.request(provider, n) for n in "bca")]
        answers = (await operator.stub.AdmitMany(pb.AdmitManyRequest(admits=asked), timeout=20)).answers
        said = [a.refused.reason if a.HasField("refused") else "yes" for a in answers]
        full, invalid = pb.REFUSAL_REASON_FULL, pb.REFUSAL_REASON_INVALID
        assert said == ["yes", invalid, "yes", full, "yes"]
        assert answers[4] == answers[0]
        heard, together = set[str](), 0
        async with asyncio.timeout(10):
            while heard != {"a", "b"}:
                message = await stream.read()
                reports = [message.session] if message.HasField("session") else message.sessions.reports
                together = max(together, len(reports))
                heard |= {report.session.session_uid for report in reports} - {""}
        assert together > 1
        stream.cancel()
        for count in (0, 65):
            wrong = pb.AdmitManyRequest(admits=asked[:1] * count)
            assert await code(operator.stub.AdmitMany(wrong, timeout=20)) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"fence": {"leader_epoch": 1}}, pb.REFUSAL_REASON_WRONG_INSTANCE, "fence.worker_instance_id"),
        ({"session": {"attempt": 0}}, pb.REFUSAL_REASON_INVALID, "session.attempt"),
        ({"session": {"session_uid": "a.b"}}, pb.REFUSAL_REASON_INVALID, "session.session_uid"),
        ({"session": {"session_uid": ">"}}, pb.REFUSAL_REASON_INVALID, "session.session_uid"),
        ({"session": {"namespace": "No Such"}}, pb.REFUSAL_REASON_INVALID, "session.namespace"),
        ({"config": {"session_json": "[1]"}}, pb.REFUSAL_REASON_INVALID, "config.session_json"),
        ({"config": {"session_json": "{"}}, pb.REFUSAL_REASON_INVALID, "config.session_json"),
        ({"config": {"provider_audio": "opus"}}, pb.REFUSAL_REASON_INVALID, "config.provider_audio"),
        ({"config": {"access": {"ticket_sha256": b"short"}}}, pb.REFUSAL_REASON_INVALID, "ticket_sha256"),
        (
            {"config": {"limits": {"max_duration": {"seconds": -1}}}},
            pb.REFUSAL_REASON_INVALID,
            "max_duration",
        ),
        ({"config": {"provider": {"url": "file:///etc"}}}, pb.REFUSAL_REASON_INVALID, "config.provider.url"),
        ({"config": {"provider": {"api_version": "v9"}}}, pb.REFUSAL_REASON_INVALID, "api_version"),
        ({"config": {"provider": {"headers": {"A": "b\r\nC: d"}}}}, pb.REFUSAL_REASON_INVALID, "headers"),
        ({"config": {"provider": {"api_key": "sk-very\nsecret"}}}, pb.REFUSAL_REASON_INVALID, "api_key"),
    ],
)
async def test_what_cannot_run_is_refused_with_the_field(
    provider: str, change: dict[str, Any], reason: int, words: str
) -> None:
    async with app() as worker, client(worker) as operator:
        request = operator.request(provider)
        if "fence" in change:
            request.ClearField("fence")
        request.MergeFrom(pb.AdmitRequest(**change))
        if change.get("session", {}).get("attempt") == 0:
            request.session.attempt = 0
        refused = (await operator.admit(request)).refused
        assert refused.reason == reason
        assert words in refused.message
        assert "secret" not in refused.message
        assert worker.registry.admission.sessions == 0


async def test_stale_leaders_and_attempts_are_refused_everywhere(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        await operator.admit(operator.request(provider, "a", attempt=2, epoch=7))
        stale = (await operator.admit(operator.request(provider, "b", epoch=6))).refused
        assert stale.reason == pb.REFUSAL_REASON_STALE_LEADER
        older = (await operator.admit(operator.request(provider, "a", attempt=1, epoch=7))).refused
        assert older.reason == pb.REFUSAL_REASON_STALE_ATTEMPT
        ref = pb.SessionRef(namespace="default", name="call-a", session_uid="a", attempt=1)
        for fence in (operator.fence(6), pb.Fence(leader_epoch=9, worker_instance_id="other")):
            failed = grpc.StatusCode.FAILED_PRECONDITION
            assert (
                await code(operator.stub.Terminate(pb.TerminateRequest(session=ref, fence=fence))) is failed
            )
            assert await code(operator.stub.Drain(pb.DrainRequest(fence=fence))) is failed
            watch = operator.stub.Watch(pb.WatchRequest(fence=fence))
            assert await code(watch.read()) is failed
        late = pb.TerminateRequest(session=ref, fence=operator.fence(7))
        assert await code(operator.stub.Terminate(late)) is grpc.StatusCode.FAILED_PRECONDITION
        assert worker.registry.admission.sessions == 1


async def test_a_watch_begins_with_everything_and_tells_every_change(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        await operator.admit(operator.request(provider, "a"))
        stream = operator.stub.Watch(pb.WatchRequest(fence=pb.Fence(leader_epoch=1)))
        first = await stream.read()
        assert first.sequence == 1
        assert first.snapshot.worker.state == pb.WORKER_STATE_READY
        (ready,) = first.snapshot.sessions
        assert ready.session.session_uid == "a"
        if ready.state != pb.SESSION_STATE_READY:
            change = await until(stream, lambda m: m.session.state == pb.SESSION_STATE_READY)
            ready = change.session
        assert ready.endpoint == worker.media_address
        assert ready.web_socket_id
        request = pb.TerminateRequest(session=ready.session, fence=operator.fence())
        assert (await operator.stub.Terminate(request)).found
        ended = await until(stream, lambda m: m.session.state == pb.SESSION_STATE_ENDED)
        assert ended.session.end_reason == "Terminated"
        idle_report = await until(stream, lambda m: m.HasField("worker") and m.worker.sessions == 0)
        assert idle_report.sequence > ended.sequence
        assert not (await operator.stub.Terminate(request)).found
        again = operator.stub.Watch(pb.WatchRequest(fence=operator.fence()))
        (remembered,) = (await again.read()).snapshot.sessions
        assert remembered.session.session_uid == "a"
        assert remembered.state == pb.SESSION_STATE_ENDED
        gone = (await operator.admit(operator.request(provider, "a"))).refused
        assert gone.reason == pb.REFUSAL_REASON_ENDED
        stream.cancel()
        again.cancel()


async def test_a_quiet_watch_has_heartbeats(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        stream = operator.stub.Watch(pb.WatchRequest(fence=pb.Fence(leader_epoch=1)))
        async with asyncio.timeout(10):
            messages = [await stream.read() for _ in range(4)]
        assert [m.sequence for m in messages] == [1, 2, 3, 4]
        assert all(m.HasField("worker") for m in messages[1:])
        stream.cancel()


async def test_a_newer_attempt_ends_the_older_one(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        stream = operator.stub.Watch(pb.WatchRequest(fence=pb.Fence(leader_epoch=1)))
        await operator.admit(operator.request(provider, "a"))
        assert (await operator.admit(operator.request(provider, "a", attempt=2))).HasField("admitted")
        told: list[pb.WatchResponse] = []

        def ready(message: pb.WatchResponse) -> bool:
            told.append(message)
            report = message.session
            return report.state == pb.SESSION_STATE_READY and report.session.attempt == 2

        await until(stream, ready)
        assert not any(m.session.end_reason for m in told), "it goes on: that is no end"
        assert worker.registry.admission.sessions == 1
        stream.cancel()


async def test_drain_refuses_newcomers_and_a_later_deadline_wins(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        await operator.admit(operator.request(provider, "a"))
        short = pb.DrainRequest(fence=operator.fence())
        short.timeout.FromMilliseconds(30_000)
        first = await operator.stub.Drain(short)
        assert first.sessions == 1
        long = pb.DrainRequest(fence=operator.fence())
        long.timeout.FromMilliseconds(60_000)
        second = await operator.stub.Drain(long)
        third = await operator.stub.Drain(short)
        assert second.deadline_time.seconds - first.deadline_time.seconds in (29, 30, 31)
        assert abs(third.deadline_time.seconds - second.deadline_time.seconds) <= 1
        refused = (await operator.admit(operator.request(provider, "b"))).refused
        assert refused.reason == pb.REFUSAL_REASON_DRAINING
        assert (await operator.admit(operator.request(provider, "a"))).HasField("admitted")


async def test_sessions_left_at_the_drain_deadline_are_ended(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        await operator.admit(operator.request(provider, "a"))
        stream = operator.stub.Watch(pb.WatchRequest(fence=operator.fence()))
        request = pb.DrainRequest(fence=operator.fence())
        request.timeout.FromMilliseconds(200)
        await operator.stub.Drain(request)
        ended = await until(stream, lambda m: m.session.state == pb.SESSION_STATE_ENDED)
        assert ended.session.end_reason == "DrainDeadline"
        stream.cancel()


@pytest.mark.parametrize("body", ["", "[]", "{}"])
async def test_a_command_that_is_none_is_refused(provider: str, body: str) -> None:
    async with app() as worker, client(worker) as operator:
        request = operator.request(provider, "a")
        await operator.admit(request)
        command = pb.CommandRequest(session=request.session, fence=operator.fence(), client_event_json=body)
        assert await code(operator.stub.Command(command)) is grpc.StatusCode.INVALID_ARGUMENT
        nothing = pb.CommandRequest(session=request.session, fence=operator.fence())
        assert await code(operator.stub.Command(nothing)) is grpc.StatusCode.INVALID_ARGUMENT
        unknown = pb.CommandRequest(session=request.session, fence=operator.fence(), clear=True)
        unknown.session.session_uid = "nobody"
        assert not (await operator.stub.Command(unknown)).found


class TestMutualTls:
    """Only the operator's certificate opens the control service."""

    @pytest.fixture
    def authority(self) -> TestAuthority:
        return TestAuthority()

    @pytest.fixture
    def folder(self, authority: TestAuthority, tmp_path: Path) -> Path:
        return authority.issue("w1").write(tmp_path / "tls")

    @staticmethod
    def credentials(certificate: Certificate | None, ca: bytes) -> grpc.ChannelCredentials:
        if certificate is None:
            return grpc.ssl_channel_credentials(ca)
        return grpc.ssl_channel_credentials(ca, certificate.key, certificate.certificate)

    @staticmethod
    async def drain(operator: Control) -> Any:
        return await operator.stub.Terminate(
            pb.TerminateRequest(
                session=pb.SessionRef(namespace="d", name="n", session_uid="u", attempt=1),
                fence=operator.fence(),
            ),
            timeout=5,
        )

    async def test_the_operator_may_call(self, authority: TestAuthority, folder: Path) -> None:
        for certificate in (
            authority.issue("parley-operator", hosts=()),
            authority.issue("x", hosts=("parley-operator",)),
        ):
            async with app(control_tls_dir=folder) as worker:
                credentials = self.credentials(certificate, authority.pem)
                async with control(worker.control_address, worker.instance, credentials) as operator:
                    assert not (await self.drain(operator)).found
                    stream = operator.stub.Watch(pb.WatchRequest(fence=operator.fence()))
                    assert (await stream.read()).HasField("snapshot")
                    stream.cancel()

    async def test_everyone_else_may_not(self, authority: TestAuthority, folder: Path) -> None:
        foreign = TestAuthority("another-ca").issue("parley-operator", hosts=())
        async with app(control_tls_dir=folder) as worker:
            for certificate, expected in (
                (None, grpc.StatusCode.UNAVAILABLE),
                (foreign, grpc.StatusCode.UNAVAILABLE),
                (authority.issue("someone"), grpc.StatusCode.PERMISSION_DENIED),
                (authority.issue("parley-operator.evil"), grpc.StatusCode.PERMISSION_DENIED),
            ):
                credentials = self.credentials(certificate, authority.pem)
                async with control(worker.control_address, worker.instance, credentials) as operator:
                    assert await code(self.drain(operator)) is expected
                    watch = operator.stub.Watch(pb.WatchRequest(fence=operator.fence()), timeout=5)
                    assert await code(watch.read()) is expected
            async with control(worker.control_address, worker.instance) as plain:
                assert await code(self.drain(plain)) is grpc.StatusCode.UNAVAILABLE

    async def test_certificates_are_replaced_without_a_restart(
        self, authority: TestAuthority, folder: Path
    ) -> None:
        async with app(control_tls_dir=folder) as worker:
            renewed = TestAuthority("next-ca")
            renewed.issue("w1").write(folder)
            credentials = self.credentials(renewed.issue("parley-operator", hosts=()), renewed.pem)
            async with control(worker.control_address, worker.instance, credentials) as operator:
                assert not (await self.drain(operator)).found
            (folder / "tls.key").write_bytes(authority.issue("other").key)
            async with control(worker.control_address, worker.instance, credentials) as operator:
                assert not (await self.drain(operator)).found

    async def test_files_that_do_not_fit_together_are_an_error_at_start(
        self, authority: TestAuthority, folder: Path
    ) -> None:
        (folder / "tls.key").write_bytes(authority.issue("other").key)
        worker = app(control_tls_dir=folder)
        with pytest.raises((OSError, ValueError), match=r"tls\.key"):
            await worker.__aenter__()


async def test_both_servers_have_health_and_reflection(provider: str) -> None:
    async with app() as worker, client(worker) as operator:
        for address, service in (
            (worker.control_address, "parley.control.v1.WorkerControlService"),
            (worker.media_address, "parley.media.v1.MediaService"),
        ):
            async with grpc.aio.insecure_channel(address) as channel:
                health: Any = health_pb2_grpc.HealthStub(channel)
                for name in ("", service):
                    answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
                stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
                request = reflection_pb2.ServerReflectionRequest(list_services="")
                listed = await stub.ServerReflectionInfo(iter([request])).read()
                assert service in [s.name for s in listed.list_services_response.service]
        await operator.stub.Drain(pb.DrainRequest(fence=operator.fence()))
        async with grpc.aio.insecure_channel(worker.media_address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            async with asyncio.timeout(5):
                while True:
                    answer = await health.Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
                    if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                        break
                    await asyncio.sleep(0.05)
