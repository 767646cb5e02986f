"""What an agent does beside conversing, by the embedded stack: a greeting, a recording, a trace."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from embedded_stack import manifests, tones_stack
from nats_reader import events_of, journal_of
from parley_client import Call, MissingProgram, connect, paced_silence, resolve_address
from parley_client.embedded.programs import find_program
from parley_client.embedded.serve import serve_session
from parley_client.session_events import SessionEvent

try:
    find_program("nats-server")
    MISSING = ""
except MissingProgram as error:
    MISSING = str(error)

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(90)]
SESSION = """
apiVersion: v1
kind: Secret
metadata:
  name: key
  labels: {parley.dev/provider-credentials: "true"}
  annotations: {parley.dev/provider-hosts: 127.0.0.1}
stringData: {apiKey: sk-hidden-key}
---
apiVersion: parley.dev/v1alpha1
kind: VoiceSession
metadata: {name: greeted}
spec:
  agent:
    provider:
      type: custom
      url: "ws://127.0.0.1:1/v1/realtime"
      model: gpt-realtime
      credentialsSecretRef: {name: key}
    greeting: {text: "One two three."}
  recording: {volume: {path: /recordings/tests}}
  trace: true
  limits: {maxDuration: 1m}
"""


async def test_a_session_greets_is_recorded_and_traced(tmp_path: Path) -> None:
    async with tones_stack(tmp_path / "run", volumes=tmp_path) as stack:
        target = await stack.open_session(manifests(SESSION))
        assert stack.recordings == tmp_path / "recordings" / "tests"
        assert stack.telephony_endpoint.startswith("wss://127.0.0.1:")
        async with connect(target) as call, asyncio.timeout(30):
            speaking = asyncio.create_task(silence(call))
            try:
                async for event in call:
                    if getattr(event, "type", "") == "response.done":
                        break
            finally:
                speaking.cancel()
                await asyncio.wait([speaking])
                assert speaking.cancelled()
        async with asyncio.timeout(20):
            while True:
                events = await events_of(stack.nats_url, "default", target.session_uid)
                if {"ended", "recording_finished"} <= {record.kind for record in events}:
                    break
                await asyncio.sleep(0.1)
        journal = await journal_of(stack.nats_url, "default", target.session_uid)
    said = [record.body.line_said.rule for record in events if record.kind == "line_said"]
    assert said in (["greeting"], []), "the caller may hang up before the last of it was heard"
    [finished] = [r.body.recording_finished for r in events if r.kind == "recording_finished"]
    [file] = await asyncio.to_thread(lambda: list((tmp_path / "recordings").glob("tests/**/*.wav")))
    assert finished.url == file.as_uri()
    assert finished.bytes == file.stat().st_size
    traced = [
        (r.body.trace.direction, json.loads(r.body.trace.frame_json)["type"])
        for r in journal
        if r.kind == "trace"
    ]
    assert ("sent", "session.update") in traced
    assert ("received", "response.done") in traced
    assert not [kind for _, kind in traced if "audio.delta" in kind or kind == "input_audio_buffer.append"]
    assert "sk-hidden-key" not in "".join(record.text for record in (*events, *journal))


@dataclass
class Shown:
    """A presenter that remembers."""

    facts: dict[str, object] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Nothing to remember."""

    def note(self, text: str, **facts: object) -> None:
        self.facts.update(facts)
        self.notes.append(text)

    def session_event(self, event: SessionEvent) -> None:
        self.events.append(event.type)


async def test_a_session_that_is_served_waits_for_callers_from_outside(tmp_path: Path) -> None:
    shown = Shown()
    async with tones_stack(tmp_path / "run", volumes=tmp_path) as stack, asyncio.timeout(60):
        serving = asyncio.create_task(serve_session(stack, manifests(SESSION), cast("Any", shown)))
        while "ticket_file" not in shown.facts:
            assert not serving.done(), serving.result()
            await asyncio.sleep(0.05)
        ticket, ca = Path(str(shown.facts["ticket_file"])), Path(str(shown.facts["ca_file"]))
        assert (await asyncio.to_thread(ticket.stat)).st_mode & 0o777 == 0o600
        target = resolve_address(
            str(shown.facts["address"]),
            await asyncio.to_thread(ticket.read_text),
            ca_pem=await asyncio.to_thread(ca.read_text),
            tls_server_name=str(shown.facts["tls_server_name"]),
        )
        async with connect(target) as call:
            async for frame in paced_silence(call.options.input_format, 1.0):
                await call.send_audio(frame)
        served = await serving
    assert served.reason == "CallerHangup"
    assert str(shown.facts["nats"]).startswith("nats://127.0.0.1:")
    assert str(shown.facts["telephony"]).endswith("/twilio")
    assert shown.events[-2:] == ["ended", "recording-finished"]
    assert "leg-attached" in shown.events


LOGGING = """
apiVersion: v1
kind: ConfigMap
metadata: {name: speaker}
data:
  main.py: |
    from parley_scenario import CallEvents

    async def main(ctx):
        print("loaded")
        ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.log.warning("attached"))
---
apiVersion: parley.dev/v1alpha1
kind: VoiceSession
metadata: {name: logging}
spec:
  agent:
    provider: {type: custom, url: "ws://127.0.0.1:1/v1/realtime", model: gpt-realtime}
    scenario: {configMapRef: {name: speaker, key: main.py}, function: main}
"""


async def test_what_a_scenario_logs_is_shown_while_it_is_served(tmp_path: Path) -> None:
    shown = Shown()
    async with tones_stack(tmp_path / "run") as stack, asyncio.timeout(60):
        serving = asyncio.create_task(serve_session(stack, manifests(LOGGING), cast("Any", shown)))
        while not {"scenario info: loaded"} & set(shown.notes):
            assert not serving.done(), serving.result()
            await asyncio.sleep(0.05)
        target = resolve_address(
            str(shown.facts["address"]),
            await asyncio.to_thread(Path(str(shown.facts["ticket_file"])).read_text),
            ca_pem=await asyncio.to_thread(Path(str(shown.facts["ca_file"])).read_text),
            tls_server_name=str(shown.facts["tls_server_name"]),
        )
        async with connect(target) as call:
            async for frame in paced_silence(call.options.input_format, 0.2):
                await call.send_audio(frame)
        served = await serving
    assert served.reason == "CallerHangup"
    lines = [note for note in shown.notes if note.startswith("scenario")]
    assert lines == ["scenario info: loaded", "scenario warning: attached"]


async def silence(call: Call) -> None:
    async for frame in paced_silence(call.options.input_format):
        await call.send_audio(frame)
