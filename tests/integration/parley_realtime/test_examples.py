"""The programs of examples/realtime, each in a process of its own against a local provider."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from parley_local import LocalProviderConfig, serve

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "realtime"
RATE = 24_000


def write_call(path: Path, *parts: tuple[str, float], rate: int = RATE) -> None:
    """A caller who makes a sound (`tone`) or is silent (`pause`), for so many seconds."""
    pieces = []
    for kind, seconds in parts:
        t = np.arange(int(rate * seconds)) / rate
        pieces.append(np.sin(2 * np.pi * 440 * t) * (12_000 if kind == "tone" else 0))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.concatenate(pieces).astype("<i2").tobytes())


def heard_seconds(path: Path) -> float:
    """How long the sound in a file is, silence left out."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(float)
    frames = samples[: len(samples) // 480 * 480].reshape(-1, 480)
    return float((np.abs(frames).max(axis=1) > 500).sum()) * 0.02


async def run(
    tmp_path: Path,
    program: str,
    brain: str,
    *parts: tuple[str, float],
    rate: int = RATE,
    **environment: str,
) -> tuple[list[str], float]:
    """What the program printed, and how much it heard."""
    script = tmp_path / "brain.yaml"
    script.write_text(brain)
    write_call(tmp_path / "speaks.wav", *parts, rate=rate)
    async with serve(LocalProviderConfig(port=0, brain=f"script:{script}" if brain else "echo")) as provider:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLES / f"{program}.py",
            tmp_path / "speaks.wav",
            tmp_path / "hears.wav",
            env={**os.environ, "REALTIME_URL": provider.url, "OPENAI_API_KEY": "", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(40):
                out, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, out.decode()
    return out.decode().splitlines(), heard_seconds(tmp_path / "hears.wav")


async def test_greeting_first(tmp_path: Path) -> None:
    brain = "greeting: Hello.\ndefault: Fine.\n"
    printed, heard = await run(tmp_path, "greeting_first", brain, ("tone", 0.6))
    assert printed[0] == "agent: Hello."
    assert [line.partition(" ")[0] for line in printed] == ["agent:", "caller:", "agent:"]
    assert "seconds of sound" in printed[1]
    assert printed[2] == "agent: Fine."
    assert heard == pytest.approx(0.06 * len("Hello.Fine."), abs=0.1)


async def test_barge_in(tmp_path: Path) -> None:
    """The second sound falls into the answer to the first; the history ends at what the file holds."""
    long = "word " * 24
    brain = f'rules:\n  - match: "0.[6-9] seconds"\n    say: "{long}"\ndefault: Yes.\n'
    printed, heard = await run(
        tmp_path, "barge_in", brain, ("tone", 0.4), ("pause", 1.6), ("tone", 0.6), ("pause", 0.1)
    )
    interrupted = next(line for line in printed if line.startswith("(interrupted after"))
    ms = int(interrupted.split()[2])
    assert 100 < ms < 60 * len(long) - 1000
    assert f"the history ends at {ms} ms" in printed
    assert "response: cancelled" in printed
    assert printed[-1] == "response: completed"
    assert heard == pytest.approx(ms / 1000 + 0.06 * len("Yes."), abs=0.25)


async def test_tools(tmp_path: Path) -> None:
    """The caller's file has another rate than the provider."""
    brain = """
rules:
  - match: seconds
    say: One moment.
    call: {name: get_weather, arguments: {city: Graz}}
  - tool: get_weather
    say: "It is {result.sky}."
"""
    printed, heard = await run(tmp_path, "tools", brain, ("tone", 0.6), rate=16_000)
    assert "agent: One moment." in printed
    assert 'get_weather({"city": "Graz"}) -> {"city": "Graz", "temperature": 21, "sky": "sunny"}' in printed
    assert printed[-1] == "agent: It is sunny."
    assert heard == pytest.approx(0.06 * len("One moment.It is sunny."), abs=0.2)


async def test_a_tool_that_cannot_be_called_is_told_to_the_model(tmp_path: Path) -> None:
    brain = """
rules:
  - match: seconds
    call: {name: get_weather, arguments: {town: Graz}}
  - tool: get_weather
    match: error
    say: No weather.
"""
    printed, _ = await run(tmp_path, "tools", brain, ("tone", 0.6))
    assert printed[-1] == "agent: No weather."
    assert "TypeError" in printed[0]


async def test_transcription_only(tmp_path: Path) -> None:
    printed, heard = await run(
        tmp_path, "transcription_only", "", ("tone", 0.6), ("pause", 0.9), ("tone", 1.0), ("pause", 0.1)
    )
    assert len(printed) == 2
    assert all(line.endswith("seconds of sound") for line in printed)
    assert heard == 0


async def test_third_party_speech(tmp_path: Path) -> None:
    brain = "default: First this. Then that!\n"
    printed, heard = await run(tmp_path, "third_party_speech", brain, ("tone", 0.6))
    assert printed == ["agent: First this.", "agent: Then that!"]
    assert heard == pytest.approx(0.04 * len("First this.Then that!"), abs=0.1)


async def test_third_party_speech_of_a_program(tmp_path: Path) -> None:
    """`SPEECH_COMMAND` reads the sentence and gives the WAV file."""
    write_call(tmp_path / "voice.wav", ("tone", 0.3))
    program = "import sys; sys.stdin.read(); sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"
    command = shlex.join([sys.executable, "-c", program, str(tmp_path / "voice.wav")])
    brain = "default: First this. Then that!\n"
    printed, heard = await run(tmp_path, "third_party_speech", brain, ("tone", 0.6), SPEECH_COMMAND=command)
    assert printed == ["agent: First this.", "agent: Then that!"]
    assert heard == pytest.approx(0.6, abs=0.1)


async def test_hang_up_by_tool(tmp_path: Path) -> None:
    brain = """
rules:
  - match: seconds
    call: {name: hang_up, arguments: {}}
  - tool: hang_up
    say: Goodbye.
"""
    printed, heard = await run(tmp_path, "hang_up_by_tool", brain, ("tone", 0.6))
    assert printed == ["agent: Goodbye.", "(hung up)"]
    assert heard == pytest.approx(0.06 * len("Goodbye."), abs=0.1), "the goodbye is heard to its end"


async def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "speaks.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44_100)
    arguments = [str(tmp_path / name) for name in ("speaks.wav", "hears.wav")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / "barge_in.py", *arguments, stderr=subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 1
    assert "mono and has 16 bit" in error.decode()


async def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    arguments = [str(tmp_path / name) for name in ("nothing.wav", "hears.wav")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / "tools.py", *arguments, stderr=subprocess.PIPE
    )
    _, error = await process.communicate()
    assert process.returncode == 1
    assert error.decode().strip() == f"{arguments[0]}: No such file or directory"
