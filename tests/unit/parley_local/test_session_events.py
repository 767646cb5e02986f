"""The order and content of server events, in both shapes, as captured from the real service."""

from __future__ import annotations

import base64

import pytest
from local_session import Harness, error_of, silence, tone
from parley_local.core.effects import Call, Say, Think, ToolResult, ToolUse, Utterance
from parley_local.core.settings import Shape

GA_TEXT = [
    "session.created", "session.updated", "conversation.item.added", "conversation.item.done",
    "response.created", "response.output_item.added", "conversation.item.added",
    "response.content_part.added",
    "response.output_text.delta", "response.output_text.done", "response.content_part.done",
    "conversation.item.done", "response.output_item.done", "response.done", "rate_limits.updated",
]  # fmt: skip
BETA_AUDIO = [
    "session.created", "conversation.created", "session.updated", "conversation.item.created",
    "response.created", "rate_limits.updated", "response.output_item.added", "conversation.item.created",
    "response.content_part.added", "response.audio_transcript.delta", "response.audio.delta",
    "response.audio.done", "response.audio_transcript.done", "response.content_part.done",
    "response.output_item.done", "response.done",
]  # fmt: skip


def test_text_response_in_ga_order() -> None:
    harness = Harness()
    harness.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("one two three four five six"),))
    assert harness.types == GA_TEXT
    done = harness.last("response.done")["response"]
    assert done["status"] == "completed"
    assert done["output"][0]["content"] == [{"type": "output_text", "text": "one two three four five six"}]
    deltas = [event["delta"] for event in harness.events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == "one two three four five six"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0
    assert len({event["event_id"] for event in harness.events}) == len(harness.events)


def test_audio_response_in_beta_order() -> None:
    harness = Harness(Shape.BETA)
    harness.send("session.update", session={"instructions": "x"})
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("good day to you"),), audio=tone(400))
    assert harness.types == BETA_AUDIO
    part = harness.last("response.content_part.done")["part"]
    assert part == {"type": "audio", "transcript": "good day to you"}
    assert harness.last("conversation.item.created")["item"]["role"] == "assistant"


def test_audio_is_cut_in_150_ms_deltas_and_nothing_is_lost() -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create")
    speech = tone(1000)
    harness.finish_work(lambda _: (Say("a b c"),), audio=speech)
    deltas = [
        base64.b64decode(e["delta"]) for e in harness.events if e["type"] == "response.output_audio.delta"
    ]
    assert b"".join(deltas) == speech
    assert {len(delta) for delta in deltas[:-1]} == {150 * 48}


def test_audio_is_paced_and_ends_after_its_share_of_real_time() -> None:
    harness = Harness(pace=4.0)
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("a b c"),), audio=tone(2000))
    assert "response.done" not in harness.types
    harness.advance(0.4)
    assert "response.done" not in harness.types
    harness.advance(0.2)
    assert harness.types[-2:] == ["response.done", "rate_limits.updated"]


def test_function_call_events_and_the_result_in_the_history() -> None:
    harness = Harness()
    tool = {"type": "function", "name": "look_up", "parameters": {}}
    harness.send("session.update", session={"type": "realtime", "tools": [tool]})
    harness.user_says("look it up")
    mark = len(harness.types)
    harness.send("response.create")
    harness.finish_work(lambda _: (Call("look_up", {"key": "a" * 30}),))
    assert harness.types[mark:] == [
        "response.created", "response.output_item.added", "conversation.item.added",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "conversation.item.done", "response.output_item.done", "response.done", "rate_limits.updated",
    ]  # fmt: skip
    call = harness.last("response.function_call_arguments.done")
    assert call["name"] == "look_up"
    item = {"type": "function_call_output", "call_id": call["call_id"], "output": "42"}
    harness.send("conversation.item.create", item=item)
    harness.send("response.create")
    (think,) = harness.work
    assert isinstance(think, Think)
    assert think.request.history == (
        Utterance("user", "look it up"),
        ToolUse(call["call_id"], "look_up", call["arguments"]),
        ToolResult("look_up", "42", call["call_id"]),
    )
    assert think.request.functions == (tool,)
    assert think.request.tools == ("look_up",)


