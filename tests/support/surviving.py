"""A user of the realtime client who asks questions, answers tools and counts answers, over any connection."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from parley_realtime import RealtimeAPIClient, RealtimeAPIClientParameters, beta
from parley_realtime.recovery import Reconnected, RecoveryParameters, RecoveryRecord
from recall import spoken

PATIENCE = 20.0
FRAME = 960
GA = {
    "type": "realtime",
    "instructions": "recall",
    "output_modalities": ["audio"],
    "audio": {
        "input": {
            "transcription": {"model": "whisper-1"},
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
        }
    },
    "tools": [{"type": "function", "name": "lookup", "description": "look up", "parameters": {}}],
}
BETA = {
    "instructions": "recall",
    "modalities": ["text", "audio"],
    "input_audio_transcription": {"model": "whisper-1"},
    "turn_detection": {"type": "server_vad", "silence_duration_ms": 300},
    "tools": GA["tools"],
}
WORDS_DONE = ("response.output_audio_transcript.done", "response.audio_transcript.done")
QUICK = RecoveryParameters(
    backoff_base=0.02, backoff_cap=0.2, progress_timeout=3, response_timeout=5, truncate_grace=0.05
)


class Talker:
    """Asks, and keeps everything that is seen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.client: RealtimeAPIClient | beta.RealtimeAPIClient | None = None
        self.events: list[dict[str, Any]] = []
        self.records: list[RecoveryRecord] = []
        self.facts: list[str] = []
        self.answers: dict[str, list[str]] = {}
        self.results: dict[str, str] = {}
        self.when: list[tuple[Callable[[dict[str, Any]], bool], Callable[[], None]]] = []
        self.told: Callable[[RecoveryRecord], None] = lambda record: None
        self._words: dict[str, list[str]] = {}
        self._questions = 0
        self._news = asyncio.Event()

    # what comes

    def observe(self, payload: dict[str, Any]) -> None:
        self.events.append(payload)
        kind = payload["type"]
        if kind in WORDS_DONE:
            self._words.setdefault(payload["response_id"], []).append(payload["transcript"])
        elif kind == "response.done":
            response = payload["response"]
            if response["status"] == "completed":
                for words in self._words.pop(response["id"], []):
                    self.answers.setdefault(words.split(" ")[0], []).append(words)
        elif kind == "response.function_call_arguments.done":
            self._answer_tool(payload["call_id"])
        for entry in list(self.when):
            test, action = entry
            if test(payload):
                self.when.remove(entry)
                action()
        self._news.set()

    def _answer_tool(self, call_id: str) -> None:
        result = self.results.pop("next", None)
        if result is None:
            return
        self.send(
            {
                "type": "conversation.item.create",
                "item": {"type": "function_call_output", "call_id": call_id, "output": result},
            }
        )
        self.send({"type": "response.create"})

    def recovered(self, record: RecoveryRecord) -> None:
        self.records.append(record)
        self.told(record)
        self._news.set()

    async def until(self, test: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not test():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            last = [event["type"] for event in self.events[-12:]]
            raise AssertionError(f"no {what}; records {self.records[-3:]}, last events {last}") from None

    @property
    def moves(self) -> int:
        """How many connections followed the first one."""
        return sum(isinstance(record, Reconnected) for record in self.records)

    def on(self, kind: str, action: Callable[[], None]) -> None:
        """Do something once, the moment an event of this type comes."""
        self.when.append((lambda payload: payload["type"] == kind, action))

    # what is asked

    def send(self, event: dict[str, Any]) -> None:
        assert self.client is not None
        self.client.send_event(event)

    def _say(self, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        self.send({"type": "conversation.item.create", "item": item})
        self.send({"type": "response.create"})

    def question(self) -> str:
        self._questions += 1
        return str(self._questions)

    def word(self) -> str:
        return "".join(self.random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))

    def ask_remember(self) -> str:
        number, word = self.question(), self.word()
        self.facts.append(word)
        self._say(f"q{number} remember {word}")
        return f"a{number}"

    def ask_long(self) -> str:
        number = self.question()
        self._say(f"q{number} long")
        return f"a{number}"

    def ask_lookup(self) -> str:
        number, word = self.question(), self.word()
        self.facts.append(word)
        self.results["next"] = f"q{number} {word}"
        self._say(f"q{number} lookup {word[::-1]}")
        return f"a{number}"

    async def speak(self, numbers: list[int] | None = None, pace: float = 0.0) -> str:
        assert self.client is not None
        if numbers is None:
            numbers = [self.random.randrange(100) for _ in range(self.random.randrange(2, 6))]
        self.facts.append("-".join(str(number) for number in numbers))
        audio = spoken(numbers)
        for at in range(0, len(audio), FRAME):
            self.client.push_media(audio[at : at + FRAME])
            await asyncio.sleep(pace)
        return "heard numbers " + " ".join(str(number) for number in numbers)

    async def answered(self, key: str) -> None:
        """A question, or spoken numbers, got an answer."""
        head = key.split(" ")[0]
        await self.until(
            lambda: any(words.startswith(key) for words in self.answers.get(head, [])), f"answer {key}"
        )

    async def recall(self) -> list[str]:
        """Everything the provider knows."""
        number = self.question()
        self._say(f"q{number} recall")
        await self.answered(f"a{number}")
        return self.answers[f"a{number}"][0].split(" ")[1:]


@asynccontextmanager
async def talking(
    url: str, seed: int, recovery: RecoveryParameters = QUICK, shape: str = "ga", **changes: Any
) -> AsyncIterator[Talker]:
    """A connected, configured talker."""
    talker = Talker(seed)
    session = changes.pop("session", GA if shape == "ga" else BETA)
    update = changes.pop("update", "session.update")
    parameters = RealtimeAPIClientParameters(
        api_key="k",
        model=None if changes.get("type") == "transcription" else "local",
        base_url=url,
        observer=talker.observe,
        recovery=replace(recovery, on_recovery=talker.recovered, random=lambda: talker.random.random()),
        **changes,
    )
    kind = RealtimeAPIClient if shape == "ga" else beta.RealtimeAPIClient
    talker.client = kind(parameters)
    async with talker.client:
        talker.send({"type": update, "session": session})
        await talker.until(
            lambda: any(event["type"] == update + "d" for event in talker.events), "session.updated"
        )
        yield talker
