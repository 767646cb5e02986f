"""A whole operator while the API server errs: watches cut, expired or silent, refusals, slowness, outages."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_proxy import EXPIRED, ApiProxy, Request, api_proxy
from apiserver import ApiServer
from control_worker import ControlWorker
from operator_ground import SESSION, SPEC, Ground, ground, until
from parley.control.v1 import control_pb2 as pb
from parley_operator.app import Operator
from parley_operator.config import load_settings
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore

pytestmark = pytest.mark.timeout(240)


@dataclass
class Scene:
    """An operator behind a proxy, with a worker and one call, which nothing is to touch."""

    ground: Ground
    proxy: ApiProxy
    operator: Operator
    worker: ControlWorker
    calm: Any = None

    async def call(self, name: str) -> Any:
        return await self.ground.create(SESSION, name, SPEC)

    async def get(self, name: str) -> Any:
        return await self.ground.store.get(SESSION, self.ground.namespace, name)

    async def phase(self, name: str, phase: str, timeout: float = 60) -> Any:
        async def reached() -> Any:
            body = await self.get(name)
            return body if body and body.get("status", {}).get("phase") == phase else None

        return await until(reached, f"{name} is {phase}", timeout)

    def metric(self, line: str) -> float:
        page = self.operator.metrics.render().decode()
        found = [each for each in page.splitlines() if each.startswith(f"parley_operator_{line}")]
        return sum(float(each.rpartition(" ")[2]) for each in found)

    async def health(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.operator.port}/{path}") as answer,
        ):
            return answer.status, await answer.text()


@pytest.fixture
async def scene(apiserver: ApiServer, tmp_path: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(KubeStore(from_kubeconfig(apiserver.kubeconfig)))
        made = await stack.enter_async_context(ground(store))
        proxy = await stack.enter_async_context(api_proxy(apiserver.url))
        values = {
            "NAMESPACE": made.namespace,
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": "0",
            "WATCH_STALE_AFTER": "10",
        }
        settings = load_settings({f"PARLEY_OPERATOR_{k}": v for k, v in values.items()})
        operator = Operator(settings, from_kubeconfig(proxy.kubeconfig(tmp_path / "kubeconfig")))
        running = asyncio.create_task(operator.run())
        try:
            async with asyncio.timeout(60):
                await operator.ready.wait()
            await made.pool(sessionsPerWorker=20)
            [worker] = await made.run_workers(1, capacity=20)
            scene = Scene(made, proxy, operator, worker)
            await scene.call("calm")
            await scene.phase("calm", "Ready")
            await asyncio.sleep(0.5)
            scene.calm = await scene.get("calm")
            yield scene
            assert await scene.get("calm") == scene.calm
            asked = [admit.session.session_uid for admit in worker.admits]
            assert asked.count(scene.calm["metadata"]["uid"]) == 1
            assert worker.terminates == []
            assert len(set(asked)) == len(asked)
        finally:
            proxy.fault = lambda request: None
            proxy.mute_watches = False
            operator.stop()
            await asyncio.wait_for(running, 60)


@pytest.mark.parametrize("last_words", [b"", EXPIRED], ids=["cut", "410 Gone"])
async def test_watches_that_end_are_taken_up_again(scene: Scene, last_words: bytes) -> None:
    for number in range(2):
        assert scene.proxy.cut_watches(last_words) >= 4
        await scene.call(f"next-{number}")
        await scene.phase(f"next-{number}", "Ready", 30)
    assert scene.operator.leadership.epoch == 1


async def test_lists_that_grow_too_old_are_begun_anew(scene: Scene, tmp_path: Path) -> None:
    gone = itertools.count()

    def fault(request: Request) -> tuple[int, dict[str, str]] | None:
        listing = request.verb == "GET" and "voicesessions?limit=500" in request.path
        return (410, {}) if listing and next(gone) < 2 else None

    scene.proxy.fault = fault
    async with KubeStore(from_kubeconfig(scene.proxy.kubeconfig(tmp_path / "own"))) as store:
        assert len(await store.list(SESSION)) >= 1
    assert next(gone) == 3


async def test_too_many_requests_are_answered_by_waiting(scene: Scene) -> None:
    loop = asyncio.get_running_loop()
    until_then = loop.time() + 4

    def fault(request: Request) -> tuple[int, dict[str, str]] | None:
        busy = loop.time() < until_then and "/leases/" not in request.path
        return (429, {"Retry-After": "1"}) if busy and "watch=true" not in request.path else None

    scene.proxy.fault = fault
    begun = loop.time()
    for number in range(10):
        await scene.call(f"burst-{number}")
    for number in range(10):
        await scene.phase(f"burst-{number}", "Ready", 30)
    # Ten calls wait, and those of them whose request is sent at all knock about once a second.
    knocks = [request for request in scene.proxy.since(begun) if request.at < until_then]
    assert len([request for request in knocks if "/leases/" not in request.path]) <= 60
    assert scene.operator.leadership.epoch == 1


async def test_errors_of_the_server_are_met_by_trying_again(scene: Scene) -> None:
    turns = itertools.count()

    def fault(request: Request) -> tuple[int, dict[str, str]] | None:
        if not request.writes or next(turns) % 3:
            return None
        return ((500, 503, 504)[next(turns) % 3], {})

    scene.proxy.fault = fault
    for number in range(8):
        await scene.call(f"call-{number}")
    for number in range(8):
        await scene.phase(f"call-{number}", "Ready")
    assert scene.metric("api_errors_total") > 0


async def test_slow_answers_delay_and_do_no_more(scene: Scene) -> None:
    scene.proxy.fault = lambda request: None if "watch=true" in request.path else 0.5
    for number in range(4):
        await scene.call(f"slow-{number}")
    for number in range(4):
        await scene.phase(f"slow-{number}", "Ready")
    assert scene.operator.leadership.epoch == 1


async def test_an_outage_costs_the_lease_and_the_same_process_leads_again(scene: Scene) -> None:
    await scene.proxy.stop()
    ended = await scene.call("ends-meanwhile")

    async def stopped() -> bool:
        return not scene.operator.leadership.leading

    await until(stopped, "the leader stops", 10)
    assert (await scene.health("healthz"))[0] == 200
    await asyncio.sleep(4)
    await scene.proxy.start()
    await scene.phase("ends-meanwhile", "Ready", 30)
    scene.worker.report(ended["metadata"]["uid"], pb.SESSION_STATE_ENDED, "CallerHangup")
    await scene.phase("ends-meanwhile", "Completed", 30)
    assert scene.operator.leadership.epoch == 2
    assert scene.metric('lease_transitions_total{event="lost"}') == 1
    async with asyncio.timeout(30):
        await scene.operator.ready.wait()
    assert (await scene.health("readyz"))[0] == 200


async def test_a_watch_that_says_nothing_is_noticed_told_and_made_up_for(scene: Scene) -> None:
    scene.proxy.mute_watches = True
    await scene.call("unheard")
    await scene.phase("unheard", "Ready", 40)

    async def unhealthy() -> bool:
        status, words = await scene.health("healthz")
        return status == 503 and "the watch of VoiceSession owes a change" in words

    await until(unhealthy, "the kubelet is told", 40)
    assert scene.metric('watch_age_seconds{kind="VoiceSession"}') > 8
    scene.proxy.mute_watches = False
    scene.proxy.cut_watches()

    async def healthy() -> bool:
        return (await scene.health("healthz"))[0] == 200

    await until(healthy, "the watch speaks again", 40)
    assert scene.operator.leadership.epoch == 1
