"""The local provider's session as a machine: any order of events keeps its promises."""

from __future__ import annotations

import json
from typing import Any

from fuzz_targets import check_responses
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from local_session import Harness, silence, tone
from parley_local.core.effects import BrainFailure, Call, Emit, McpCall, Reply, Say, Speak, Think, Transcribe
from parley_local.core.settings import Shape

REPLIES: list[Reply | BrainFailure | None] = [
    (Say("one two three four five six"),),
    (Say("a"), Call("f", {"x": 1}), Say("b")),
    (Call("f", "no json"),),
    (
        McpCall("s", "g", {}, "out"),
        Emit({"type": "output_audio_buffer.started", "response_id": "$response_id"}),
    ),
    (),
    None,
    BrainFailure("no"),
]
TURNS: list[dict[str, Any] | None] = [
    None,
    {"type": "server_vad", "silence_duration_ms": 200},
    {"type": "server_vad", "interrupt_response": False, "idle_timeout_ms": 5000},
    {"type": "semantic_vad", "eagerness": "high", "create_response": False},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KINDS = st.sampled_from(
    ["session.update", "response.create", "conversation.item.create", "conversation.item.truncate",
     "input_audio_buffer.append", "response.cancel"]
)  # fmt: skip
FIELDS = st.sampled_from(["session", "response", "item", "audio", "item_id", "audio_end_ms", "event_id"])


class SessionMachine(RuleBasedStateMachine):
    """Client events, finished work and time, in any order."""

    items = Bundle("items")

    @initialize(shape=st.sampled_from(Shape), pace=st.sampled_from([0.0, 4.0]))
    def connect(self, shape: Shape, pace: float) -> None:
        self.shape = shape
        self.harness = Harness(shape, pace=pace)
        self.mirror: list[str] = []
        self.read = 0

    @rule(text=st.booleans(), turns=st.sampled_from(TURNS), announce=st.booleans())
    def update(self, text: bool, turns: dict[str, Any] | None, announce: bool) -> None:
        hearing = {"model": "whisper-1"} if announce else None
        if self.shape is Shape.GA:
            audio = {"input": {"turn_detection": turns, "transcription": hearing}}
            session: dict[str, Any] = {"type": "realtime", "audio": audio}
            session["output_modalities"] = ["text"] if text else ["audio"]
        else:
            session = {"modalities": ["text"] if text else ["text", "audio"]}
            session |= {"input_audio_transcription": hearing}
            kept = {k: v for k, v in (turns or {}).items() if k != "idle_timeout_ms"}
            session["turn_detection"] = kept or None
        self.harness.send("session.update", session=session)

    @rule(sound=st.booleans(), ms=st.sampled_from([20, 100, 700]))
    def append(self, sound: bool, ms: int) -> None:
        self.harness.append((tone if sound else silence)(ms))

    @rule(kind=st.sampled_from(["commit", "clear"]))
    def buffer(self, kind: str) -> None:
        self.harness.send(f"input_audio_buffer.{kind}")

    @rule(target=items, number=st.integers(0, 30), after=st.none() | st.just("root") | items)
    def create(self, number: int, after: str | None) -> str:
        content = [{"type": "input_text", "text": "hi"}]
        item = {"id": f"mine_{number}", "type": "message", "role": "user", "content": content}
        self.harness.send("conversation.item.create", item=item, previous_item_id=after)
        return f"mine_{number}"

    @rule(item=items, kind=st.sampled_from(["delete", "retrieve"]))
    def touch(self, item: str, kind: str) -> None:
        self.harness.send(f"conversation.item.{kind}", item_id=item)

    @rule(end=st.integers(0, 2000))
    def truncate_the_last(self, end: int) -> None:
        spoken = [item for item in self.harness.session.conversation if item.role == "assistant"]
        if spoken:
            self.harness.send(
                "conversation.item.truncate", item_id=spoken[-1].id, content_index=0, audio_end_ms=end
            )

    @rule(apart=st.booleans(), limit=st.sampled_from(["inf", 3]))
    def respond(self, apart: bool, limit: int | str) -> None:
        body: dict[str, Any] = {"max_output_tokens": limit}
        if apart:
            body["conversation"] = "none"
        self.harness.send("response.create", response=body)

    @rule()
    def cancel(self) -> None:
        self.harness.send("response.cancel")

    @rule(reply=st.sampled_from(REPLIES), works=st.booleans(), which=st.integers(0, 7))
    def finish_one(self, reply: Any, works: bool, which: int) -> None:
        """Work comes back late, out of order, or for what is gone."""
        harness = self.harness
        if not harness.work:
            return
        job = harness.work.pop(which % len(harness.work))
        match job:
            case Transcribe():
                harness.take(
                    harness.session.transcribed(job.item_id, "hello" if works else None, harness.now)
                )
            case Think():
                harness.take(harness.session.replied(job.response_id, reply, harness.now))
            case Speak():
                audio = tone(400) if works else None
                harness.take(harness.session.spoke(job.response_id, job.text, audio, harness.now))

    @rule(seconds=st.sampled_from([0.02, 0.5, 6.0]))
    def pass_time(self, seconds: float) -> None:
        self.harness.advance(seconds)

    @rule(kind=KINDS, field=FIELDS, value=JSON)
    def anything(self, kind: str, field: str, value: Any) -> None:
        self.harness.raw(json.dumps({"type": kind, field: value}))

    @invariant()
    def told_items_are_the_conversation(self) -> None:
        """Who follows `added` and `deleted` with their `previous_item_id` knows the items in order."""
        if not hasattr(self, "harness"):
            return
        events = self.harness.events
        added = "conversation.item.added" if self.shape is Shape.GA else "conversation.item.created"
        for event in events[self.read :]:
            if event["type"] == added:
                previous = event["previous_item_id"]
                at = self.mirror.index(previous) + 1 if previous is not None else 0
                self.mirror.insert(at, event["item"]["id"])
            elif event["type"] == "conversation.item.deleted":
                self.mirror.remove(event["item_id"])
        self.read = len(events)
        assert self.mirror == [item.id for item in self.harness.session.conversation]

    @invariant()
    def one_response_at_a_time(self) -> None:
        if hasattr(self, "harness"):
            running = [
                e["response"]["id"]
                for e in self.harness.events
                if e["type"] == "response.created" and e["response"]["conversation_id"] is not None
            ]
            done = {e["response"]["id"] for e in self.harness.events if e["type"] == "response.done"}
            assert sum(identity not in done for identity in running) <= 1

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            check_responses(self.harness.events)
            identifiers = [event["event_id"] for event in self.harness.events]
            assert len(set(identifiers)) == len(identifiers)


TestSession = SessionMachine.TestCase
TestSession.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
