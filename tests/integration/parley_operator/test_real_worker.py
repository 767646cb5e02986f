"""The control plane and the worker's own process, without anything between them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from parley_operator.embedded import EmbeddedControlPlane, WorkerTarget
from provider_script import Socket, scripted
from shards import idle, kill, sharded

Process = asyncio.subprocess.Process
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def worker() -> AsyncIterator[tuple[Process, str]]:
    anywhere = {f"PARLEY_WORKER_{name}_ADDRESS": "127.0.0.1:0" for name in ("MEDIA", "CONTROL", "ADMIN")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "parley_worker",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **anywhere, "PARLEY_WORKER_NAME": "real"},
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        line = json.loads(await process.stdout.readline())
    yield process, line.get("control") or line["control_address"]
    if process.returncode is None:
        process.kill()
    await process.wait()


def session(name: str, url: str) -> dict[str, Any]:
    provider = {"type": "custom", "url": url, "model": "m"}
    return {
        "apiVersion": "parley.dev/v1alpha1",
        "kind": "VoiceSession",
        "metadata": {"name": name},
        "spec": {"agent": {"provider": provider}},
    }


async def test_a_provider_that_is_not_there(worker: tuple[Process, str]) -> None:
    async with EmbeddedControlPlane(workers=[WorkerTarget("real", worker[1])]) as plane:
        await plane.apply([session("call", "ws://127.0.0.1:9/v1/realtime")])
        body: Any = await plane.wait_phase("call", {"Failed"}, timeout=55)
        assert body["status"]["endReason"] == "ProviderUnavailable"
        assert body["status"]["worker"]["name"] == "real"


async def test_a_killed_worker_loses_its_session(worker: tuple[Process, str]) -> None:
    process, address = worker

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        targets = [WorkerTarget("real", address)]
        async with EmbeddedControlPlane(workers=targets, worker_lost_after=2.0) as plane:
            await plane.apply([session("call", url)])
            async with asyncio.timeout(30):
                async for change in plane.watch("VoiceSession"):
                    if "worker" in str(change.body.get("status", "")):
                        break
            process.kill()
            body: Any = await plane.wait_phase("call", {"Failed"}, timeout=30)
            assert body["status"]["endReason"] == "WorkerLost"
    finally:
        server.close()
        await server.wait_closed()


async def test_a_killed_shard_loses_its_session_and_nobody_elses() -> None:
    async with scripted(idle) as script, sharded(2) as worker:
        control = str(worker.worker.ready["control"])
        first = worker.worker.ready["endpoint"]
        target = WorkerTarget("real", control, media_endpoint=first)
        async with EmbeddedControlPlane(workers=[target]) as plane:
            for name in ("a", "b"):
                await plane.apply([session(name, script.url)])
                await plane.wait_phase(name, {"Ready"}, timeout=30)
            bodies: list[Any] = [await plane.wait_phase(name, {"Ready"}, timeout=5) for name in ("a", "b")]
            workers = [body["status"]["worker"] for body in bodies]
            assert [found["shard"] for found in workers] == [0, 1]
            listed = [shard["endpoint"] for shard in worker.worker.ready["shards"]]
            assert [found["endpoint"] for found in workers] == listed
            ticket = plane.ticket("b")
            assert ticket is not None
            assert ticket.endpoint == listed[1]
            kill(worker.pids[1])
            lost: Any = await plane.wait_phase("b", {"Failed"}, timeout=10)
            assert lost["status"]["endReason"] == "ShardLost"
            kept: Any = await plane.wait_phase("a", {"Ready"}, timeout=5)
            assert kept["status"]["worker"]["shard"] == 0
            await worker.came_back()
            await plane.apply([session("c", script.url)])
            placed: Any = await plane.wait_phase("c", {"Ready"}, timeout=30)
            assert placed["status"]["worker"]["shard"] == 1


async def test_a_live_session_is_given_other_instructions_and_tools(worker: tuple[Process, str]) -> None:
    async def provider(socket: Socket) -> None:
        await socket.greet()
        update = await socket.expect("session.update", 2)
        await socket.send("session.updated", session=update["session"])
        await socket.send("response.created", response={"id": "r", "status": "in_progress", "output": []})
        ids = {"response_id": "r", "output_index": 0}
        call = {"id": "i", "type": "function_call", "status": "completed", "call_id": "c", "name": "lamp"}
        await socket.send("response.output_item.done", **ids, item={**call, "arguments": "{}"})
        refused = await socket.expect("session.update", 3)
        words = {"type": "invalid_request_error", "message": "no such choice"}
        await socket.send("error", error={**words, "event_id": refused["event_id"]})
        await asyncio.Event().wait()

    targets = [WorkerTarget("real", worker[1])]
    async with scripted(provider) as script, EmbeddedControlPlane(workers=targets) as plane:
        body = session("call", script.url)
        body["spec"]["agent"]["instructions"] = "x"
        await plane.apply([body])
        await plane.wait_phase("call", {"Ready"}, timeout=30)
        route = {"webhook": {"url": "http://127.0.0.1:9/lamp"}, "timeout": "1s"}
        await plane.apply([pool_with_tools("127.0.0.1:9")])
        body["spec"]["agent"]["instructions"] = "y"
        body["spec"]["agent"]["tools"] = [{"type": "function", "name": "lamp", "route": route}]
        await plane.apply([body])
        assert (await updated(plane, "True"))["observedGeneration"] == 2
        socket = await script.socket()
        second = (await socket.expect("session.update", 2))["session"]
        assert second["instructions"] == "y"
        assert [tool["name"] for tool in second["tools"]] == ["lamp"]
        # The new route is the one that is called: nobody answers there, and the model hears of it.
        output = await socket.expect("conversation.item.create")
        assert "unavailable" in output["item"]["output"]
        body["spec"]["session"] = {"tool_choice": "nonsense"}
        await plane.apply([body])
        refused = await updated(plane, "False")
        assert (refused["reason"], refused["observedGeneration"]) == ("Refused", 3)
        assert "no such choice" in refused["message"]
        await plane.wait_phase("call", {"Ready"}, timeout=5)


def pool_with_tools(host: str) -> dict[str, Any]:
    providers = {"allowedHosts": ["127.0.0.1"]}
    return {
        "apiVersion": "parley.dev/v1alpha1",
        "kind": "VoiceWorkerPool",
        "metadata": {"name": "default"},
        "spec": {"allowedNamespaces": ["*"], "provider": providers, "tools": {"allowedHosts": [host]}},
    }


async def updated(plane: EmbeddedControlPlane, status: str) -> Any:
    async with asyncio.timeout(30):
        async for change in plane.watch("VoiceSession"):
            found: Any = change.body.get("status", {})
            for condition in found.get("conditions", []):
                if (condition["type"], condition["status"]) == ("Updated", status):
                    return condition
    raise AssertionError("unreachable")
