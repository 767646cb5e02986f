"""The declarative scenario, in virtual time, with a provider of its own making."""

from __future__ import annotations

import json
from typing import Any

import pytest
from parley_worker.codec.events_pb import encode
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.agent import Behaviour, Line
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.behaviour import CLOSING_SECONDS, HANG_UP
from parley_worker.core.lines import ANSWER_SECONDS, MAX_LINES, LineEnd, Lines, say_instructions
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import (
    AccessConfig,
    EndReason,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
    SessionState,
)
from parley_worker.core.playout import PlayoutLedger
from parley_worker.core.session import Session, SessionBounds

PCM24 = PROVIDER_FORMATS["pcm16"]
ANSWER_MS = 1000


class Talk:
    """A session whose provider makes a second of audio for every response that is asked for."""

    def __init__(
        self, behaviour: Behaviour, *, greet: bool = False, echoes: bool = True, **session: Any
    ) -> None:
        config = SessionConfig(
            key=SessionKey("ns", "name", "uid", 1),
            provider=ProviderConfig("ws://p", "ga", "m", Secret("sk-secret")),
            session=session,
            greet=greet,
            limits=LimitsConfig(max_duration=600, idle_timeout=300, attach_timeout=30, reattach_timeout=20),
            access=AccessConfig(b"t" * 32),
            behaviour=behaviour,
        )
        self.now = 100.0
        self.echoes = echoes
        self.answers = True
        self.session = Session(config, SessionBounds(), self.now, 0.0)
        self.asked: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.records: list[Any] = []
        self._number = 0
        self._active: str | None = None
        self._do(self.session.start(self.now))
        self.feed(ev.ProviderOpened("client", "socket"))
        self.provider("session.updated", session={"turn_detection": {"type": "server_vad"}})
        self.attach()

    def attach(self, kind: ev.CredentialKind = ev.CredentialKind.TICKET) -> None:
        request = ev.AttachRequest(kind, PCM24, PCM24, PlayoutMode.REALTIME)
        self.feed(ev.LegAttached(request, "token"))

    def feed(self, event: ev.Event) -> None:
        self._do(self.session.handle(event, self.now))

    def provider(self, type_: str, **fields: Any) -> None:
        self.feed(ev.ProviderMessage({"type": type_, **fields}))

    def _do(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Publish):
                encode(effect.record, "worker", "instance")
                self.records.append(effect.record)
            elif isinstance(effect, fx.SendProvider):
                self.sent.append(dict(effect.event))
                if effect.event["type"] == "response.create":
                    self.asked.append(dict(effect.event))
                    if self.answers:
                        self.begin(effect.event.get("response", {}).get("metadata"))
                elif effect.event["type"] == "response.cancel" and self._active:
                    self.finish("cancelled")

    def begin(self, metadata: object = None) -> None:
        self._number += 1
        self._active = f"r{self._number}"
        echoed = metadata if self.echoes else None
        self.provider("response.created", response={"id": self._active, "metadata": echoed})

    def finish(self, status: str = "completed", call: str = "", spoken: bool = True) -> None:
        """The response ends: with audio, which is played from now on, and perhaps with a function call."""
        response_id, self._active = str(self._active), None
        item = f"i{self._number}"
        if spoken and status == "completed":
            ledger = self.session.ledger
            ledger.received((item, 0), self._number, ANSWER_MS, self.now)
            ledger.done((item, 0))
            for at in range(0, ANSWER_MS, 20):
                ledger.sent((item, 0), at, 20, self.now + at / 1000)
            message = {"id": item, "type": "message", "role": "assistant"}
            self.provider("response.output_item.done", response_id=response_id, item=message)
        if call:
            fields = {"type": "function_call", "name": call, "call_id": "call-1", "arguments": "{}"}
            self.provider("response.output_item.done", response_id=response_id, item=fields)
        self.provider("response.done", response={"id": response_id, "status": status})

    def until(self, seconds: float) -> None:
        """Let time pass, with every deadline on the way."""
        end = self.now + seconds
        for _ in range(1000):
            due = self.session.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.feed(ev.DeadlineReached())
        else:
            raise AssertionError("deadlines do not move on")
        self.now = end

    def hear(self) -> None:
        """The response that was asked for is made and heard."""
        self.finish()
        self.until(ANSWER_MS / 1000 + 0.5)

    def says(self, words: str) -> None:
        """A turn of the caller, transcribed; the provider answers by itself."""
        self.provider("input_audio_buffer.speech_started", item_id="u", audio_start_ms=0)
        self.now += 1
        self.provider("input_audio_buffer.speech_stopped", item_id="u", audio_end_ms=1000)
        self.begin()
        self.provider("conversation.item.input_audio_transcription.completed", item_id="u", transcript=words)

    @property
    def lines(self) -> list[str]:
        return [event.get("response", {}).get("instructions", "") for event in self.asked]

    @property
    def end(self) -> EndReason | None:
        return self.session.report.end_reason

    def said(self) -> list[object]:
        return [r.fields["rule"] for r in self.records if r.type == "line_said"]


