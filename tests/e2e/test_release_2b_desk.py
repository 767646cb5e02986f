"""A help desk on the cluster: behaviour, a tool on NATS, a recording, a scenario from a ConfigMap."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import e2e_desk as desk
import pytest
from cluster_fixture import wait_for
from e2e_calls import calling
from e2e_release import Release, agent_spec, condition, pool, resource, session
from nats_reader import Record, check_complete, events_of, journal_of
from parley_client.tools import ToolCall, serve_tool
from speech import code_phrase, random_code
from spoken import Caller, heard_digits

# Read by the worker's own Python: the worker's image has nothing else that could.
MEASURE = """
import array, glob, json, wave
[path] = glob.glob('/recordings/calls/**/*.wav', recursive=True)
with wave.open(path) as file:
    frames = file.readframes(file.getnframes())
    facts = {'path': path, 'channels': file.getnchannels()}
    facts['seconds'] = file.getnframes() / file.getframerate()
samples = array.array('h', frames)
facts['loudest'] = [max(map(abs, samples[side::2])) for side in (0, 1)]
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def worker(release: Release) -> Iterator[str]:
    """The desk's worker, ready, beside a provider that follows a dialogue."""
    name = f"{desk.SCRIPTED}.{release.namespace}.svc"
    given = release.get("voiceworkerpool", "default")["spec"]
    hosts = [*given["provider"]["allowedHosts"], f"{name}:8765"]
    agent = {**agent_spec({"url": f"ws://{name}:8765/v1/realtime"}), **desk.behaviour()}
    release.apply(
        *desk.provider(release.cluster.images["localprovider"]),
        pool(release, desk.DESK, **desk.pool_rules(given["podTemplate"], hosts)),
        resource("VoiceAgent", desk.DESK, agent),
        desk.config_map(desk.CODES, **{"codes.py": desk.SCENARIO}),
    )
    [pod] = release.wait_workers(desk.DESK)
    release.kubectl("wait", "--for=condition=Ready", f"pod/{desk.SCRIPTED}", "--timeout=150s", timeout=160)
    yield str(pod["metadata"]["name"])
    release.kubectl("delete", "voiceworkerpool", desk.DESK)
    release.kubectl("delete", "pod,service,configmap,networkpolicy", desk.SCRIPTED, "--grace-period=1")
    release.kubectl("delete", "configmap", desk.CODES)


@contextlib.asynccontextmanager
async def serving(release: Release) -> AsyncIterator[list[ToolCall]]:
    """The tool, answered by this process over the cluster's NATS."""
    calls: list[ToolCall] = []

    async def turn_around(call: ToolCall) -> dict[str, object]:
        calls.append(call)
        return {"code": str(call.arguments["code"])[::-1]}

    with release.nats_url() as url:
        ready = asyncio.Event()
        task = asyncio.create_task(serve_tool(url, desk.TOOL, turn_around, ready=ready))
        try:
            async with asyncio.timeout(15):
                await ready.wait()
            yield calls
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def answers(caller: Caller, count: int, timeout: float = 60) -> None:
    """Until so many responses are done and everything of them was heard."""
    async with asyncio.timeout(timeout):
        while sum(event.type == "response.done" for event in caller.events) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        while not caller.recorder.idle:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def records(release: Release, name: str, last: str = "ended") -> tuple[list[Record], list[Record]]:
    """Events and journal once the fact `last` has come; publishing is not awaited by the call."""
    body = await asyncio.to_thread(release.session, name)
    uid = body["metadata"]["uid"]
    with release.nats_url() as url:
        async with asyncio.timeout(20):
            while True:
                events = await events_of(url, release.namespace, uid)
                if events and events[-1].kind == last:
                    break
                await asyncio.sleep(0.2)
        check_complete(events, uid, last)
        return events, await journal_of(url, release.namespace, uid)


