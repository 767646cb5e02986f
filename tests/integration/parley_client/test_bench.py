"""The bench drives real workers: tiny points, a storm past the places, a worker that others started."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from parley_client.bench import density, plot, results, runner, storm
from parley_client.bench.loadgen import find_loadgen
from parley_client.bench.rows import Row
from parley_client.bench.systems import Variant
from parley_client.bench.workers import COMPILED
from parley_client.errors import MissingProgram
from worker_process import Control, control, worker_process

pytestmark = pytest.mark.timeout(150)
ROOT = Path(__file__).resolve().parents[3]
TINY = """
workload: {cycle_s: 1.5, answer_s: 1.0}
windows: {seconds: 2, wanted: 1, bound: 1, settle_s: 2, steal: 9, others: 9, lag_ms: 10000}
pinning: {worker: [], others: []}
knee: {points: 1, starved_share: 1.0}
density: {common: {parley: 2}}
worker_env: {PARLEY_WORKER_SHARDS: 1}
slo: {added_p99_ms: 10000, underruns: 100000, drops: 100000}
storm: {rounds: 2, rounds_bound: 2, share: 0.5, arrivals: 2, window_s: 2, overload: 1.5}
"""


@pytest.fixture
def options(tmp_path: Path) -> runner.Options:
    try:
        program = find_loadgen(ROOT / "build" / "bin" / "parley-loadgen")
    except MissingProgram as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    scenario = tmp_path / "tiny.yaml"
    scenario.write_text(TINY)
    return runner.Options(scenario=scenario, out=tmp_path / "out", loadgen=program)


@pytest.fixture
def said() -> list[str]:
    """What a run notes, for the message of a failure."""
    return []


def heard(row: Row) -> None:
    """Audio went both ways and nothing was lost; how fast is another matter on a machine that runs tests."""
    point = row["points"][0]
    assert point["added_ms"]["up"]["count"] > 50
    assert point["added_ms"]["down"]["count"] > 50
    assert point["first_ms"]["count"] > 0
    assert point["failed_calls"] == 0


async def test_a_tiny_point_of_our_own_worker(
    options: runner.Options, said: list[str], tmp_path: Path
) -> None:
    with runner.opened("density", options, said.append) as bench:
        wanted = [Variant("parley", "converse", True), Variant("parley", "twilio", False)]
        found, missing = await density.run(bench.system, wanted, bench.scenario, "here", said.append)
        path = bench.finish(rows=found, ratios=[], missing=missing)
    assert missing == []
    for row in found:
        heard(row)
        assert row["sessions_per_core"] > 0, said
        assert 0 < row["cpu_s_per_session_s"] < 1
        assert row["versions"]["parley"]
    kept = results.read(path)
    assert [row["label"] for row in kept["rows"]] == ["parley converse tls", "parley twilio plain"]
    assert kept["scenario"]["workload"]["cycle_s"] == 1.5
    drawn = plot.plot(kept, tmp_path)
    assert [file.name for file in drawn] == ["density.png", "density.svg"]
    assert drawn[0].read_bytes().startswith(b"\x89PNG")


async def test_a_worker_that_should_be_compiled_and_is_not(
    options: runner.Options, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPILED, str(tmp_path))
    with runner.opened("density", options, said.append) as bench:
        found, missing = await density.run(
            bench.system, [Variant("parley", "converse", False)], bench.scenario, "here", said.append
        )
    assert found == []
    assert f"{COMPILED}={tmp_path}: the worker runs nothing compiled" in missing[0]


async def test_a_worker_that_runs_already(options: runner.Options, said: list[str]) -> None:
    async with worker_process(capacity="4") as worker:
        given = runner.Given(control=worker.ready["control"], admin=worker.ready["admin"])
        options = dataclasses.replace(options, given=given)
        with runner.opened("density", options, said.append) as bench:
            found, missing = await density.run(
                bench.system, [Variant("parley", "converse", False)], bench.scenario, "here", said.append
            )
    assert missing == []
    heard(found[0])
    assert found[0]["cpu_s_per_session_s"] > 0
    assert found[0]["mib_per_session"] is None


async def test_a_storm_is_refused_past_the_places(options: runner.Options, said: list[str]) -> None:
    with runner.opened("storm", options, said.append) as bench:
        parts = await storm.run(bench.system, Variant("parley", "converse", False), 4, "here", said.append)
    assert parts["storm"]["refused"] == {"FULL": 4}
    assert parts["storm"]["verdicts"]["refused cleanly"] == "pass"
    assert parts["storm"]["verdicts"]["calls lost"] == "pass"
    assert [row["sessions"] for row in parts["rows"]] == [2, 4, 4, 4, 4, 4]
    assert {row["rounds"] for row in parts["rows"]} == {2}


class Cluster:
    """An API server on loopback whose VoiceSessions are placed on one real worker as they are made."""

    def __init__(self, operator: Control, folder: Path) -> None:
        self._operator, self._folder = operator, folder
        self.sessions: dict[str, dict[str, Any]] = {}
        self.made = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Path]:
        """The kubeconfig that leads to it."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner_ = web.AppRunner(application)
        await runner_.setup()
        site = web.TCPSite(runner_, "127.0.0.1", 0)
        await site.start()
        port = runner_.addresses[0][1]
        kubeconfig = self._folder / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "phones"}}
        users = [{"name": "u", "user": {}}]
        config = {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": users}
        kubeconfig.write_text(json.dumps(config))
        try:
            yield kubeconfig
        finally:
            await runner_.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        name = request.path.rsplit("/", 1)[1]
        match request.method:
            case "POST":
                return web.json_response(await self.place(await request.json()))
            case "DELETE":
                return web.json_response(self.sessions.pop(name))
        if name.endswith("-ticket"):
            data = {"ticket": base64.b64encode(name.encode()).decode()}
            return web.json_response({"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": data})
        return web.json_response(self.sessions[name])

    async def place(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        request = self._operator.request(
            body["spec"]["provider"]["url"],
            name,
            ticket_sha256=hashlib.sha256(f"{name}-ticket".encode()).digest(),
        )
        request.config.session_json = json.dumps({"type": "realtime", **body["spec"]["session"]})
        admitted = (await self._operator.admit(request)).admitted
        body["metadata"] |= {"namespace": "phones", "uid": name}
        body["status"] = {"phase": "Ready", "worker": {"name": "w", "endpoint": admitted.endpoint}}
        self.sessions[name] = body
        self.made += 1
        return body


async def test_a_cluster_whose_sessions_are_objects(
    options: runner.Options, said: list[str], tmp_path: Path, unused_tcp_port: int
) -> None:
    session = tmp_path / "session.yaml"
    metadata = {"name": "call", "namespace": "phones"}
    spec = {"agentRef": {"name": "a"}}
    body = {"apiVersion": "parley.dev/v1alpha1", "kind": "VoiceSession", "metadata": metadata, "spec": spec}
    session.write_text(json.dumps(body))
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(worker_process(capacity="4"))
        operator = await stack.enter_async_context(control(worker.ready["control"], worker.instance))
        cluster = Cluster(operator, tmp_path)
        given = runner.Given(
            session=session,
            kubeconfig=await stack.enter_async_context(cluster.serve()),
            provider_listen=f"127.0.0.1:{unused_tcp_port}",
            provider_url=f"ws://127.0.0.1:{unused_tcp_port}/v1/realtime",
        )
        options = dataclasses.replace(options, given=given)
        with runner.opened("density", options, said.append) as bench:
            found, missing = await density.run(
                bench.system, [Variant("parley", "converse", False)], bench.scenario, "here", said.append
            )
    assert missing == []
    heard(found[0])
    assert cluster.made == 2
    assert cluster.sessions == {}
