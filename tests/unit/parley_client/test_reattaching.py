"""What a call remembers so that it can go on elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from parley.media.v1 import media_pb2 as pb
from parley_client import AgentAudio, ConversationEvent, Endpoint, Heard, Moved, StaticResolver, Target
from parley_client.errors import AttachRefused, ConnectError, SessionNotFound, SessionNotReady
from parley_client.reattaching import MAX_OUTPUTS, Trail
from parley_client.tape import LEAD_FRAMES, SentAudio

HERE = Target("127.0.0.1:7000", "a-ticket")


def event(attempt: int, sequence: int, type: str = "t", **data: Any) -> ConversationEvent:
    return ConversationEvent(sequence, attempt, type, data)


def attached(trail: Trail, attempt: int = 1) -> Trail:
    trail.attached(pb.Started(session_uid="u", attempt=attempt, resume_token=f"token-{attempt}"))
    return trail


class Answers:
    """A resolver that gives these by turns."""

    def __init__(self, *answers: Endpoint | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []

    async def resolve(self, uid: str, ticket: str) -> Endpoint:
        self.asked.append((uid, ticket))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_events_count_once_and_in_order_over_attempts() -> None:
    trail = attached(Trail(HERE, None))
    assert [trail.event(event(1, n)) for n in (1, 2, 2, 4)] == [0, 0, None, 1]
    # The next worker tells a last one of the first attempt, and then its own.
    assert [trail.event(event(*n)) for n in ((1, 5), (2, 1), (1, 6), (2, 3))] == [0, 0, None, 1]
    start = trail.start(again=1)
    assert (start.last_event_attempt, start.last_event_sequence) == (2, 3)


def test_a_worker_is_shown_the_token_and_the_ticket_by_turns() -> None:
    trail = attached(Trail(HERE, StaticResolver()))
    shown = [trail.start(again=n) for n in (1, 2, 3)]
    assert [s.WhichOneof("credential") for s in shown] == ["resume_token", "ticket", "resume_token"]
    assert (shown[1].ticket, shown[1].session_uid) == ("a-ticket", "u")
    alone = attached(Trail(HERE, None))
    assert alone.start(again=2).resume_token == "token-1"


def test_what_was_heard_is_what_arrived_and_was_not_thrown_away() -> None:
    trail = attached(Trail(HERE, None))
    assert not trail.start(again=1).HasField("heard")
    trail.heard(AgentAudio(b"x", "i", 0, 3, 1, 480), 0.02)
    trail.heard(AgentAudio(b"x", "", 0, 3, 2, 0), 0.02)
    assert trail.start(again=1).heard == pb.PlaybackProgress(item_id="i", played_ms=500, epoch=3)
    trail.cut(Heard("i", 0, 3, 240))
    assert trail.start(again=1).heard.played_ms == 240


async def test_a_session_is_followed_to_its_newest_place_and_to_no_older_one() -> None:
    places = Answers(
        Endpoint("127.0.0.1:7002", "", 2), ConnectError("away"), SessionNotReady("x", phase="Recovering")
    )
    trail = attached(Trail(HERE, places))
    for _ in range(3):
        await trail.look(1)
        assert trail.target.address == "127.0.0.1:7002"
    places.answers = [Endpoint("127.0.0.1:7001", "", 1)]
    await trail.look(1)
    assert trail.target.address == "127.0.0.1:7002"
    trail.moved(Moved("127.0.0.1:7003", "", 3))
    assert trail.target.address == "127.0.0.1:7003"
    assert set(places.asked) == {("u", "a-ticket")}


@pytest.mark.parametrize("over", [SessionNotFound("gone"), SessionNotReady("over", phase="Completed")])
async def test_a_session_that_is_over_is_not_looked_for(over: Exception) -> None:
    with pytest.raises(type(over)):
        await attached(Trail(HERE, Answers(over))).look(1)


def test_a_refusal_may_be_for_now_only_where_somebody_knows_better() -> None:
    unknown = AttachRefused("UNAUTHENTICATED", "m", reason="resume-token-unknown")
    moved = AttachRefused("UNAVAILABLE", "m", reason="session-moved")
    wrong = AttachRefused("INVALID_ARGUMENT", "m", reason="format-unsupported")
    alone, helped = Trail(HERE, None), Trail(HERE, StaticResolver())
    assert [alone.may_try_again(e) for e in (unknown, moved, wrong)] == [False, True, False]
    assert [helped.may_try_again(e) for e in (unknown, moved, wrong)] == [True, True, False]


def test_results_of_functions_go_again_to_the_next_attempt_until_they_are_shown() -> None:
    trail = attached(Trail(HERE, None))
    for call_id in ("c1", "c2"):
        trail.said(pb.ConverseRequest(tool_output=pb.ToolOutput(call_id=call_id)))
    trail.said(pb.ConverseRequest(dtmf=pb.Dtmf(digit="1")))
    trail.event(event(1, 1, item={"type": "function_call_output", "call_id": "c1"}))
    assert trail.again(1, None) == []
    assert [m.tool_output.call_id for m in trail.again(2, None)] == ["c2"]
    for number in range(MAX_OUTPUTS + 5):
        trail.said(pb.ConverseRequest(tool_output=pb.ToolOutput(call_id=f"n{number}")))
    assert len(trail.again(2, None)) == MAX_OUTPUTS


def said(tape: SentAudio, first: int, last: int) -> None:
    for number in range(first, last + 1):
        tape.sent(number, str(number).encode())


def test_the_newest_frames_are_kept_and_given_from_a_number_on() -> None:
    tape = SentAudio(5)
    said(tape, 1, 8)
    assert tape.take(7) == [b"7", b"8"]
    assert tape.take(1) == []
    said(tape, 1, 8)
    assert tape.take(1) == [b"4", b"5", b"6", b"7", b"8"]
    nothing = SentAudio(0)
    said(nothing, 1, 3)
    assert nothing.take(1) == []


def test_a_turn_is_said_again_until_its_words_are_known() -> None:
    tape = SentAudio(1000)
    said(tape, 1, 100)
    assert tape.take_turn() == []
    for known in ("conversation.item.input_audio_transcription.completed", "response.created"):
        said(tape, 1, 100)
        tape.event("input_audio_buffer.speech_started")
        said(tape, 101, 120)
        again = tape.take_turn()
        assert again == [str(n).encode() for n in range(100 - LEAD_FRAMES, 121)]
        said(tape, 1, 100)
        tape.event("input_audio_buffer.speech_started")
        tape.event(known)
        assert tape.take_turn() == []


def test_what_the_worker_that_moved_did_not_take_is_said_again_in_order() -> None:
    trail = attached(Trail(HERE, None))
    trail.said(pb.ConverseRequest(dtmf=pb.Dtmf(digit="1")))
    trail.said(pb.ConverseRequest(mark_played=pb.MarkPlayed(name="m")))
    trail.said(pb.ConverseRequest(dtmf=pb.Dtmf(digit="3")))
    trail.said(pb.ConverseRequest(progress=pb.PlaybackProgress(item_id="i")))
    trail.said(pb.ConverseRequest(tool_output=pb.ToolOutput(call_id="c5")))
    trail.said(pb.ConverseRequest(clear=pb.ClearRequest()))

    def again(first: int) -> list[str]:
        moved = Moved("h:1", "", 2, 0, first)
        return [str(m.WhichOneof("message")) for m in trail.again(2, moved)]

    # What was heard there is told on attaching; a result goes once, though for two reasons.
    assert again(2) == ["dtmf", "tool_output", "clear"]
    assert again(6) == ["tool_output", "clear"]
    assert again(7) == ["tool_output"]
    # A worker of before this field, or one that nobody heard: only what none takes twice.
    assert again(0) == ["tool_output"]
    assert [m.WhichOneof("message") for m in trail.again(2, None)] == ["tool_output"]
    # Each stream counts anew.
    attached(trail, attempt=2)
    assert again(1) == []
