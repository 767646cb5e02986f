"""`parley demo` as a user runs it, with real speech; and what happens when its parts are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parley_client import MissingProgram, read_wav, write_wav
from parley_client.embedded.programs import find_program
from parley_client.embedded.speech import speak

PARLEY = (sys.executable, "-m", "parley_client")

try:
    find_program("nats-server")
    find_program("flite")
    MISSING = ""
except MissingProgram as error:
    MISSING = str(error)

pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(240)]


@asynccontextmanager
async def parley(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *PARLEY,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines_of(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None
    async for line in process.stdout:
        yield json.loads(line)


def family(parent: int) -> dict[int, str]:
    """Direct children of a process, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def all_gone(pids: set[int], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while left := {pid for pid in pids if alive(pid)}:
        assert time.monotonic() < deadline, f"still running: {left}"
        await asyncio.sleep(0.1)


async def until_conversation(process: asyncio.subprocess.Process) -> None:
    """Read on until the session is Ready."""
    seen = []
    async for line in lines_of(process):
        seen.append(line)
        if line["kind"] == "step" and "Ready" in line["text"] and line["state"] == "done":
            return
    raise AssertionError(f"the session was never Ready: {seen}")


@pytest.mark.parametrize("format", ["pcm16@24000", "opus@24000"])
async def test_the_demo_hears_its_digits_again(tmp_path: Path, format: str) -> None:
    async with parley("demo", "--json", "--out", str(tmp_path), "--format", format) as process:
        lines = [line async for line in lines_of(process)]
        assert await process.wait() == 0, lines
    result = lines[-1]
    assert (result["kind"], result["good"], result["end_reason"]) == ("result", True, "CallerHangup")
    assert len(result["code"]) == 6
    assert result["code"] in result["digits"]
    assert {line["who"] for line in lines if line["kind"] == "transcript"} == {"caller", "agent"}
    events = [line["event"] for line in lines if line["kind"] == "event"]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    kinds = [line["type"] for line in lines if line["kind"] == "event"]
    assert kinds[0] == "admitted"
    assert kinds[-1] == "ended"
    assert {"provider-connected", "leg-attached", "speech-started", "first-audio"} <= set(kinds)
    metrics = {line["metric"]: line["value"] for line in lines if "metric" in line}
    assert metrics["admissions_total"] == 1
    assert metrics['sessions_ended_total{reason="CallerHangup"}'] == 1
    assert len(read_wav(tmp_path / "answer.wav", 24000)) > 24000 * 5


@pytest.mark.parametrize("name", ["nats-server", "parley_worker", "parley_local"])
async def test_a_killed_part_is_named_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    async with parley("demo", "--json", "--out", str(tmp_path)) as process:
        await until_conversation(process)
        children = family(process.pid)
        victim = next(pid for pid, command in children.items() if name in command)
        os.kill(victim, signal.SIGKILL)
        lines = [line async for line in lines_of(process)]
        assert await process.wait() == 1
        await all_gone(set(children))
    words = {"nats-server": "nats-server", "parley_worker": "media worker", "parley_local": "local provider"}
    assert lines[-1]["kind"] == "error"
    assert f"{words[name]} was killed by signal 9" in lines[-1]["text"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
async def test_whatever_ends_the_parent_no_child_is_left(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run_dir = tmp_path / "run"
    arguments = ("demo", "--json", "--out", str(tmp_path), "--run-dir", str(run_dir))
    async with parley(*arguments) as process:
        await until_conversation(process)
        children = family(process.pid)
        assert len(children) >= 3
        process.send_signal(number)
        async with asyncio.timeout(30):
            async for _ in lines_of(process):
                pass
            assert await process.wait() == code
        await all_gone(set(children))


OWN_SESSION = """
apiVersion: parley.dev/v1alpha1
kind: VoiceSession
metadata: {name: own}
spec:
  agent:
    provider: {type: custom, url: "ws://127.0.0.1:1/v1/realtime", apiVersion: beta, model: gpt-realtime}
    voice: rms
    session:
      input_audio_transcription: {model: whisper-1}
      turn_detection: {type: server_vad, silence_duration_ms: 500}
"""


async def test_a_file_of_the_users_own_is_run(tmp_path: Path) -> None:
    question, session = tmp_path / "q.wav", tmp_path / "session.yaml"
    await speak("Hello there, my friend.", question)
    session.write_text(OWN_SESSION)
    arguments = ("run", "-f", str(session), "--audio", str(question), "--out", str(tmp_path / "a.wav"))
    async with parley(*arguments, "--json", "--format", "g711_ulaw") as process:
        lines = [line async for line in lines_of(process)]
        assert await process.wait() == 0, lines
    assert (lines[-1]["end_reason"], lines[-1]["answered"]) == ("CallerHangup", True)
    said = [line["text"].lower() for line in lines if line["kind"] == "transcript" and line["who"] == "agent"]
    assert any("friend" in text for text in said), said


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("    voice: rms", "    vioce: rms", 2, "vioce"),
        ("apiVersion: beta", "apiVersion: gamma", 2, "apiVersion"),
        ('"ws://127.0.0.1:1/v1/realtime"', '"ws://169.254.169.254/v1/realtime"', 4, "169.254.169.254"),
    ],
)
async def test_a_session_that_is_refused_is_explained(
    tmp_path: Path, old: str, new: str, code: int, words: str
) -> None:
    session, question = tmp_path / "session.yaml", tmp_path / "q.wav"
    assert old in OWN_SESSION
    session.write_text(OWN_SESSION.replace(old, new))
    write_wav(question, np.ones(800, dtype=np.int16), 8000)
    arguments = ("run", "-f", str(session), "--audio", str(question), "--out", str(tmp_path / "a.wav"))
    async with parley(*arguments, "--json") as process:
        lines = [line async for line in lines_of(process)]
        assert await process.wait() == code, lines
    assert words in lines[-1]["text"]
