"""One conversation over many WebSockets: cut at every stage, rotated, and nothing forgotten or said twice."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from cutting_proxy import CuttingProxy, How, cutting
from parley_realtime.recovery import Reconnected, RecoveryRecord
from recall import Held, recalling
from surviving import QUICK, Talker, talking

SEED = int(os.environ.get("PARLEY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
Items = list[dict[str, Any]]
GA_WORDS = "response.output_audio_transcript.delta"
STAGES = (
    "idle",
    "response.created",
    "words",
    "response.done",
    "tool called",
    "tool returned",
    "speech_started",
    "speech_stopped",
    "committed",
    "transcribed",
    "restoring",
    "twice",
    "asked",
)
PINGS: dict[str, Any] = {"ping_interval": 0.25, "ping_timeout": 0.25, "close_timeout": 0.2}
HOLES = ("words",)
"""Where the line goes dead without a word: an answer is awaited, and pings find it out."""


@dataclass
class Moves:
    """At every new connection: what the provider held on the old one, and what on the new one."""

    held: Held
    serving: int = 0
    seen: list[tuple[str, Items, Items]] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list)
    """The whole session of each new connection: instructions, tools, voice, turn detection."""

    def note(self, record: RecoveryRecord) -> None:
        if isinstance(record, Reconnected):
            old, self.serving = self.serving, len(self.held.sessions) - 1
            self.seen.append((record.cause, self.held.items(old), self.held.items(self.serving)))
            self.settings.append(self.held.sessions[self.serving].settings)

    def count(self, cause: str) -> int:
        return sum(each == cause for each, _, _ in self.seen)


def carried_over(old: Items, new: Items) -> None:
    """All of the old connection's items are on the new one, in order; what was being made may end early."""
    ids = [item["id"] for item in old]
    known = [item for item in new if item["id"] in ids]
    assert known == new, "the new connection holds what the old one never had"
    assert [item["id"] for item in known] == [i for i in ids if i in {item["id"] for item in known}]
    for item in known:
        before = old[ids.index(item["id"])]
        if item["type"] == "message" and item["role"] == "assistant":
            assert before["words"].startswith(item["words"].rstrip())
        else:
            assert item == before
    missing = [i for i in ids if i not in {item["id"] for item in known}]
    assert missing == ids[len(ids) - len(missing) :], "an item in the middle is gone"
    assert len(missing) <= 2


class Cutter:
    """Brings a conversation to a stage and cuts it there."""

    def __init__(self, talker: Talker, proxy: CuttingProxy, shape: str) -> None:
        self.t, self.proxy = talker, proxy
        self._beta = shape == "beta"
        self.spoken: list[str] = []

    def _cut_at(self, kind: str, how: How = "reset") -> None:
        self.t.on(kind, lambda: self.proxy.cut(how))

    async def _speak(self) -> None:
        words = await self.t.speak(pace=0.0005)
        self.spoken.append(words)
        await self.t.answered(words)

    async def until_lost(self, stage: str, moves: Moves) -> None:
        """Cut there; once more when a rotation came between."""
        before = moves.count("lost")
        for _ in range(5):
            how: How = self.t.random.choice(("reset", "end"))
            await self.at(stage, "hole" if stage in HOLES else how)
            if moves.count("lost") > before:
                return
        raise AssertionError(f"no cut at {stage} was noticed")

    async def at(self, stage: str, how: How) -> None:
        words = "response.audio_transcript.delta" if self._beta else GA_WORDS
        moves = self.t.moves
        plain: dict[str, tuple[str, Callable[[], str]]] = {
            "response.created": ("response.created", self.t.ask_remember),
            "words": (words, self.t.ask_long),
            "response.done": ("response.done", self.t.ask_remember),
            "tool called": ("response.function_call_arguments.done", self.t.ask_lookup),
        }
        heard = {
            "speech_started": "input_audio_buffer.speech_started",
            "speech_stopped": "input_audio_buffer.speech_stopped",
            "committed": "input_audio_buffer.committed",
            "transcribed": "conversation.item.input_audio_transcription.completed",
        }
        if stage in plain:
            kind, ask = plain[stage]
            self._cut_at(kind, how)
            await self.t.answered(ask())
        elif stage in heard:
            self._cut_at(heard[stage], how)
            await self._speak()
        else:
            await self._special(stage, how)
        await self.t.until(lambda: self.t.moves > moves, f"new connection after {stage}")

    async def _special(self, stage: str, how: How) -> None:
        match stage:
            case "idle":
                self.proxy.cut(how)
            case "asked":
                question = self.t.ask_remember()
                self.proxy.cut(how)
                await self.t.answered(question)
            case "tool returned":
                question = self.t.ask_lookup()
                self.t.on("response.function_call_arguments.done", lambda: self.proxy.cut(how))
                await self.t.answered(question)
            case "restoring":
                self.proxy.cut_next_after(2500, how)
                self.proxy.cut()
            case "twice":
                self.proxy.cut_next_after(600, "end")
                self.proxy.cut_next_after(1500, how)
                self.proxy.cut()


def answered_once(talker: Talker, spoken: list[str]) -> None:
    heard = talker.answers.pop("heard", [])
    assert heard == spoken
    assert {key: len(words) for key, words in talker.answers.items()} == dict.fromkeys(talker.answers, 1)


@pytest.mark.parametrize("shape", ["ga", "beta"])
async def test_ten_rotations_and_twenty_cuts_in_one_conversation(shape: str) -> None:
    print(f"seed {SEED} (set PARLEY_TEST_SEED to repeat)")
    plan = ["rotation"] * 10 + list(STAGES) + list(STAGES[:7])
    random.Random(SEED).shuffle(plan)
    quick = replace(QUICK, rotate_after=0.35)
    async with (
        recalling(max_session_s=4.0, audio_speed=30.0) as (local, held),
        cutting(local.url) as proxy,
        talking(proxy.url, SEED, quick, shape, **PINGS) as talker,
    ):
        moves = Moves(held)
        first = deepcopy(held.sessions[0].settings)
        talker.told = moves.note
        cutter = Cutter(talker, proxy, shape)
        for stage in plan:
            await talker.answered(talker.ask_remember())
            await talker.answered(talker.ask_lookup())
            if stage == "rotation":
                before = moves.count("rotation")
                await talker.until(lambda: moves.count("rotation") > before, "rotation")  # noqa: B023
            else:
                await cutter.until_lost(stage, moves)
        assert await talker.recall() == talker.facts
        answered_once(talker, cutter.spoken)
    assert moves.count("rotation") >= 10
    assert moves.count("lost") >= 20
    assert first.instructions == "recall"
    assert [settings for settings in moves.settings if settings != first] == []
    for cause, old, new in moves.seen:
        if cause == "rotation":
            assert new == old
        else:
            carried_over(old, new)
