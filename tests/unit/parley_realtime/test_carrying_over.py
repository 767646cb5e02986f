"""Whatever happened in a conversation, a new connection is given what the old one held: no more, no less.

The old and the new provider are the local provider's own core, without sockets and in virtual time.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_session import Harness, silence, tone
from parley_local.core.effects import Call, Reply, Say, Think
from parley_local.core.settings import Shape
from parley_realtime.protocol.held import HeldAudio
from parley_realtime.protocol.history import ConversationHistory
from parley_realtime.protocol.restore import Refusal, RestoreCheck, RestorePlan, plan_restore

GA_SESSION = {
    "type": "realtime",
    "instructions": "be brief",
    "output_modalities": ["audio"],
    "audio": {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": None}},
}
BETA_SESSION = {
    "instructions": "be brief",
    "modalities": ["text", "audio"],
    "input_audio_transcription": {"model": "whisper-1"},
    "turn_detection": None,
}
TEXT = st.text("abc de", min_size=1, max_size=20).filter(lambda text: text.strip())
ACTIONS = st.one_of(
    st.tuples(st.just("user"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("system"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("speak"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("answer"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("write"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("call"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("image"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("delete"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("truncate"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("update"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("bad update"), TEXT, st.integers(0, 9)),
    st.tuples(st.just("aside"), TEXT, st.integers(0, 9)),
)


class Watched:
    """A provider, and the history of it that is kept from outside."""

    def __init__(self, shape: Shape, history: ConversationHistory | None = None) -> None:
        self.harness = Harness(shape, pace=0.0)
        self.history = ConversationHistory() if history is None else history
        self.beta = shape is Shape.BETA
        self._fed = 0
        self.sent = 0
        self.follow()

    def follow(self) -> None:
        for event in self.harness.events[self._fed :]:
            if event["type"] in ("response.output_audio.delta", "response.audio.delta"):
                size = len(base64.b64decode(event["delta"]))
                self.history.audio(event["item_id"], event["content_index"], size / 48)
            else:
                self.history.server(event)
        self._fed = len(self.harness.events)

    def send(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        self.sent += 1
        event = {"type": kind, "event_id": f"client_{self.sent}", **fields}
        self.history.client(event)
        events = self.harness.send(kind, event_id=event["event_id"], **fields)
        self.follow()
        return events

    def respond(self, *reply: Any, **response: Any) -> None:
        answer: Reply = tuple(reply)

        def brain(_: Think) -> Reply:
            return answer

        self.send("response.create", response=response)
        length = sum(60 * len(part.text) for part in answer if isinstance(part, Say))
        self.harness.finish_work(brain, heard="what was said", audio=bytes(48 * length))
        self.harness.advance(0.1)
        self.follow()

    def items(self) -> list[Any]:
        return list(self.harness.session.conversation)

    def seen(self) -> list[dict[str, Any]]:
        """What the provider itself holds, in the words of `canonical`."""
        seen = []
        for item in self.items():
            body: dict[str, Any] = {"id": item.id, "type": item.kind}
            if item.kind != "message":
                seen.append(body | item.fields)
                continue
            images = [part.extra for part in item.content if part.kind == "input_image"]
            if not item.words.strip() and not images:
                continue
            body |= {"role": item.role, "words": item.words}
            seen.append(body | ({"images": images} if images else {}))
        return seen


def act(talk: Watched, action: tuple[str, str, int]) -> None:
    kind, text, number = action
    items = talk.items()
    chosen = items[number % len(items)] if items else None
    ids = ["root", *(item.id for item in items)]
    where = {"previous_item_id": ids[number % len(ids)]} if number % 3 == 0 else {}
    match kind:
        case "user" | "system":
            part = {"type": "input_text", "text": text}
            item = {
                "type": "message",
                "role": kind,
                "content": [part],
                "id": f"mine_{len(ids)}_{talk.sent}",
            }
            events = talk.send("conversation.item.create", item=item, **where)
            if where.get("previous_item_id") == "root" and events[0]["type"] != "error":
                move_first(talk, item["id"])
        case "image":
            image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
            talk.send(
                "conversation.item.create", item={"type": "message", "role": "user", "content": [image]}
            )
        case "speak":
            audio = base64.b64encode(tone(200 + 20 * number)).decode()
            talk.send("input_audio_buffer.append", audio=audio)
            talk.send("input_audio_buffer.commit")
            talk.harness.finish_work(lambda _: (), heard=text if number % 4 else "")
            talk.follow()
        case "answer":
            talk.respond(Say(text))
        case "write":
            modalities = "modalities" if talk.beta else "output_modalities"
            talk.respond(Say(text), **{modalities: ["text"]})
        case "aside":
            talk.respond(Say(text), conversation="none")
        case "call":
            talk.respond(Call("lookup", {"key": text}))
            called = [item for item in talk.items() if item.kind == "function_call"]
            output = {"type": "function_call_output", "call_id": called[-1].fields["call_id"], "output": text}
            talk.send("conversation.item.create", item=output)
        case "delete" if chosen is not None:
            talk.send("conversation.item.delete", item_id=chosen.id)
        case "truncate" if chosen is not None:
            talk.send(
                "conversation.item.truncate", item_id=chosen.id, content_index=0, audio_end_ms=number * 60
            )
        case "update":
            talk.send("session.update", session=update(talk, instructions=text))
        case "bad update":
            talk.send("session.update", session=update(talk, instructions=text, nonsense=1))


def update(talk: Watched, **fields: Any) -> dict[str, Any]:
    return fields if talk.beta else {"type": "realtime", **fields}


def move_first(talk: Watched, item_id: str) -> None:
    """What the keeper does: a provider does not say of an item that it was put before all others."""
    item = talk.history._items.get(item_id)
    if item is not None:
        talk.history._items.move_to_end(item_id, last=False)


def restored(old: Watched) -> tuple[Watched, RestorePlan]:
    """A new provider that was given the plan; every echo checked."""
    plan = plan_restore(
        old.history, ga=not old.beta, transcription=True, audio_base64=lambda b: base64.b64encode(b).decode()
    )
    assert isinstance(plan, RestorePlan), plan
    new = Watched(Shape.BETA if old.beta else Shape.GA)
    check = RestoreCheck(plan)
    events = [] if plan.update is None else [plan.update]
    for event in (*events, *plan.creates):
        fields = {name: value for name, value in event.items() if name != "type"}
        new.history.client(event)
        for echo in new.harness.send(event["type"], **fields):
            check.server(echo)
    new.follow()
    assert check.complete, check.failed
    return new, plan


@pytest.mark.parametrize("shape", [Shape.GA, Shape.BETA])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(ACTIONS, max_size=14))
def test_a_new_connection_holds_what_the_old_one_held(
    shape: Shape, actions: list[tuple[str, str, int]]
) -> None:
    old = Watched(shape)
    old.send("session.update", session=GA_SESSION if shape is Shape.GA else BETA_SESSION)
    for action in actions:
        act(old, action)
    truncated = {item.id for item in old.history if any(part.truncated_ms is not None for part in item.parts)}
    ours = [item for item in old.history.canonical() if item["id"] not in truncated]
    theirs = [item for item in old.seen() if item["id"] not in truncated]
    assert ours == theirs, "the history is what the provider holds"
    new, plan = restored(old)
    assert new.seen() == old.history.canonical()
    assert new.history.canonical() == old.history.canonical()
    before, after = old.harness.session.settings, new.harness.session.settings
    assert after == before
    again, second = restored(new)
    assert again.seen() == new.seen()
    assert [c["item"] for c in second.creates] == [c["item"] for c in plan.creates]


@pytest.mark.parametrize("shape", [Shape.GA, Shape.BETA])
def test_an_answer_is_carried_over_up_to_what_was_heard(shape: Shape) -> None:
    talk = Watched(shape)
    talk.respond(Say("one two three four five six seven eight"))
    (item,) = talk.items()
    total = item.content[0].duration_ms
    talk.send("conversation.item.truncate", item_id=item.id, content_index=0, audio_end_ms=int(total / 2))
    (kept,) = talk.history.canonical()
    assert kept["words"] in ("one two three", "one two three four")
    new, _ = restored(talk)
    assert new.seen() == [kept]
    (carried,) = new.items()
    assert carried.content[0].kind == "text"


def test_what_was_never_heard_is_not_carried_over() -> None:
    talk = Watched(Shape.GA)
    talk.harness.user_says("hello")
    talk.respond(Say("never heard"))
    item = talk.items()[-1]
    talk.send("conversation.item.truncate", item_id=item.id, content_index=0, audio_end_ms=0)
    new, plan = restored(talk)
    assert [i["words"] for i in new.seen()] == ["hello"]
    assert item.id not in plan.ids


def plan_of(talk: Watched, *, transcription: bool) -> RestorePlan | Refusal:
    return plan_restore(
        talk.history,
        ga=True,
        transcription=transcription,
        audio_base64=lambda b: base64.b64encode(b).decode(),
    )


def spoken_turn(talk: Watched) -> str:
    talk.send("session.update", session={**GA_SESSION, "audio": {"input": {"turn_detection": None}}})
    talk.send("input_audio_buffer.append", audio=base64.b64encode(tone(300) + silence(100)).decode())
    talk.send("input_audio_buffer.commit")
    return str(talk.items()[-1].id)


def test_speech_without_a_transcript_is_refused_and_the_remedy_named() -> None:
    talk = Watched(Shape.GA)
    spoken_turn(talk)
    off = plan_of(talk, transcription=False)
    assert isinstance(off, Refusal)
    assert "input transcription is off" in off.reason
    assert "session.audio.input.transcription" in off.reason
    on = plan_of(talk, transcription=True)
    assert isinstance(on, Refusal)
    assert "never transcribed" in on.reason


def test_speech_without_a_transcript_is_carried_over_as_audio_while_it_is_held() -> None:
    talk = Watched(Shape.GA, ConversationHistory(max_held=40_000))
    item_id = spoken_turn(talk)
    talk.history.hold(item_id, HeldAudio(tone(300)))
    plan = plan_of(talk, transcription=False)
    assert isinstance(plan, RestorePlan)
    (part,) = plan.creates[0]["item"]["content"]
    assert base64.b64decode(part["audio"]) == tone(300)
    talk.history.hold(spoken_turn(talk), HeldAudio(tone(800)))
    assert isinstance(plan_of(talk, transcription=False), Refusal), "the older audio was let go"


def test_an_item_too_big_to_keep_is_refused_by_name() -> None:
    history = ConversationHistory()
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * (3 * 1024 * 1024)}
    item = {"id": "item_big", "type": "message", "role": "user", "content": [image]}
    history.server({"type": "conversation.item.added", "item": item, "previous_item_id": None})
    plan = plan_restore(history, ga=True, transcription=True, audio_base64=None)
    assert isinstance(plan, Refusal)
    assert "item_big is too big" in plan.reason


def test_the_oldest_items_go_first_and_results_go_with_their_calls() -> None:
    history = ConversationHistory(max_items=3)
    call = {"id": "call", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    output = {"id": "output", "type": "function_call_output", "call_id": "c1", "output": "1"}
    texts = [
        {"id": f"t{i}", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
        for i in range(2)
    ]
    for item in (call, output, *texts):
        history.server({"type": "conversation.item.added", "item": item})
    assert [item.id for item in history] == ["t0", "t1"]
    assert history.forgotten == 2


def test_a_truncation_is_never_made_longer() -> None:
    talk = Watched(Shape.GA)
    talk.respond(Say("one two three four five six seven eight"))
    item_id = talk.items()[0].id
    talk.history.truncate(item_id, 0, 600)
    talk.history.truncate(item_id, 0, 2000)
    item = talk.history.get(item_id)
    assert item is not None
    assert item.parts[0].truncated_ms == 600
