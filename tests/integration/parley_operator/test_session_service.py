"""The session service of a whole operator on a real API server: tokens of service accounts, RBAC, the SDK."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import yaml
from apiserver import ApiServer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from operator_ground import SECRET, SESSION, SPEC, Ground, ground, until
from parley.control.v1 import control_pb2
from parley_client import (
    ConnectError,
    InvalidRequest,
    KubernetesResolver,
    ServiceError,
    SessionNotFound,
    SessionNotReady,
    SessionsClient,
    TlsError,
)
from parley_operator.api.v1alpha1 import text_at
from parley_operator.app import Operator
from parley_operator.config import load_settings
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore

pytestmark = pytest.mark.timeout(240)
ALL = ("create", "get", "list", "watch", "delete")
NAME = "parley-sessions.test.svc"


@dataclass
class Service:
    """An operator with a pool of one worker with 4 places, and how to speak to its session service."""

    ground: Ground
    operator: Operator
    ca: str
    token: str

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.operator.sessions_port}"

    @property
    def space(self) -> str:
        return self.ground.namespace

    def client(self, token: str | None = None, **options: Any) -> SessionsClient:
        given = {"ca_pem": self.ca, "tls_server_name": NAME, "timeout": 5.0, **options}
        return SessionsClient(self.address, token=self.token if token is None else token, **given)


@pytest.fixture
async def service(apiserver: ApiServer) -> AsyncIterator[Service]:
    login = from_kubeconfig(apiserver.kubeconfig)
    async with KubeStore(login) as store, ground(store) as made:
        values = {
            "NAMESPACE": made.namespace,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "SESSIONS_ADDRESS": "127.0.0.1:0",
            "SESSIONS_NAMES": f"{NAME},parley-sessions",
            "SESSIONS_CONFIG_MAP": "parley-sessions",
        }
        operator = Operator(load_settings({f"PARLEY_OPERATOR_{k}": v for k, v in values.items()}), login)
        running = asyncio.create_task(operator.run())
        try:
            async with asyncio.timeout(60):
                await operator.ready.wait()
            await made.pool(sessionsPerWorker=4)
            await made.run_workers(1, capacity=4)

            async def published() -> Any:
                return await store.get("ConfigMap", made.namespace, "parley-sessions")

            told: Any = await until(published, "clients are told where the service is")
            assert told["data"]["tlsServerName"] == NAME
            yield Service(made, operator, told["data"]["ca.crt"], await made.token("app", *ALL))
        finally:
            operator.stop()
            await asyncio.wait_for(running, 60)


async def test_a_session_from_its_making_to_its_end(service: Service) -> None:
    store, space = service.ground.store, service.space
    async with service.client() as sessions:
        made = await sessions.create(space, SPEC, labels={"team": "phones"}, request_id="one", ready=True)
        assert (made.session.phase, made.session.attempt) == ("Ready", 1)
        assert made.endpoint is not None
        assert made.endpoint.address == "127.0.0.1:7000"

        async def written() -> Any:
            body = await store.get(SESSION, space, made.session.name)
            return body if body and text_at(body, "status", "phase") == "Ready" else None

        body: Any = await until(written, "the status is written")
        assert body["metadata"]["labels"]["team"] == "phones"
        assert body["metadata"]["annotations"]["parley.dev/created-by"].endswith(f":{space}:app")
        assert body["spec"]["agent"]["provider"].items() >= SPEC["agent"]["provider"].items()
        assert body["status"]["ticketHash"] == hashlib.sha256(made.ticket.encode()).hexdigest()
        assert made.target().ticket == made.ticket

        again = await sessions.create(space, SPEC, labels={"team": "phones"}, request_id="one")
        assert again.repeated
        assert (again.session.uid, again.ticket, again.endpoint) == (
            made.session.uid,
            made.ticket,
            made.endpoint,
        )
        with pytest.raises(ServiceError) as caught:
            await sessions.create(space, SPEC, request_id="one")
        assert (caught.value.status, caught.value.field) == ("ALREADY_EXISTS", "request_id")

        seen = await sessions.get(space, made.session.name)
        assert (seen.uid, seen.phase, seen.endpoint) == (made.session.uid, "Ready", "127.0.0.1:7000")
        assert [each.uid async for each in sessions.list(space, page_size=1)] == [seen.uid]
        assert not await sessions.end(space, made.session.name, "another-uid")
        assert await sessions.end(space, made.session.name, seen.uid)
        assert not await sessions.end(space, made.session.name)
        [worker] = service.ground.workers.values()

        async def told() -> bool:
            return bool(worker.terminates)

        await until(told, "the worker is told")
        with pytest.raises(SessionNotFound):
            await sessions.get(space, made.session.name)


async def test_a_full_pool_queues_and_a_free_place_is_given(service: Service) -> None:
    async with service.client() as sessions:
        four = [await sessions.create(service.space, SPEC) for _ in range(4)]
        waits = await sessions.create(service.space, SPEC, request_id="fifth", wait=1.5)
        assert waits.endpoint is None
        assert (waits.session.phase, waits.session.position, waits.ticket) == ("Pending", 1, "")
        with pytest.raises(SessionNotReady, match="number 1 in the queue"):
            waits.target()
        longer = asyncio.create_task(sessions.create(service.space, SPEC, request_id="fifth", wait=20.0))
        await asyncio.sleep(0.3)
        await sessions.end(service.space, four[0].session.name)
        got = await longer
        assert got.repeated
        assert got.session.uid == waits.session.uid
        assert got.endpoint is not None
        assert got.ticket


async def test_bad_specs_come_back_in_the_api_servers_words(service: Service) -> None:
    async with service.client() as sessions:
        both = {**SPEC, "agentRef": {"name": "a"}}
        for spec, word, field in (
            (both, "exactly one of agentRef and agent must be set", "spec"),
            ({**SPEC, "audio": {"providerFormat": "mp3"}}, "mp3", "spec.audio.providerFormat"),
            (
                {**SPEC, "privacy": True, "trace": True},
                "trace cannot be given together with privacy",
                "spec.trace",
            ),
        ):
            with pytest.raises(InvalidRequest) as caught:
                await sessions.create(service.space, spec)
            assert word in str(caught.value)
            assert caught.value.field == field
        # Rights come first: nobody learns which namespaces there are.
        with pytest.raises(ServiceError) as refused:
            await sessions.create("no-such-namespace", SPEC)
        assert refused.value.status == "PERMISSION_DENIED"


async def test_rbac_decides_verb_by_verb(service: Service) -> None:
    space = service.space
    reader = await service.ground.token("reader", "get", "list")
    stranger = await service.ground.token("stranger")
    async with service.client() as sessions:
        made = await sessions.create(space, SPEC)
    async with service.client(reader) as sessions:
        assert (await sessions.get(space, made.session.name)).uid == made.session.uid
        assert len([each async for each in sessions.list(space)]) == 1
        with pytest.raises(ServiceError, match="may not create voicesessions") as caught:
            await sessions.create(space, SPEC)
        assert (caught.value.status, caught.value.reason) == ("PERMISSION_DENIED", "forbidden")
        with pytest.raises(ServiceError, match="may not delete"):
            await sessions.end(space, made.session.name)
        with pytest.raises(ServiceError, match="in all namespaces"):
            _ = [each async for each in sessions.list()]
        with pytest.raises(ServiceError, match="may not watch"):
            _ = [each async for each in sessions.watch(space)]
    async with service.client(stranger) as sessions:
        with pytest.raises(ServiceError, match="may not get"):
            await sessions.get(space, made.session.name)
    for token, reason in (("", "token-missing"), ("guess", "token-refused")):
        async with service.client(token) as sessions:
            with pytest.raises(ServiceError) as caught:
                await sessions.get(space, made.session.name)
            assert (caught.value.status, caught.value.reason) == ("UNAUTHENTICATED", reason)
            assert "guess" not in str(caught.value)
    elsewhere = await service.ground.token("app", audience="https://elsewhere")
    async with service.client(elsewhere) as sessions:
        with pytest.raises(ServiceError, match="audience"):
            await sessions.get(space, made.session.name)


async def test_another_callers_request_id_gives_another_session(service: Service) -> None:
    other = await service.ground.token("other", *ALL)
    async with service.client() as mine, service.client(other) as theirs:
        first = await mine.create(service.space, SPEC, request_id="same")
        second = await theirs.create(service.space, SPEC, request_id="same")
        assert first.session.uid != second.session.uid
        assert first.ticket != second.ticket
        with pytest.raises(ServiceError, match="exists and is not of this request"):
            await theirs.create(service.space, SPEC, name=first.session.name, request_id="same")


async def test_the_same_request_at_once_makes_one_session(service: Service) -> None:
    async with service.client() as sessions:
        made = await asyncio.gather(
            *(sessions.create(service.space, SPEC, request_id="storm") for _ in range(20))
        )
    assert len({each.session.uid for each in made}) == 1
    assert len({each.ticket for each in made}) == 1
    assert sum(not each.repeated for each in made) == 1


async def test_a_watch_tells_of_sessions_of_kubectl_too(service: Service) -> None:
    space, store = service.space, service.ground.store
    async with service.client() as sessions:
        first = await sessions.create(space, SPEC, ready=True)
        async with aclosing(sessions.watch(space)) as changes:  # type: ignore[type-var]
            assert [(await anext(changes)).session.uid] == [first.session.uid]  # type: ignore[union-attr]
            assert (await anext(changes)).session is None
            await service.ground.create(SESSION, "applied", SPEC)
            phases = []
            async for change in changes:
                assert change.session is not None
                if change.session.name == "applied":
                    phases.append(change.session.phase)
                    if change.session.phase == "Ready":
                        break
            assert phases[0] == "Pending"
            await store.delete(SESSION, space, "applied", "")
            async for change in changes:
                if change.gone:
                    assert change.session is not None
                    assert change.session.name == "applied"
                    break


async def test_resolve_by_ticket_needs_no_token(service: Service, apiserver: ApiServer) -> None:
    space = service.space
    async with service.client() as owner, service.client("") as sessions:
        made = await owner.create(space, SPEC, ready=True)
        uid = made.session.uid
        assert await sessions.resolve(uid, made.ticket) == made.endpoint
        assert await owner.resolve(uid, "") == made.endpoint
        by_kubernetes = KubernetesResolver(
            made.session.name, namespace=space, kubeconfig=apiserver.kubeconfig
        )
        assert await by_kubernetes.resolve(uid, made.ticket) == made.endpoint
        with pytest.raises(SessionNotFound):
            await by_kubernetes.resolve("another-uid", made.ticket)
        for wrong_uid, ticket in ((uid, "guess"), ("another-uid", made.ticket)):
            with pytest.raises(SessionNotFound):
                await sessions.resolve(wrong_uid, ticket)
        with pytest.raises(SessionNotReady, match="newer than attempt 1"):
            await sessions.resolve(uid, made.ticket, after_attempt=1, wait=0.2)
        [worker] = service.ground.workers.values()
        worker.report(uid, control_pb2.SESSION_STATE_ENDED, "CallerHangup")

        async def over() -> bool:
            return (await owner.get(space, made.session.name)).phase == "Completed"

        await until(over, "the end is written")
        with pytest.raises(SessionNotReady) as caught:
            await sessions.resolve(uid, made.ticket)
        assert caught.value.phase == "Completed"


async def test_tls_health_reflection_and_secrets_in_the_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    async with service.client() as sessions:
        made = await sessions.create(service.space, SPEC)
    secret: Any = await service.ground.store.get(SECRET, service.space, f"{made.session.name}-ticket")
    assert secret is not None
    for hidden in (made.ticket, service.token):
        assert hidden not in caplog.text
    wrong_name = service.client(tls_server_name="elsewhere.svc")
    async with wrong_name:
        with pytest.raises(TlsError):
            await wrong_name.get(service.space, "x")
    credentials = grpc.ssl_channel_credentials(service.ca.encode())
    options = [("grpc.ssl_target_name_override", NAME)]
    async with grpc.aio.secure_channel(service.address, credentials, options=options) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "parley.sessions.v1.SessionService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        asking = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        listed = [s.name async for r in asking for s in r.list_services_response.service]
        assert "parley.sessions.v1.SessionService" in listed
    text = service.operator.metrics.render().decode()
    assert 'parley_operator_session_calls_total{code="OK",method="CreateSession"} 1.0' in text


async def test_the_command_makes_watches_and_ends_a_session(service: Service, tmp_path: Path) -> None:
    file, ca, ticket = tmp_path / "session.yaml", tmp_path / "ca.crt", tmp_path / "ticket"
    file.write_text(yaml.safe_dump({"kind": "VoiceSession", "metadata": {"name": "by-hand"}, "spec": SPEC}))
    ca.write_text(service.ca)

    async def parley(*arguments: str) -> Any:
        where = ("--server", service.address, "--server-ca", str(ca), "--server-name", NAME)
        environ = {**os.environ, "PARLEY_TOKEN": service.token}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "parley_client", "sessions", *arguments, *where, "--json",
            "-n", service.space, stdout=PIPE, env=environ,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode, [json.loads(line) for line in out.splitlines()]

    create = ("create", "-f", str(file), "--request-id", "r", "--ticket-out", str(ticket))
    code, [made] = await parley(*create)
    assert (code, made["endpoint"], made["repeated"]) == (0, "127.0.0.1:7000", False)
    code, [again] = await parley(*create)
    assert (code, again["uid"], again["repeated"]) == (0, made["uid"], True)
    assert ticket.stat().st_mode & 0o777 == 0o600
    async with service.client("") as sessions:
        assert (await sessions.resolve(made["uid"], ticket.read_text())).address == "127.0.0.1:7000"
    assert (await parley("end", "by-hand"))[0] == 0
    assert (await parley("end", "by-hand"))[0] == 3


async def test_nobody_there_is_told_within_the_timeout() -> None:
    async with SessionsClient("127.0.0.1:1", token="t", timeout=0.5) as sessions:
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1"):
            await sessions.get("a", "b")