def test_tool_choice_none_drops_calls() -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create", response={"tool_choice": "none"})
    harness.finish_work(lambda _: (Call("f"),))
    assert harness.last("response.done")["response"]["output"] == []


def test_server_vad_turn_with_transcription() -> None:
    harness = Harness()
    turns = {"type": "server_vad", "silence_duration_ms": 200}
    audio = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": turns}}
    harness.send("session.update", session={"type": "realtime", "audio": audio})
    harness.append(silence(1000) + tone(800) + silence(600))
    started, stopped = (
        harness.last("input_audio_buffer.speech_started"),
        harness.last("input_audio_buffer.speech_stopped"),
    )
    assert started["audio_start_ms"] == pytest.approx(700, abs=40)  # 1000 less the prefix padding of 300
    assert stopped["audio_end_ms"] == pytest.approx(2000, abs=40)  # 1800 and the silence of 200
    assert started["item_id"] == stopped["item_id"] == harness.last("input_audio_buffer.committed")["item_id"]
    (transcribe,) = harness.work
    assert len(transcribe.audio) / 48 == pytest.approx(1300, abs=80)  # type: ignore[union-attr]
    harness.finish_work(lambda think: (Say(think.request.history[-1].text),), heard="good day")  # type: ignore[union-attr]
    completed = harness.last("conversation.item.input_audio_transcription.completed")
    assert completed["transcript"] == "good day"
    assert completed["usage"]["type"] == "duration"
    assert harness.last("response.output_audio_transcript.done")["transcript"] == "good day"
    kinds = harness.types
    assert kinds.index("response.created") > kinds.index("conversation.item.done")


def test_failed_recognition_is_said_and_the_turn_goes_on() -> None:
    harness = Harness(Shape.BETA)
    harness.send("session.update", session={"input_audio_transcription": {"model": "whisper-1"}})
    harness.append(tone(500) + silence(700))
    harness.finish_work(lambda _: (Say("pardon"),), heard=None)
    assert "conversation.item.input_audio_transcription.failed" in harness.types
    assert harness.last("response.done")["response"]["status"] == "completed"


def test_barge_in_cancels_and_closes_the_open_item() -> None:
    harness = Harness(pace=2.0)
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("a long answer"),), audio=tone(4000))
    harness.advance(0.5)
    mark = len(harness.events)
    harness.append(tone(200))
    kinds = [event["type"] for event in harness.events[mark:]]
    assert kinds == [
        "input_audio_buffer.speech_started", "response.output_audio.done",
        "response.output_audio_transcript.done", "response.content_part.done", "conversation.item.done",
        "response.output_item.done", "response.done", "rate_limits.updated",
    ]  # fmt: skip
    done = harness.last("response.done")["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["status"] == "incomplete"
    assert harness.advance(5) == []


def test_no_interruption_when_the_session_says_so() -> None:
    harness = Harness(pace=2.0)
    turns = {"type": "server_vad", "interrupt_response": False, "create_response": False}
    harness.send(
        "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": turns}}}
    )
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("a long answer"),), audio=tone(2000))
    harness.append(tone(500) + silence(700))
    assert "response.done" not in harness.types
    harness.advance(2)
    assert harness.last("response.done")["response"]["status"] == "completed"
    assert harness.types.count("response.created") == 1


def test_cancel_and_late_work_is_ignored() -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create")
    (think,) = harness.work
    harness.send("response.cancel")
    done = harness.last("response.done")["response"]
    assert done["status_details"]["reason"] == "client_cancelled"
    assert harness.take(harness.session.replied(think.response_id, (Say("late"),), harness.now)) == []  # type: ignore[union-attr]
    assert error_of(harness.send("response.cancel"))["code"] == "response_cancel_not_active"


def test_truncate_shortens_audio_and_removes_the_transcript() -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("some words"),), audio=tone(1000))
    item_id = harness.last("response.output_item.done")["item"]["id"]
    where = {"item_id": item_id, "content_index": 0}
    refused = error_of(harness.send("conversation.item.truncate", **where, audio_end_ms=1500))
    assert refused["message"] == "Audio content of 1000ms is already shorter than 1500ms"
    assert refused["code"] is None
    (event,) = harness.send("conversation.item.truncate", **where, audio_end_ms=400)
    assert (event["type"], event["audio_end_ms"]) == ("conversation.item.truncated", 400)
    harness.send("conversation.item.retrieve", item_id=item_id)
    content = harness.last("conversation.item.retrieved")["item"]["content"][0]
    assert len(base64.b64decode(content["audio"])) == 400 * 48
    assert content["transcript"] == ""