def test_a_greeting_is_said_word_for_word_and_once_in_a_session() -> None:
    talk = Talk(Behaviour(greeting=Line('Hello, "you".')), greet=True)
    assert talk.lines == ['Say exactly this, word for word: "Hello, \\"you\\"."']
    assert talk.asked[0]["response"]["tool_choice"] == "none"
    talk.hear()
    assert talk.said() == ["greeting"]
    talk.feed(ev.LegLost("cancelled"))
    talk.attach(ev.CredentialKind.RESUME)
    assert len(talk.asked) == 1


def test_a_greeting_may_be_left_to_the_model() -> None:
    assert Talk(Behaviour(greeting=Line(instructions="Greet warmly."))).lines == ["Greet warmly."]
    assert Talk(Behaviour(), greet=True).asked == [{"type": "response.create"}]
    assert Talk(Behaviour()).asked == []


def test_a_line_waits_for_the_response_in_its_way() -> None:
    talk = Talk(Behaviour(idle_after=10, idle_lines=(Line("Still there?"),)))
    talk.begin()
    talk.until(9)
    assert talk.asked == []
    talk.finish()
    talk.until(12)
    assert talk.lines == [say_instructions("Still there?")]


def test_a_line_that_met_a_response_of_the_provider_is_asked_for_again() -> None:
    talk = Talk(Behaviour())
    talk.answers = False
    talk.session._acts._say(Line("Hello."), "scenario")
    talk.feed(ev.DeadlineReached())
    refused = {"code": "conversation_already_has_active_response", "event_id": talk.asked[0]["event_id"]}
    talk.begin()
    talk.provider("error", error=refused)
    assert len(talk.asked) == 1
    talk.answers = True
    talk.hear()
    assert talk.lines == [say_instructions("Hello.")] * 2


def test_the_hang_up_tool_is_offered_and_kept_when_tools_are_updated() -> None:
    weather = {"type": "function", "name": "weather"}
    talk = Talk(Behaviour(hang_up_tool=True), tools=[weather])
    offered = next(e for e in talk.sent if e["type"] == "session.update")["session"]["tools"]
    assert [tool["name"] for tool in offered] == ["weather", HANG_UP]
    talk.feed(ev.LegSaid(ev.ClientEvent({"type": "session.update", "session": {"tools": []}})))
    assert [tool["name"] for tool in talk.sent[-1]["session"]["tools"]] == [HANG_UP]
    talk.feed(ev.LegSaid(ev.ClientEvent({"type": "session.update", "session": {"voice": "x"}})))
    assert "tools" not in talk.sent[-1]["session"]
    assert all("tools" not in e["session"] for e in Talk(Behaviour()).sent if e["type"] == "session.update")


@pytest.mark.parametrize("spoken", [True, False])
def test_the_model_hangs_up_after_its_goodbye_was_heard(spoken: bool) -> None:
    talk = Talk(Behaviour(hang_up_tool=True))
    talk.begin()
    talk.finish(call=HANG_UP, spoken=spoken)
    outputs = [e["item"] for e in talk.sent if e["type"] == "conversation.item.create"]
    assert outputs == [
        {
            "type": "function_call_output",
            "call_id": "call-1",
            "output": '{"result": "the call is being ended"}',
        }
    ]
    if not spoken:
        assert talk.lines == ["Say goodbye to the caller in one short sentence."]
        talk.finish()
    talk.until(ANSWER_MS / 1000 - 0.2)
    assert talk.end is None
    talk.until(1)
    assert talk.end is EndReason.AGENT_HANGUP


