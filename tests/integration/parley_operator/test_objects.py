"""What people see of the objects, with the real kubectl on a real API server: waiting, selecting, explaining,
changing, Events, revisions, and what others write beside the operator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from apiserver import ApiServer, find_binary
from control_worker import ControlWorker
from operator_ground import AGENT_SPEC, Ground, ground, until
from parley.control.v1 import control_pb2 as pb
from parley_operator.app import Operator
from parley_operator.config import load_settings
from parley_operator.kube.login import from_kubeconfig
from parley_operator.kube.store import KubeStore
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.timeout(240)
AGENT, SESSION, REVISION = "VoiceAgent", "VoiceSession", "ControllerRevision"
LAMP = {"type": "function", "name": "lamp", "route": {"nats": {}}}


class Desk:
    """A ground with one worker, and kubectl."""

    def __init__(self, place: Ground, server: ApiServer, worker: ControlWorker, operator: Operator) -> None:
        self.place, self.worker, self.operator = place, worker, operator
        self._kubectl = [
            str(find_binary("kubectl")), "--kubeconfig", str(server.kubeconfig), "-n", place.namespace
        ]  # fmt: skip

    async def kubectl(self, *arguments: str, code: int = 0, given: str = "") -> str:
        process = await asyncio.create_subprocess_exec(
            *self._kubectl,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate(given.encode())
        assert process.returncode == code, out.decode()
        return out.decode()

    async def get(self, kind: str, name: str) -> Any:
        return await self.place.store.get(kind, self.place.namespace, name)

    async def session(self, name: str, **spec: Any) -> Any:
        await self.place.create(SESSION, name, spec or {"agent": AGENT_SPEC})
        await self.kubectl("wait", "--for=condition=Ready", f"vs/{name}", "--timeout=20s")
        return await self.get(SESSION, name)

    async def condition(self, name: str, kind: str, status: str) -> Any:
        async def there() -> Any:
            body = await self.get(SESSION, name)
            found = [c for c in body.get("status", {}).get("conditions", []) if c["type"] == kind]
            return found[0] if found and found[0]["status"] == status else None

        return await until(there, f"{kind}={status} on {name}", 20)

    async def events(self) -> list[tuple[str, str, str]]:
        text = await self.kubectl("get", "events.events.k8s.io", "-o", "json")
        found = json.loads(text)["items"]
        return [(e["regarding"]["name"], e["type"], e["reason"]) for e in found]


@pytest.fixture
async def desk(apiserver: ApiServer) -> AsyncIterator[Desk]:
    if find_binary("kubectl") is None:
        pytest.skip("kubectl not found; `make cluster-up` builds it")
    login = from_kubeconfig(apiserver.kubeconfig)
    async with KubeStore(login) as store, ground(store) as place:
        values = {"NAMESPACE": place.namespace, "HTTP_HOST": "127.0.0.1", "HTTP_PORT": "0"}
        settings = load_settings({f"PARLEY_OPERATOR_{key}": value for key, value in values.items()})
        operator = Operator(settings, login)
        running = asyncio.create_task(operator.run())
        try:
            await place.pool()
            (worker,) = await place.run_workers(1, capacity=50)
            yield Desk(place, apiserver, worker, operator)
        finally:
            operator.stop()
            await asyncio.wait_for(running, 40)


async def test_people_wait_for_a_session_and_for_its_end(desk: Desk) -> None:
    await desk.session("call")
    uid = next(iter(desk.worker.sessions))
    desk.worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
    await desk.kubectl("wait", "--for=condition=Ended", "vs/call", "--timeout=20s")
    # One that is over is no longer ready, and a changed spec keeps nobody waiting.
    await desk.kubectl("wait", "--for=condition=Ready=false", "vs/call", "--timeout=20s")
    patch = '{"spec":{"ttlSecondsAfterFinished":3600}}'
    await desk.kubectl("patch", "vs", "call", "--type=merge", "-p", patch)
    await desk.kubectl("wait", "--for=condition=Ended", "vs/call", "--timeout=20s")
    body = await desk.get(SESSION, "call")
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"] == 2


async def test_people_select_by_phase_pool_and_agent(desk: Desk) -> None:
    await desk.place.create(AGENT, "desk", AGENT_SPEC)
    await desk.session("one", agentRef={"name": "desk"})
    await desk.session("two")
    ended = next(uid for uid, s in desk.worker.sessions.items() if s.session.name == "two")
    desk.worker.report(ended, pb.SESSION_STATE_ENDED, "CallerHangup")
    await desk.kubectl("wait", "--for=condition=Ended", "vs/two", "--timeout=20s")

    async def selected(selector: str) -> list[str]:
        text = await desk.kubectl("get", "vs", "--field-selector", selector, "-o", "name")
        return [line.rpartition("/")[2] for line in text.split()]

    assert await selected("status.phase=Ready") == ["one"]
    assert await selected("status.phase=Completed") == ["two"]
    assert await selected("status.pool=default") == ["one", "two"]
    assert await selected("status.pool=other") == []
    assert await selected("spec.agentRef.name=desk") == ["one"]
    table = await desk.kubectl("get", "vs")
    header, *rows = table.splitlines()
    assert header.split() == ["NAME", "PHASE", "REASON", "QUEUE", "WORKER", "POOL", "AGE"]
    assert "CallerHangup" in next(row for row in rows if row.startswith("two"))
    wide = await desk.kubectl("get", "vs", "-o", "wide")
    assert {"AGENT", "REVISION", "NODE", "ENDPOINT", "ATTEMPT", "STARTED"} <= set(
        wide.splitlines()[0].split()
    )
    assert "desk-" in wide
    agents = (await desk.kubectl("get", "va")).splitlines()
    assert "SESSIONS" in agents[0]


async def test_people_read_what_a_field_is(desk: Desk) -> None:
    text = await desk.kubectl("explain", "voicesession.spec.limits.maxDuration")
    assert "From Ready to the end, whatever happens." in text
    tree = await desk.kubectl("explain", "voicesession.status", "--recursive")
    assert "observedGeneration" in tree
    assert "Of a hundred new sessions" in await desk.kubectl("explain", "va.spec.canary.weight")


async def test_a_live_session_is_changed_without_a_restart(desk: Desk) -> None:
    await desk.session("call", agent={**AGENT_SPEC, "instructions": "x"})
    patch = {"spec": {"agent": {"instructions": "y", "tools": [LAMP]}, "limits": {"maxDuration": "2h"}}}
    await desk.kubectl("patch", "vs", "call", "--type=merge", "-p", json.dumps(patch))
    updated = await desk.condition("call", "Updated", "True")
    assert (updated["reason"], updated["observedGeneration"]) == ("Applied", 2)
    (command,) = desk.worker.commands
    asked = command.reconfigure
    assert json.loads(asked.session_json)["instructions"] == "y"
    assert [tool.name for tool in asked.tools] == ["lamp"]
    assert asked.limits.max_duration.seconds == 7200
    assert len(desk.worker.admits) == 1
    desk.worker.refuse_updates = "the provider refused the update: no such choice"
    patch = {"spec": {"session": {"tool_choice": "nonsense"}}}
    await desk.kubectl("patch", "vs", "call", "--type=merge", "-p", json.dumps(patch))
    refused = await desk.condition("call", "Updated", "False")
    assert "no such choice" in refused["message"]
    await desk.kubectl("wait", "--for=condition=Ready", "vs/call", "--timeout=20s")
    patch = {"spec": {"agent": {"voice": "ash"}}}
    text = await desk.kubectl("patch", "vs", "call", "--type=merge", "-p", json.dumps(patch), code=1)
    assert "spec.agent.voice" in text
    assert "cannot be changed" in text


async def test_what_others_say_of_a_session_survives(desk: Desk) -> None:
    await desk.session("call")
    condition = {
        "type": "example.com/Billed",
        "status": "True",
        "reason": "Paid",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    mine = {
        "apiVersion": "parley.dev/v1alpha1",
        "kind": SESSION,
        "metadata": {"name": "call"},
        "status": {"conditions": [condition]},
    }
    applied = ("apply", "--server-side", "--subresource=status", "--field-manager=billing", "-f", "-")
    await desk.kubectl(*applied, given=json.dumps(mine))
    uid = next(iter(desk.worker.sessions))
    desk.worker.report(uid, pb.SESSION_STATE_ACTIVE)
    desk.worker.report(uid, pb.SESSION_STATE_ENDED, "CallerHangup")
    await desk.kubectl("wait", "--for=condition=Ended", "vs/call", "--timeout=20s")
    body = await desk.get(SESSION, "call")
    kinds = {c["type"] for c in body["status"]["conditions"]}
    assert kinds == {"Accepted", "Placed", "Ready", "Ended", "example.com/Billed"}
    managers = {m["manager"] for m in body["metadata"]["managedFields"]}
    assert managers >= {"parley-operator", "billing"}
    # The other takes back its own, and nothing else.
    await desk.kubectl(*applied, given=json.dumps({**mine, "status": {}}))
    body = await desk.get(SESSION, "call")
    kinds = {c["type"] for c in body["status"]["conditions"]}
    assert kinds == {"Accepted", "Placed", "Ready", "Ended"}


async def test_a_status_written_on_what_is_old_or_another_is_refused(desk: Desk) -> None:
    from parley_operator.ports import Conflict

    store = desk.place.store
    await desk.place.create(AGENT, "desk", AGENT_SPEC)

    async def accepted() -> Any:
        body = await desk.get(AGENT, "desk")
        return body if body.get("status", {}).get("conditions") else None

    seen = await until(accepted, "the agent has a status", 20)
    status = seen["status"]
    assert status["conditions"][0]["type"] == "Accepted"
    await desk.kubectl("label", "va", "desk", "a=b")
    with pytest.raises(Conflict):
        await store.apply_status(AGENT, seen, {**status, "sessions": 7})
    await desk.kubectl("delete", "va", "desk")
    await desk.place.create(AGENT, "desk", AGENT_SPEC)
    assert await store.apply_status(AGENT, seen, {**status, "sessions": 7}) is None
    await desk.kubectl("delete", "va", "desk")
    assert await store.apply_status(AGENT, seen, {**status, "sessions": 7}) is None


async def test_events_for_people(desk: Desk) -> None:
    await desk.session("call")
    uid = next(iter(desk.worker.sessions))
    desk.worker.report(uid, pb.SESSION_STATE_ENDED, "ProviderAuthFailed", end_message="wrong key")
    await desk.place.create(SESSION, "lost", {"agentRef": {"name": "nobody"}})
    wanted = {
        ("call", "Normal", "Ready"),
        ("call", "Warning", "Ended"),
        ("lost", "Warning", "NotAccepted"),
    }

    async def told() -> bool:
        return wanted <= set(await desk.events())

    await until(told, "the Events are there", 30)
    described = await desk.kubectl("describe", "vs", "call")
    assert "ProviderAuthFailed: wrong key" in described


async def test_sessions_keep_their_agent_s_state_and_a_canary_gets_its_share(desk: Desk) -> None:
    await desk.place.create(AGENT, "new", {**AGENT_SPEC, "instructions": "new"})
    await desk.place.create(AGENT, "desk", {**AGENT_SPEC, "instructions": "one"})
    before = await desk.session("before", agentRef={"name": "desk"})
    kept = await desk.get(REVISION, before["status"]["agent"]["revision"])
    assert kept["data"]["spec"]["instructions"] == "one"
    canary = {"canary": {"agentRef": {"name": "new"}, "weight": 50}, "instructions": "two"}
    await desk.kubectl("patch", "va", "desk", "--type=merge", "-p", json.dumps({"spec": canary}))
    await asyncio.sleep(0.5)
    got = [await desk.session(f"after-{n}", agentRef={"name": "desk"}) for n in range(12)]
    names = [body["status"]["agent"]["name"] for body in got]
    assert set(names) == {"desk", "new"}
    texts = {a.session.name: json.loads(a.config.session_json)["instructions"] for a in desk.worker.admits}
    assert {texts[f"after-{n}"] for n, name in enumerate(names) if name == "new"} == {"new"}
    assert {texts[f"after-{n}"] for n, name in enumerate(names) if name == "desk"} == {"two"}

    async def counted() -> Any:
        body = await desk.get(AGENT, "desk")
        return body if body["status"].get("sessions") == 1 + names.count("desk") else None

    status = (await until(counted, "the agent's sessions are counted", 30))["status"]
    assert [r["generation"] for r in status["revisions"]] == [2, 1]
    families = text_string_to_metric_families(desk.operator.metrics.render().decode())
    samples = [s for f in families if f.name == "parley_operator_agent_sessions" for s in f.samples]
    assert sum(s.value for s in samples if s.labels["agent"] == "new") == names.count("new")