def test_out_of_band_response_leaves_the_conversation_alone() -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create")
    entry = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "aside"}]}
    request = {
        "conversation": "none",
        "output_modalities": ["text"],
        "input": [entry],
        "metadata": {"k": "v"},
    }
    harness.send("response.create", response=request)
    aside = harness.work.pop()
    assert aside.request.history == (Utterance("user", "aside"),)  # type: ignore[union-attr]
    mark = len(harness.events)
    harness.take(harness.session.replied(aside.response_id, (Say("ok"),), harness.now))  # type: ignore[union-attr]
    kinds = [event["type"] for event in harness.events[mark:]]
    assert "conversation.item.added" not in kinds
    done = harness.last("response.done")["response"]
    assert (done["conversation_id"], done["metadata"]) == (None, {"k": "v"})


def test_output_budget_ends_a_response_as_incomplete() -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create", response={"max_output_tokens": 10})
    harness.finish_work(lambda _: (Say("many words of a long answer"),), audio=tone(5000))
    done = harness.last("response.done")["response"]
    assert (done["status"], done["status_details"]["reason"]) == ("incomplete", "max_output_tokens")


@pytest.mark.parametrize("broken", ["brain", "voice"])
def test_a_broken_part_fails_the_response_only(broken: str) -> None:
    harness = Harness()
    harness.user_says("hi")
    harness.send("response.create")
    if broken == "brain":
        think = harness.work.pop()
        harness.take(harness.session.replied(think.response_id, None, harness.now))  # type: ignore[union-attr]
    else:
        harness.finish_work(lambda _: (Say("x"),), audio=None)
    assert harness.last("response.done")["response"]["status"] == "failed"
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("x"),))
    assert harness.last("response.done")["response"]["status"] == "completed"


def test_idle_timeout_asks_for_another_answer() -> None:
    harness = Harness()
    turns = {"type": "server_vad", "idle_timeout_ms": 5000}
    harness.send(
        "session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": turns}}}
    )
    harness.user_says("hi")
    harness.send("response.create")
    harness.finish_work(lambda _: (Say("x"),), audio=tone(1000))
    harness.append(silence(400))
    assert harness.advance(5.9) == []
    kinds = [event["type"] for event in harness.advance(0.2)]
    assert kinds[:2] == ["input_audio_buffer.timeout_triggered", "input_audio_buffer.committed"]
    assert kinds[-1] == "response.created"


def test_the_session_ends_at_its_longest_duration() -> None:
    harness = Harness(max_duration_s=3600.0)
    harness.advance(3601)
    (close,) = harness.closed
    assert (close.code, close.reason) == (1001, "Your session hit the maximum duration of 60 minutes.")
    assert harness.send("response.create") == []


@pytest.mark.parametrize("shape", list(Shape))
def test_transcription_session(shape: Shape) -> None:
    harness = Harness(shape, transcription_only=True)
    turns = {"type": "server_vad", "silence_duration_ms": 300}
    transcription = {"model": "gpt-4o-transcribe"}
    if shape is Shape.GA:
        audio = {"input": {"transcription": transcription, "turn_detection": turns}}
        harness.send("session.update", session={"type": "transcription", "audio": audio})
        assert harness.last("session.updated")["session"]["object"] == "realtime.transcription_session"
    else:
        update = {"input_audio_transcription": transcription, "turn_detection": turns}
        harness.send("transcription_session.update", session=update)
        assert harness.types == ["transcription_session.created", "transcription_session.updated"]
    harness.append(tone(600) + silence(600))
    harness.finish_work(lambda _: (), heard="words")
    completed = harness.last("conversation.item.input_audio_transcription.completed")
    assert (completed["transcript"], completed["usage"]["type"]) == ("words", "tokens")
    assert "response.created" not in harness.types
    assert error_of(harness.send("response.create"))["code"] == "invalid_value"
