"""A survey: asks its questions one by one; the answer is a key, or a digit that is spoken.

The model only speaks and listens: `create_response: false` in the session keeps it from answering by itself.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from parley_scenario import CallEvents, Context, RealtimeAPIEvents

DIGITS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5"}


async def main(ctx: Context) -> None:
    """Register handlers; the survey itself takes long and runs beside them."""
    answers: asyncio.Queue[str] = asyncio.Queue()

    def on_key(event: Any) -> None:
        answers.put_nowait(event.data["digit"])

    def on_speech(event: Any) -> None:
        for digit in spoken_digits(event.data["payload"]["transcript"]):
            answers.put_nowait(digit)

    ctx.caller.add_event_listener(CallEvents.DtmfReceived, on_key)
    ctx.client.add_event_listener(
        RealtimeAPIEvents.ConversationItemInputAudioTranscriptionCompleted, on_speech
    )
    ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.spawn(survey(ctx, answers)))


async def survey(ctx: Context, answers: asyncio.Queue[str]) -> None:
    """Ask, wait, ask once more where no answer came, thank, end the session."""
    given = []
    for question in ctx.parameters["questions"]:
        for words in (question, f"I did not get that. {question}"):
            await ctx.say(words)
            answer = await next_answer(answers, float(ctx.parameters["answerSeconds"]))
            if answer:
                break
        given.append(answer or "none")
    await ctx.say("Thank you, goodbye.")
    ctx.terminate(f"answers: {', '.join(given)}")


async def next_answer(answers: asyncio.Queue[str], seconds: float) -> str:
    """The next digit from 1 to 5; empty when none comes in time."""
    try:
        async with asyncio.timeout(seconds):
            while (answer := await answers.get()) not in DIGITS.values():
                pass
            return answer
    except TimeoutError:
        return ""


def spoken_digits(transcript: str) -> list[str]:
    """Digits in a transcript, written as words or as numerals."""
    return [
        DIGITS.get(word, word)
        for word in re.findall(r"\d|[a-z]+", transcript.lower())
        if word in DIGITS or word.isdigit()
    ]
