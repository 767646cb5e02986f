"""The SDK and the command against a real worker, provider, control plane and NATS, without speech models."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded_stack import manifests, tones_stack
from media_server_double import CuttableProxy
from parley_client import (
    AttachRefused,
    CallOptions,
    ConversationEvent,
    MissingProgram,
    ParleyError,
    Playout,
    ProcessDied,
    Reconnecting,
    SessionNotReady,
    Started,
    TlsError,
    UsageError,
    WavRecorder,
    connect,
    paced_silence,
    paced_wav,
    read_wav,
    resolve_address,
    write_wav,
)
from parley_client.embedded.processes import Child, ChildSpec
from parley_client.embedded.programs import find_program
from parley_client.session_events import read_events

try:
    find_program("nats-server")
    MISSING = ""
except MissingProgram as error:
    MISSING = str(error)

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(120)]
QUICK = CallOptions(attach_timeout=5, resume_timeout=10)


@pytest.fixture
def question(tmp_path: Path) -> Path:
    """A second of a loud tone: speech to the energy detector."""
    time = np.arange(24000) / 24000
    write_wav(tmp_path / "q.wav", (np.sin(2 * math.pi * 440 * time) * 12000).astype(np.int16), 24000)
    return tmp_path / "q.wav"


@pytest.mark.parametrize(
    ("format", "playout"),
    [
        ("g711_alaw", Playout.REALTIME),
        ("pcm16@16000", Playout.BURST),
        ("opus@16000", Playout.REALTIME),
        ("opus@24000", Playout.BURST),
    ],
)
async def test_a_call_is_answered_cut_resumed_and_recorded(
    tmp_path: Path, question: Path, format: str, playout: Playout
) -> None:
    async with tones_stack(tmp_path / "run") as stack:
        target = await stack.open_session(manifests())
        assert target.tls
        async with CuttableProxy(target.address) as proxy:
            recorder = WavRecorder(tmp_path / "a.wav")
            through = target.moved_to(proxy.address)
            async with connect(
                through, input_format=format, playout=playout, player=recorder, options=QUICK
            ) as call:

                async def speak() -> None:
                    async for frame in paced_wav(question, call.options.input_format, lead_ms=200):
                        await call.send_audio(frame)
                    async for frame in paced_silence(call.options.input_format, 60):
                        await call.send_audio(frame)

                speaking = asyncio.create_task(speak())
                seen: list[Any] = []
                cut = False
                async with asyncio.timeout(60):
                    async for event in call:
                        seen.append(event)
                        if isinstance(event, ConversationEvent) and event.type == "response.done":
                            if cut:
                                break
                            cut = True
                            proxy.cut()
                        if isinstance(event, Started) and event.resumed:
                            await call.send_event({"type": "response.create"})
                speaking.cancel()
                await asyncio.wait([speaking])
            assert call.ended is not None
            assert call.ended.reason == "CallerHangup"
        assert any(isinstance(e, Reconnecting) for e in seen)
        assert call.stats.resumes == 1
        assert call.stats.events_missed == 0
        sequences = [e.sequence for e in seen if isinstance(e, ConversationEvent)]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
        assert np.abs(read_wav(tmp_path / "a.wav", 8000)).max() > 500
        events = [
            e async for e in read_events(stack.nats_url, "default", target.session_uid, idle_timeout=10)
        ]
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))
        assert [e.type for e in events if e.type.startswith("leg-")] == [
            "leg-attached",
            "leg-detached",
            "leg-attached",
            "leg-detached",
        ]
        assert events[-1].type == "ended"


async def test_wrong_credentials_and_names_are_refused(tmp_path: Path) -> None:
    async with tones_stack(tmp_path / "run") as stack:
        target = await stack.open_session(manifests())
        tls = {"ca_pem": target.ca_pem, "tls_server_name": target.tls_server_name}
        with pytest.raises(AttachRefused) as caught:
            async with connect(resolve_address(target.address, "wrong", **tls), options=QUICK):
                pytest.fail("attached")
        assert caught.value.reason
        wrong_name = resolve_address(
            target.address, target.ticket, **{**tls, "tls_server_name": "other.example"}
        )
        with pytest.raises(TlsError):
            async with connect(wrong_name, options=QUICK):
                pytest.fail("attached")
        async with connect(target, options=QUICK):
            pass
        with pytest.raises(AttachRefused):
            async with connect(target, options=QUICK):
                pytest.fail("attached with a used ticket")


async def test_refused_sessions_say_why(tmp_path: Path) -> None:
    text = "apiVersion: parley.dev/v1alpha1\nkind: VoiceSession\nmetadata: {name: x}\n"
    text += "spec: {agentRef: {name: nobody}}"
    async with tones_stack(tmp_path / "run", session_timeout=2.0) as stack:
        with pytest.raises((UsageError, SessionNotReady), match="nobody"):
            await stack.open_session(manifests(text))


async def test_the_commands_call_and_events(tmp_path: Path, question: Path) -> None:
    async with tones_stack(tmp_path / "run") as stack:
        target = await stack.open_session(manifests())
        (tmp_path / "ticket").write_text(target.ticket + "\n")
        (tmp_path / "ca.crt").write_text(target.ca_pem)
        arguments = ["--address", target.address, "--ticket-file", str(tmp_path / "ticket")]
        arguments += [
            "--ca",
            str(tmp_path / "ca.crt"),
            "--tls-name",
            target.tls_server_name,
            "--burst",
            "--json",
        ]
        arguments += ["--audio", str(question), "--out", str(tmp_path / "a.wav"), "--format", "g711_ulaw"]
        code, lines = await parley("call", *arguments)
        assert code == 0, lines
        assert (lines[-1]["end_reason"], lines[-1]["answered"]) == ("CallerHangup", True)
        assert lines[-1]["session_uid"] == target.session_uid
        assert target.ticket not in json.dumps(lines)
        nats = ["toned", "--uid", target.session_uid, "--nats", stack.nats_url, "--json"]
        code, lines = await parley("events", *nats, "--from-start")
        assert code == 0, lines
        assert lines[0]["type"] == "admitted"
        assert lines[-1]["type"] == "ended"
        code, lines = await parley("call", *arguments)
        assert code == 4, lines
        assert lines[-1]["kind"] == "error"
        code, lines = await parley(
            "events",
            "x",
            "--uid",
            "no-such",
            "--nats",
            stack.nats_url,
            "--from-start",
            "--no-follow",
            "--json",
        )
        assert code == 3, lines


async def parley(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parley_client", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, [json.loads(line) for line in out.decode().splitlines()]


async def test_provider_serve_listens_until_it_is_interrupted() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "parley_client", "provider", "serve", "--port", "0"),
        *("--voice", "tones", "--recognizer", "tones", "--vad", "energy"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            url = json.loads(await process.stdout.readline())["listening"]
            assert url.startswith("ws://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
    assert process.returncode in (0, 130, -signal.SIGINT)


async def test_a_worker_that_dies_while_a_session_is_opened_is_named(tmp_path: Path) -> None:
    async with tones_stack(tmp_path / "run") as stack:
        worker = next(child for child in stack.children if child.spec.name == "media worker")
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(ProcessDied, match="media worker was killed by signal 9"):
            await stack.guard(stack.open_session(manifests()))


async def test_a_child_that_does_not_start_is_explained(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ParleyError, match="silent was not ready within"):
        await Child.start(ChildSpec("silent", silent, ready_timeout=0.3), tmp_path)
    dying = [sys.executable, "-c", "import sys; sys.exit('no disk left')"]
    with pytest.raises(ProcessDied, match=r"(?s)dying exited with status 1.*no disk left"):
        await Child.start(ChildSpec("dying", dying), tmp_path)
    babbling = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(60)"]
    with pytest.raises(ParleyError, match="babbling printed no JSON object"):
        await Child.start(ChildSpec("babbling", babbling), tmp_path)
    with pytest.raises(ProcessDied, match="no-such-program"):
        await Child.start(ChildSpec("absent", ["no-such-program"]), tmp_path)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn += "; print('{}', flush=True); time.sleep(60)"
    child = await Child.start(
        ChildSpec("stubborn", [sys.executable, "-c", stubborn], stop_timeout=0.3), tmp_path
    )
    await child.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
