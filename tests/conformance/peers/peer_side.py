"""What the programs of the peers share: a mouth and ears that keep real time, and the dialogue they hold.

Runs in the peers' own environment: it knows no module of this project. A program is given the path of a plan
(JSON) and writes JSON lines to standard output; see `tests/conformance/test_peers.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import wave
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RATE = 24000
FRAME_MS = 20
FRAME_BYTES = RATE * FRAME_MS // 1000 * 2
QUIET_S = 0.8
STEP_S = 40.0


def report(event: str, **fields: Any) -> None:
    """One line for the test."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


@dataclass
class Mouth:
    """Says files, and silence between them, 20 ms at a time in real time."""

    send: Callable[[bytes], Awaitable[None]]
    waiting: deque[bytes] = field(default_factory=deque)

    def say(self, path: str) -> None:
        with wave.open(path, "rb") as source:
            assert (source.getframerate(), source.getnchannels(), source.getsampwidth()) == (RATE, 1, 2)
            pcm = source.readframes(source.getnframes())
        self.waiting.extend(
            pcm[at : at + FRAME_BYTES].ljust(FRAME_BYTES, b"\0") for at in range(0, len(pcm), FRAME_BYTES)
        )

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self.send(self.waiting.popleft() if self.waiting else bytes(FRAME_BYTES))
            due += FRAME_MS / 1000
            await asyncio.sleep(max(0.0, due - loop.time()))


@dataclass
class Ear:
    """A player without a loudspeaker: plays in real time; an interruption cuts what was not played."""

    heard: bytearray = field(default_factory=bytearray)
    playing_until: float = 0.0
    started_at: float | None = None
    interruptions: int = 0
    last_cut_ms: float = 0.0

    def hear(self, pcm: bytes) -> None:
        now = asyncio.get_running_loop().time()
        if self.started_at is None:
            self.started_at = now
        self.playing_until = max(now, self.playing_until) + len(pcm) / 2 / RATE
        self.heard += pcm

    def interrupted(self) -> None:
        """Stop playing. Told twice or while nothing plays, it cuts nothing."""
        unplayed = max(0.0, self.playing_until - asyncio.get_running_loop().time())
        if unplayed > 0:
            self.interruptions += 1
            self.last_cut_ms = unplayed * 1000
            del self.heard[len(self.heard) - min(len(self.heard), int(unplayed * RATE) * 2) :]
            self.playing_until = 0.0

    def begin(self) -> None:
        self.heard.clear()
        self.started_at = None

    @property
    def playing_for(self) -> float:
        """Seconds since the first sound of this step."""
        return 0.0 if self.started_at is None else asyncio.get_running_loop().time() - self.started_at

    @property
    def finished(self) -> bool:
        """Whether something was heard and then nothing for a second."""
        quiet = asyncio.get_running_loop().time() - self.playing_until
        return self.started_at is not None and quiet > QUIET_S

    def save(self, path: Path) -> None:
        with wave.open(str(path), "wb") as target:
            target.setnchannels(1)
            target.setsampwidth(2)
            target.setframerate(RATE)
            target.writeframes(bytes(self.heard))


async def hold(plan: dict[str, Any], mouth: Mouth, ear: Ear) -> None:
    """Go through the steps of the plan: `say` a file, then hear the whole answer or speak again into it.

    A step with `cut_in_after_s` ends when the answer has played so long; the next step speaks into it, and
    its answer begins where the interruption was noticed.
    """
    for number, step in enumerate(plan["steps"]):
        cutting = number > 0 and "cut_in_after_s" in plan["steps"][number - 1]
        async with asyncio.timeout(STEP_S):
            if not cutting:
                ear.begin()
            if "say" in step:
                mouth.say(step["say"])
            if cutting:
                before = ear.interruptions
                await until(lambda noticed=before: ear.interruptions > noticed)
                report("interrupted", step=step["name"], cut_ms=round(ear.last_cut_ms))
                ear.begin()
            if "cut_in_after_s" in step:
                await until(lambda wanted=step["cut_in_after_s"]: ear.playing_for >= wanted)
                continue
            await until(lambda: ear.finished)
        path = Path(plan["folder"]) / f"{step['name']}.wav"
        ear.save(path)
        report("answer", step=step["name"], path=str(path))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what only the clock decides: polled, as a caller's patience is."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


def main(run: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """Read the plan named on the command line and run it; its deadline is the plan's."""
    plan = json.loads(Path(sys.argv[1]).read_text())

    async def bounded() -> None:
        async with asyncio.timeout(plan["deadline_s"]):
            await run(plan)

    asyncio.run(bounded())
    report("finished")


@contextlib.asynccontextmanager
async def background(*work: Awaitable[None]) -> Any:
    """Run the work beside the block; whatever fails in it fails the block."""
    tasks = [asyncio.ensure_future(one) for one in work]
    guard = asyncio.current_task()

    def failed(task: asyncio.Future[None]) -> None:
        if not task.cancelled() and task.exception() is not None and guard is not None:
            report("failed", error=repr(task.exception()))
            guard.cancel()

    for task in tasks:
        task.add_done_callback(failed)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
