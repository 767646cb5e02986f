"""Behaviour, tools, scenarios and recordings from YAML to a worker, by the control plane over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from control_worker import ControlWorker
from parley_operator.embedded import EmbeddedControlPlane, InvalidObject, SessionEnded, WorkerTarget

pytestmark = pytest.mark.timeout(60)
RULES = {
    "scenarios": {"allowSource": True},
    "tools": {"allowedHosts": ["hooks.example.com"]},
    "recordings": {"directories": ["/recordings"]},
}
OBJECTS = """
apiVersion: v1
kind: Secret
metadata:
  name: hook
  labels: {parley.dev/tool-credentials: "true"}
  annotations: {parley.dev/tool-hosts: hooks.example.com}
stringData: {signingKey: $(HOOK_KEY)}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: survey}
data:
  survey.py: |
    async def main(ctx):
        ctx.log("begins")
---
apiVersion: parley.dev/v1alpha1
kind: VoiceAgent
metadata: {name: clerk}
spec:
  provider: {type: custom, url: "ws://127.0.0.1:8765/v1/realtime", model: m}
  tools:
    - type: function
      name: order
      route: {webhook: {url: "https://hooks.example.com/", signingSecretRef: {name: hook}}, timeout: 2s}
    - {type: function, name: weather, route: {nats: {}}}
  greeting: {text: Hello.}
  idle: {after: 10s, lines: [{text: "Are you still there?"}]}
  scenario: {configMapRef: {name: survey, key: survey.py}, parameters: {a: 1}}
"""
SESSION = """
apiVersion: parley.dev/v1alpha1
kind: VoiceSession
metadata: {name: call}
spec:
  agentRef: {name: clerk}
  recording: {volume: {path: /recordings/eu}}
  recovery: {webSocket: Restore, rotateAfter: 55m}
  limits: {queueTimeout: 5s}
"""


def objects(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


@pytest.fixture
async def worker() -> AsyncIterator[ControlWorker]:
    made = ControlWorker(telephony="wss://10.0.0.1:50200/twilio")
    await made.start()
    yield made
    await made.stop()


def plane_with(worker: ControlWorker, directory: Path | None = None, **options: Any) -> EmbeddedControlPlane:
    chosen = {"rules": RULES, "environ": {"HOOK_KEY": "sign-hidden"}, **options}
    target = WorkerTarget(worker.name, f"127.0.0.1:{worker.port}")
    return EmbeddedControlPlane(directory, workers=[target], **chosen)


def written_in(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*/*/*.yaml"))


async def test_a_worker_is_told_what_the_files_say(worker: ControlWorker, tmp_path: Path) -> None:
    async with plane_with(worker, tmp_path) as plane:
        await plane.apply(objects(OBJECTS) + objects(SESSION))
        body: Any = await plane.wait_phase("call", {"Ready"}, timeout=20)
        [admit] = worker.admits
        config = admit.config
        assert [route.WhichOneof("route") for route in config.tools] == ["webhook", "nats"]
        assert config.tools[0].webhook.signing_key == "sign-hidden"
        assert "route" not in config.session_json
        assert config.scenario.source == 'async def main(ctx):\n    ctx.log("begins")\n'
        assert (config.scenario.file_name, config.scenario.parameters_json) == ("survey.py", '{"a":1}')
        assert config.behaviour.greeting.text == "Hello."
        assert config.recording.directory == "/recordings/eu"
        assert config.recovery.rotate_after.ToSeconds() == 3300
        ticket = plane.ticket("call")
        assert ticket is not None
        assert ticket.telephony_endpoint == "wss://10.0.0.1:50200/twilio"
        assert body["status"]["telephonyEndpoint"] == "wss://10.0.0.1:50200/twilio"
    kept = await asyncio.to_thread(written_in, tmp_path)
    assert "survey.py" in kept
    assert "sign-hidden" not in kept, "files keep the reference, not the value"


async def test_a_config_map_may_come_later(worker: ControlWorker) -> None:
    given = objects(OBJECTS)
    late = next(body for body in given if body["kind"] == "ConfigMap")
    async with plane_with(worker) as plane:
        await plane.apply([body for body in given if body is not late] + objects(SESSION))
        async for change in plane.watch("VoiceSession"):
            status: Any = change.body.get("status", {})
            conditions = {c["type"]: c for c in status.get("conditions", [])}
            if conditions.get("Accepted", {}).get("status") == "False":
                break
        assert conditions["Accepted"]["reason"] == "ConfigMapNotFound"
        assert "ConfigMap survey does not exist in namespace default" in conditions["Accepted"]["message"]
        assert not worker.admits
        await plane.apply([late])
        await plane.wait_phase("call", {"Ready"}, timeout=20)


async def test_what_the_pool_does_not_allow_ends_with_the_field(worker: ControlWorker) -> None:
    async with plane_with(worker, rules={**RULES, "recordings": {}}) as plane:
        await plane.apply(objects(OBJECTS) + objects(SESSION.replace("5s", "300ms")))
        with pytest.raises(SessionEnded, match=r"InvalidSpec: spec\.recording\.volume\.path: /recordings/eu"):
            await plane.wait_phase("call", {"Ready"}, timeout=20)
        assert not worker.admits


async def test_a_config_map_of_numbers_is_refused_by_field(worker: ControlWorker) -> None:
    async with plane_with(worker) as plane:
        odd = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": 1}}
        with pytest.raises(InvalidObject, match=r"ConfigMap m: data\.a: must be a string"):
            await plane.apply([odd])