@pytest.mark.timeout(300, func_only=True)
async def test_a_desk_greets_calls_its_tool_says_goodbye_and_is_recorded(
    release: Release, worker: str, tmp_path: Path
) -> None:
    code = random_code()
    async with (
        serving(release) as calls,
        calling(release, "at-the-desk", tmp_path, **desk.session_spec()) as caller,
    ):
        await answers(caller, 1)
        await caller.ask(code_phrase(code))
        await answers(caller, 3)
        with contextlib.suppress(AssertionError):  # the agent hangs up in the middle of listening
            await caller.ask("Goodbye.")
        await caller.wait_ended(30)
    final = await asyncio.to_thread(release.wait_phase, "at-the-desk", "Completed", timeout=20)
    assert final["status"]["endReason"] == "AgentHangup", final["status"]
    assert final["status"]["telephonyEndpoint"].startswith("wss://")
    assert [call.arguments for call in calls] == [{"code": code}]
    assert code[::-1] in heard_digits(caller.recording)
    # What became of the recording is told after the end.
    events, journal = await records(release, "at-the-desk", "recording_finished")
    facts = {record.kind: record for record in events}
    assert {"tool_called", "tool_returned", "line_said", "recording_finished"} <= set(facts)
    rules = [r.body.line_said.rule for r in events if r.kind == "line_said"]
    assert rules == ["greeting", "farewell"]
    said = [r.body.transcript.text for r in journal if r.kind == "transcript"]
    assert desk.GREETING in said[0]
    [result] = [r.body.tool_result for r in journal if r.kind == "tool_result"]
    assert json.loads(result.output) == {"code": code[::-1]}
    assert result.error_code == ""
    measured = await asyncio.to_thread(measure, release, worker)
    finished = facts["recording_finished"].body.recording_finished
    assert finished.url.endswith(measured["path"])
    assert measured["channels"] == 2
    assert measured["seconds"] == pytest.approx(finished.duration_ms / 1000, abs=0.1)
    assert measured["seconds"] > 5
    assert min(measured["loudest"]) > 1000, "both sides can be heard"


def measure(release: Release, worker: str) -> dict[str, Any]:
    def once() -> dict[str, Any]:
        said = release.kubectl("exec", worker, "-c", "worker", "--", "python", "-c", MEASURE)
        found: dict[str, Any] = json.loads(said)
        return found

    return wait_for(once, "the recording", timeout=20)


async def test_a_scenario_from_a_config_map_speaks_and_ends_the_call(
    release: Release, worker: str, tmp_path: Path
) -> None:
    code = random_code()
    spec = {"agentRef": {"name": "echo"}, **desk.scenario_spec(code)}
    async with calling(release, "told-a-code", tmp_path, **spec) as caller:
        await caller.wait_ended(60)
    final = await asyncio.to_thread(release.wait_phase, "told-a-code", "Completed", timeout=20)
    assert final["status"]["endReason"] == "ScenarioCompleted", final["status"]
    assert heard_digits(caller.recording) == code
    events, journal = await records(release, "told-a-code")
    kinds = [record.kind for record in events]
    assert kinds.index("scenario_started") < kinds.index("first_audio")
    assert "scenario_failed" not in kinds
    logged = [r.body.scenario_log.text for r in journal if r.kind == "scenario_log"]
    assert logged == ["tells the code"]


def test_source_is_refused_where_the_pool_does_not_run_any(release: Release, worker: str) -> None:
    spec = {**desk.scenario_spec("123456"), "poolRef": {"name": "default"}}
    release.apply(session("refused-source", agentRef={"name": "echo"}, **spec))

    def refused() -> dict[str, Any] | None:
        accepted = condition(release.session("refused-source"), "Accepted")
        return accepted if accepted.get("status") == "False" else None

    found = wait_for(refused, "the refusal", timeout=20)
    assert found["reason"] == "ScenarioSourceNotAllowed"
    assert found["message"].startswith("spec.scenario.configMapRef: ")
    release.kubectl("delete", "voicesession", "refused-source")