def test_a_farewell_follows_the_call_of_the_tool_and_is_heard() -> None:
    talk = Talk(Behaviour(hang_up_tool=True, farewell=Line("Bye.")))
    talk.begin()
    talk.finish(call=HANG_UP)
    assert talk.asked == []
    talk.until(1.2)
    assert talk.lines == [say_instructions("Bye.")]
    talk.finish()
    talk.until(0.5)
    assert talk.end is None
    talk.until(1)
    assert talk.end is EndReason.AGENT_HANGUP
    assert talk.said() == ["farewell"]
    assert talk.session.report.end_message == "the agent ended the call"


@pytest.mark.parametrize(
    ("words", "ends"),
    [("OK, good-bye then!", True), ("GOOD BYE", True), ("a good byelaw", False), ("", False)],
)
def test_a_phrase_of_the_caller_ends_the_call_after_the_farewell(words: str, ends: bool) -> None:
    talk = Talk(Behaviour(hang_up_phrases=("good bye",), farewell=Line("See you.")))
    talk.says(words)
    if not ends:
        assert talk.asked == []
        return
    assert {"type": "response.cancel"} in talk.sent
    assert talk.lines == [say_instructions("See you.")]
    talk.hear()
    assert talk.end is EndReason.AGENT_HANGUP


def test_a_farewell_that_the_caller_talks_over_ends_the_call_all_the_same() -> None:
    talk = Talk(Behaviour(hang_up_phrases=("bye",), farewell=Line("See you.")))
    talk.says("bye")
    talk.finish()
    talk.provider("input_audio_buffer.speech_started", item_id="v", audio_start_ms=0)
    assert talk.end is EndReason.AGENT_HANGUP


def test_a_farewell_that_is_never_made_ends_the_call_in_time() -> None:
    talk = Talk(Behaviour(hang_up_phrases=("bye",), farewell=Line("See you.")))
    talk.answers = False
    talk.says("bye")
    talk.until(CLOSING_SECONDS + 1)
    assert talk.end is EndReason.AGENT_HANGUP


def test_reminders_come_one_by_one_and_then_the_call_ends() -> None:
    lines = (Line("Are you still there?"), Line("Hello?"))
    talk = Talk(Behaviour(idle_after=10, idle_lines=lines))
    for number in (1, 2):
        talk.until(9)
        assert len(talk.asked) == number - 1
        talk.until(1.5)
        assert len(talk.asked) == number
        talk.hear()
    talk.until(12)
    assert talk.end is EndReason.IDLE_TIMEOUT
    assert talk.session.report.end_message == "nobody spoke for 10 s after 2 reminders"


@pytest.mark.parametrize("answer", ["speech", "key"])
def test_reminders_begin_anew_when_the_caller_speaks_or_presses_a_key(answer: str) -> None:
    talk = Talk(Behaviour(idle_after=10, idle_lines=(Line("Hello?"),)))
    talk.until(10.5)
    talk.hear()
    if answer == "key":
        talk.feed(ev.LegSaid(ev.Dtmf("1")))
    else:
        talk.says("yes")
        talk.hear()
    talk.until(8)
    assert talk.end is None
    talk.until(3)
    talk.hear()
    assert len(talk.asked) == 2
    talk.until(12)
    assert talk.end is EndReason.IDLE_TIMEOUT


def test_reminders_need_not_end_the_call_and_stop_while_nobody_is_attached() -> None:
    talk = Talk(Behaviour(idle_after=10, idle_lines=(Line("Hello?"),), idle_hang_up=False))
    talk.feed(ev.LegLost("cancelled"))
    talk.until(15)
    assert talk.asked == []
    talk.attach(ev.CredentialKind.RESUME)
    talk.until(11)
    talk.hear()
    talk.until(100)
    assert len(talk.asked) == 1
    assert talk.end is None


def test_goodbye_is_said_before_the_maximum_duration() -> None:
    talk = Talk(Behaviour(goodbye_before=20, goodbye=Line("I have to go.")))
    for _ in range(3):
        talk.until(190)
        talk.says("go on")
        talk.hear()
    talk.until(576 - (talk.now - 100))
    assert talk.asked == []
    talk.until(8)
    assert talk.lines == [say_instructions("I have to go.")]
    talk.hear()
    assert talk.said() == ["goodbye"]
    talk.until(20)
    assert talk.end is EndReason.MAX_DURATION


