"""What a recorder costs: CPU seconds of the worker for each minute of a session, with and without.

pytest tests/load/test_recorder_cost.py -s
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from media_calls import PCM24, Caller, calling
from parley.control.v1 import control_pb2
from parley.media.v1 import media_pb2 as pb
from provider_script import Socket, scripted
from worker_process import WorkerProcess, control, worker_process

SESSIONS = 8
SECONDS = 12.0
ROUNDS = 2
FORMATS = ("", "wav", "opus")


async def talkative(socket: Socket) -> None:
    await socket.greet()
    speech = (np.random.default_rng(1).normal(0, 3000, int(24_000 * (SECONDS + 10)))).astype("<i2")
    await socket.say(speech.tobytes(), "resp_1", "item_1", chunk=48_000)


@asynccontextmanager
async def sessions(
    provider: str, process: WorkerProcess, recording: str, folder: Path
) -> AsyncIterator[None]:
    """Callers that speak all the time to agents that do, too."""
    async with AsyncExitStack() as stack:
        operator = await stack.enter_async_context(control(process.ready["control"], process.instance))
        callers: list[Caller] = []
        for n in range(SESSIONS):
            uid = f"uid-{recording or 'none'}-{n}"
            given = {}
            if recording:
                given["recording"] = control_pb2.Recording(format=recording, directory=str(folder))
            answer = await operator.admit(operator.request(provider, uid, **given))
            assert answer.WhichOneof("result") == "admitted", answer
            first = pb.Start(session_uid=uid, input_format=PCM24, output_format=PCM24)
            callers.append(await stack.enter_async_context(calling(process.ready["media"], first)))
        for caller in callers:
            await caller.expect("audio")
        speaking = [asyncio.create_task(speak(caller)) for caller in callers]
        try:
            yield
        finally:
            for task in speaking:
                task.cancel()
            await asyncio.gather(*speaking, return_exceptions=True)


async def speak(caller: Caller) -> None:
    loop, frame = asyncio.get_running_loop(), os.urandom(960)
    due = loop.time()
    while True:
        await caller.speak(frame)
        due += 0.02
        await asyncio.sleep(due - loop.time())


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def cost(recording: str, folder: Path) -> float:
    """CPU seconds of the worker for each minute of a session."""
    async with (
        scripted(talkative) as provider,
        worker_process() as process,
        sessions(provider.url, process, recording, folder),
    ):
        await asyncio.sleep(1)
        before = cpu_seconds(process.process.pid)
        await asyncio.sleep(SECONDS)
        return (cpu_seconds(process.process.pid) - before) / SESSIONS / SECONDS * 60


@pytest.mark.timeout(300)
async def test_cpu_of_a_session_with_and_without_a_recorder(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {name: [] for name in FORMATS}
    for round_ in range(ROUNDS):
        for name in FORMATS:
            folder = tmp_path / f"{name}{round_}"
            folder.mkdir()
            found[name].append(await cost(name, folder))
    best = {name: min(values) for name, values in found.items()}
    for name, value in best.items():
        ratio = value / best[""]
        print(f"{name or 'none':>5}: {value:.2f} CPU s for a session-minute, {ratio:.2f} of none")
    assert best["wav"] < best[""] * 3
