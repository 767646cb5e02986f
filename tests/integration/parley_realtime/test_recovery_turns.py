"""Turns that the client ends by itself, and transcriptions, over cuts and rotations at any moment."""

from __future__ import annotations

import asyncio
import os
import random
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from cutting_proxy import CuttingProxy, cutting
from recall import recalling, spoken
from surviving import BETA, FRAME, GA, QUICK, Talker, talking

SEED = int(os.environ.get("PARLEY_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
COMMITTED = "input_audio_buffer.committed"
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


def by_hand(shape: str, **turns: Any) -> dict[str, Any]:
    """A session whose turns the client ends, or asks an answer for."""
    session = deepcopy(GA if shape == "ga" else BETA)
    holder = session["audio"]["input"] if shape == "ga" else session
    holder["turn_detection"] = holder["turn_detection"] | turns if turns else None
    return session


async def cut_somewhen(proxy: CuttingProxy, rng: random.Random) -> None:
    await asyncio.sleep(rng.random() * 0.12)
    proxy.cut(rng.choice(("reset", "end")))


@pytest.mark.parametrize("shape", ["ga", "beta"])
async def test_push_to_talk_loses_no_word_and_is_answered_once(shape: str) -> None:
    print(f"seed {SEED} (set PARLEY_TEST_SEED to repeat)")
    rng = random.Random(SEED)
    quick = replace(QUICK, rotate_after=0.15)
    async with (
        recalling() as (local, _),
        cutting(local.url) as proxy,
        talking(proxy.url, SEED, quick, shape, session=by_hand(shape)) as talker,
    ):
        assert talker.client is not None
        told = []
        for turn in range(12):
            cutting_it = asyncio.create_task(cut_somewhen(proxy, rng)) if turn % 3 else None
            told.append(await talker.speak(pace=0.001))
            talker.send({"type": "input_audio_buffer.commit"})
            talker.send({"type": "response.create"})
            await talker.answered(told[-1])
            if cutting_it is not None:
                await cutting_it
        await talker.until(lambda: talker.moves > 8, "connections")
        assert talker.answers["heard"] == told
        assert await talker.recall() == talker.facts
        assert not [event for event in talker.events if event["type"] == "error"]


async def test_a_client_that_asks_for_every_answer_itself_gets_each_once() -> None:
    print(f"seed {SEED} (set PARLEY_TEST_SEED to repeat)")
    rng = random.Random(SEED)
    session = by_hand("ga", create_response=False)
    async with (
        recalling() as (local, _),
        cutting(local.url) as proxy,
        talking(proxy.url, SEED, session=session) as talker,
    ):
        told = []
        for _ in range(8):
            cutting_it = asyncio.create_task(cut_somewhen(proxy, rng))
            count = len(transcripts(talker))
            told.append(await talker.speak(pace=0.001))
            await talker.until(lambda: len(transcripts(talker)) > count, "the words")  # noqa: B023
            talker.send({"type": "response.create"})
            await talker.answered(told[-1])
            await cutting_it
        assert talker.answers["heard"] == told
        assert await talker.recall() == talker.facts


def transcripts(talker: Talker) -> list[str]:
    return [event["transcript"] for event in talker.events if event["type"] == TRANSCRIBED]


@pytest.mark.parametrize("manual", [False, True])
async def test_a_transcription_is_complete_though_it_is_cut_before_the_words_came(manual: bool) -> None:
    turns = GA["audio"]["input"] | ({"turn_detection": None} if manual else {})
    session = {"type": "transcription", "audio": {"input": turns}}
    async with (
        recalling() as (local, held),
        cutting(local.url) as proxy,
        talking(proxy.url, 1, session=session, type="transcription") as talker,
    ):
        assert talker.client is not None
        for number in range(3):
            talker.on(COMMITTED, proxy.cut)
            audio = spoken([number, number + 1])
            for at in range(0, len(audio), FRAME):
                talker.client.push_media(audio[at : at + FRAME])
            if manual:
                talker.send({"type": "input_audio_buffer.commit"})
            await talker.until(lambda: len(transcripts(talker)) > number, "the words")  # noqa: B023
        assert transcripts(talker) == ["numbers 0 1", "numbers 1 2", "numbers 2 3"]
        assert not [event for event in talker.events if event["type"] == "error"]
        assert len(held.sessions) == 4