def test_goodbye_is_said_before_the_worker_goes_away() -> None:
    talk = Talk(Behaviour(goodbye_before=20, goodbye=Line("I have to go.")))
    talk.feed(ev.DrainAnnounced(talk.now + 60))
    talk.until(39)
    assert talk.lines == []
    talk.until(2)
    assert talk.lines == [say_instructions("I have to go.")]
    talk.hear()
    assert talk.said() == ["goodbye"]


def test_goodbye_cuts_an_answer_that_is_too_long_and_is_heard_past_the_limit() -> None:
    talk = Talk(Behaviour(goodbye_before=20, goodbye=Line("I have to go.")))
    for _ in range(2):
        talk.until(250)
        talk.says("go on")
        talk.hear()
    talk.until(578 - (talk.now - 100))
    talk.begin()
    talk.until(10)
    assert talk.asked == []
    talk.until(3)
    assert {"type": "response.cancel"} in talk.sent
    assert len(talk.asked) == 1
    talk.until(600 - (talk.now - 100) - 0.2)
    talk.finish()
    talk.until(0.4)
    assert talk.end is None
    talk.until(2)
    assert talk.end is EndReason.MAX_DURATION
    assert talk.said() == ["goodbye"]


def test_lines_of_a_provider_without_metadata_are_followed_too() -> None:
    talk = Talk(Behaviour(greeting=Line("Hello.")), echoes=False)
    talk.hear()
    assert talk.said() == ["greeting"]


class TestLines:
    def test_too_many_wait(self) -> None:
        lines = Lines(PlayoutLedger())
        assert all(lines.say(str(n), Line("x"), "scenario") for n in range(MAX_LINES))
        assert not lines.say("more", Line("x"), "scenario")
        lines.drop()
        assert {ended.end for ended in lines.take_ended()} == {LineEnd.INTERRUPTED}
        assert lines.idle

    @pytest.mark.parametrize("created", [True, False])
    def test_a_line_that_is_not_made_fails(self, created: bool) -> None:
        lines = Lines(PlayoutLedger())
        lines.say("1", Line("x"), "scenario")
        assert lines.request(0.0) is not None
        if created:
            lines.on_message({"type": "response.created", "response": {"id": "r"}}, 1.0)
        assert lines.next_deadline(0.0) == ANSWER_SECONDS + created
        lines.check(ANSWER_SECONDS + 1)
        assert [ended.end for ended in lines.take_ended()] == [LineEnd.FAILED]

    def test_what_never_plays_counts_as_not_heard(self) -> None:
        ledger = PlayoutLedger()
        lines = Lines(ledger)
        lines.say("1", Line("x"), "scenario")
        lines.request(0.0)
        lines.on_message({"type": "response.created", "response": {"id": "r"}}, 0.0)
        ledger.received(("i", 0), 1, 1000, 0.5)
        lines.on_message({"type": "response.done", "response": {"id": "r", "status": "completed"}}, 1.0)
        lines.check(5.9)
        assert lines.take_ended() == []
        lines.check(6.1)
        assert [ended.end for ended in lines.take_ended()] == [LineEnd.INTERRUPTED]

    def test_a_refusal_of_the_provider_fails_the_line(self) -> None:
        lines = Lines(PlayoutLedger())
        lines.say("1", Line("x"), "scenario")
        request = lines.request(0.0)
        assert request is not None
        lines.on_message({"type": "error", "error": {"event_id": "other", "code": "x"}}, 0.1)
        assert lines.take_ended() == []
        lines.on_message({"type": "error", "error": {"event_id": request["event_id"], "code": "x"}}, 0.1)
        assert [ended.end for ended in lines.take_ended()] == [LineEnd.FAILED]

    def test_a_word_for_word_line_is_one_json_string(self) -> None:
        text = 'Größe "A"\nB'
        assert json.loads(say_instructions(text).partition(": ")[2]) == text


def test_a_session_that_only_ended_is_silent_afterwards() -> None:
    talk = Talk(Behaviour(greeting=Line("Hello."), idle_after=1, idle_lines=(Line("x"),)))
    talk.feed(ev.TerminateRequested(EndReason.TERMINATED, "x"))
    assert talk.session.state is SessionState.ENDED
    assert talk.session.next_deadline() is None
