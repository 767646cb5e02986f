"""Finding sessions by the API server: a small one on loopback that holds what a test puts in."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from media_server_double import DoubleLeg, make_certificate, media_server
from parley_client import (
    ConnectError,
    SessionNotFound,
    SessionNotReady,
    UsageError,
    connect,
    resolve_cluster,
)
from parley_client.portforward import port_forward
from parley_client.resolve import list_sessions, pod_namespace

SESSIONS = "/apis/parley.dev/v1alpha1/namespaces/phones/voicesessions"


class ApiServer:
    """Answers GETs from `objects` by path; anything else is a 404 in the API server's words."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.kubeconfig = Path()
        self.status = 404

    async def answer(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if found is None:
            status = {"kind": "Status", "status": "Failure", "message": "not found", "code": self.status}
            return web.json_response(status, status=self.status)
        return web.json_response(found)

    def put_session(self, phase: str, endpoint: str = "", **status: object) -> dict[str, Any]:
        body = {
            "apiVersion": "parley.dev/v1alpha1",
            "kind": "VoiceSession",
            "metadata": {"name": "one", "namespace": "phones", "uid": "uid-1"},
            "status": {"phase": phase, "worker": {"name": "worker-0", "endpoint": endpoint}, **status},
        }
        self.objects[f"{SESSIONS}/one"] = body
        return body

    def put_secret(self, **values: str) -> None:
        data = {key.replace("_", "."): base64.b64encode(v.encode()).decode() for key, v in values.items()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "one-ticket"}, "data": data}
        self.objects["/api/v1/namespaces/phones/secrets/one-ticket"] = secret


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiServer]:
    server = ApiServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "phones"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
    }
    server.kubeconfig = tmp_path / "kubeconfig"
    server.kubeconfig.write_text(json.dumps(config))
    yield server
    await runner.cleanup()


async def test_a_session_is_called_by_its_secret(api: ApiServer) -> None:
    async def script(leg: DoubleLeg) -> None:
        assert leg.start.ticket == "the-ticket"
        await leg.started()
        await leg.until_hangup()

    certificate = make_certificate("worker-0.pool")
    async with media_server(script, credentials=certificate.credentials) as server:
        api.put_session("Ready", "elsewhere:1")
        api.put_secret(
            ticket="the-ticket",
            endpoint=server.address,
            tlsServerName="worker-0.pool",
            ca_crt=certificate.certificate_pem,
        )
        target = await resolve_cluster("one", kubeconfig=api.kubeconfig)
        assert (target.session_uid, target.worker, target.tls) == ("uid-1", "worker-0", True)
        assert "the-ticket" not in repr(target)
        async with connect(target):
            pass


async def test_a_pending_session_is_waited_for(api: ApiServer) -> None:
    ready = api.put_session("Ready", "127.0.0.1:9")
    pending = {**ready, "status": {"phase": "Pending"}}
    api.objects[f"{SESSIONS}/one"] = [pending, ready]  # type: ignore[assignment]
    api.put_secret(ticket="t", endpoint="127.0.0.1:9")
    phases: list[str] = []
    target = await resolve_cluster("one", kubeconfig=api.kubeconfig, wait=5, on_phase=phases.append)
    assert phases == ["Pending", "Ready"]
    assert target.address == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("phase", "status", "words"),
    [
        ("Failed", {"endReason": "ProviderAuthFailed"}, "is over: Failed, ProviderAuthFailed"),
        (
            "Pending",
            {"conditions": [{"status": "False", "message": "no worker has room"}]},
            "phase Pending.*: no worker has room",
        ),
        ("", {}, "not set yet"),
    ],
)
async def test_a_session_that_is_not_ready_says_why(
    api: ApiServer, phase: str, status: dict[str, Any], words: str
) -> None:
    api.put_session(phase, **status)
    with pytest.raises(SessionNotReady, match=words) as caught:
        await resolve_cluster("one", kubeconfig=api.kubeconfig)
    assert caught.value.phase == phase


async def test_what_is_missing_is_named(api: ApiServer, tmp_path: Path) -> None:
    with pytest.raises(SessionNotFound, match="VoiceSession one"):
        await resolve_cluster("one", kubeconfig=api.kubeconfig)
    api.put_session("Ready", "127.0.0.1:9")
    with pytest.raises(SessionNotFound, match="Secret one-ticket"):
        await resolve_cluster("one", kubeconfig=api.kubeconfig)
    api.put_secret(endpoint="127.0.0.1:9")
    with pytest.raises(SessionNotFound, match="no key `ticket`"):
        await resolve_cluster("one", kubeconfig=api.kubeconfig)
    with pytest.raises(UsageError, match="kubeconfig"):
        await resolve_cluster("one", kubeconfig=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no-such-context"):
        await resolve_cluster("one", kubeconfig=api.kubeconfig, context="no-such-context")


async def test_an_api_server_that_refuses_or_is_gone(api: ApiServer) -> None:
    api.status = 403
    with pytest.raises(ConnectError, match="refused"):
        await resolve_cluster("one", kubeconfig=api.kubeconfig)
    config = json.loads(api.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    api.kubeconfig.write_text(json.dumps(config))
    with pytest.raises(ConnectError, match="cannot be reached"):
        await resolve_cluster("one", kubeconfig=api.kubeconfig)


async def test_sessions_are_listed_oldest_first(api: ApiServer) -> None:
    items = []
    for name, created in (("b", "2026-11-23T02:00:00Z"), ("a", "2026-11-23T01:00:00Z")):
        items.append({"metadata": {"name": name, "namespace": "phones", "creationTimestamp": created}})
    api.objects[SESSIONS] = {"kind": "VoiceSessionList", "metadata": {}, "items": items}
    assert [s.name for s in await list_sessions(kubeconfig=api.kubeconfig)] == ["a", "b"]


async def test_the_namespace_of_a_workers_pod(api: ApiServer) -> None:
    pods = [{"metadata": {"name": "worker-0", "namespace": "pool"}}]
    api.objects["/api/v1/pods"] = {"kind": "PodList", "metadata": {}, "items": pods}
    assert await pod_namespace("worker-0", "phones", kubeconfig=api.kubeconfig) == "pool"
    pods.append({"metadata": {"name": "worker-0", "namespace": "other"}})
    with pytest.raises(SessionNotFound, match="2 pods"):
        await pod_namespace("worker-0", "phones", kubeconfig=api.kubeconfig)


async def test_a_port_forward_lives_as_long_as_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubectl = tmp_path / "kubectl"
    log = tmp_path / "log"
    script = (
        f"#!{sys.executable}\nimport sys, os, time\n"
        f"open({str(log)!r}, 'w').write(str(os.getpid()) + ' ' + ' '.join(sys.argv[1:]))\n"
        "if 'pod/gone' in sys.argv:\n    sys.exit('error: pods \"gone\" not found')\n"
        "print('Forwarding from 127.0.0.1:45678 -> 7070', flush=True)\ntime.sleep(60)\n"
    )
    kubectl.write_text(script)
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with port_forward("pod/worker-0", 7070, namespace="pool") as address:
        assert address == "127.0.0.1:45678"
        pid, *words = log.read_text().split()
        assert words[-2:] == ["pod/worker-0", ":7070"]
        os.kill(int(pid), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    with pytest.raises(ConnectError, match="not found"):
        async with port_forward("pod/gone", 7070, namespace="pool"):
            pytest.fail("forwarded")
