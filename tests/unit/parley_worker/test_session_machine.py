"""The worker's session core as a machine: callers, provider and time in any order keep its promises."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from parley_worker.codec import events_pb, media_pb
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.agent import Line, RecordingConfig, ScenarioConfig
from parley_worker.core.media_path import PlayoutMode
from parley_worker.core.model import TRANSITIONS, EndReason, SessionState
from parley_worker.core.scenario import (
    ClearAudio,
    DropLines,
    HangUp,
    Log,
    OrderUnit,
    SayLine,
    ScenarioCommand,
    SendEvent,
    TransferCall,
)
from parley_worker.core.session import SessionBounds
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from parley_worker.core.units import CreatePlayer, StartRecorder, StopMedia, UnitEventKind
from worker_core import BEHAVIOUR, PCM24, TOOLS, WorkerCore

RESPONSES = st.sampled_from(["r1", "r2", "r3"])
ITEMS = st.sampled_from(["i1", "i2", "i3"])
CALLS = st.sampled_from(["c1", "c2"])
WORDS = "confidential-words"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "behaving": {"behaviour": BEHAVIOUR, "tools": TOOLS},
    "scripted": {"scenario": ScenarioConfig("package.module:function"), "tools": TOOLS},
    "recorded": {"recording": RecordingConfig(directory="/recordings"), "behaviour": BEHAVIOUR},
}
COMMANDS: list[ScenarioCommand] = [
    SayLine("1", Line("a line")),
    SayLine("2", Line(instructions="say it")),
    DropLines(),
    SendEvent({"type": "response.create"}),
    SendEvent({"type": "no.such"}),
    ClearAudio(),
    HangUp(after_speech=True),
    TransferCall("+1555", WORDS),
    Log("info", WORDS),
    Log("none", WORDS),
    OrderUnit(CreatePlayer("p", "file.wav", False, 1.0)),
    OrderUnit(StopMedia("p", "caller")),
    OrderUnit(StartRecorder()),
]
NAMES = st.sampled_from(["f", "g", "h", "hang_up", "other"])
SAID = st.sampled_from([WORDS, "goodbye then", ""])
POSITIONS = st.sampled_from([0.0, 20.0, 5000.0])
STATUS = st.sampled_from(["completed", "cancelled", "failed", "incomplete"])


class WorkerMachine(RuleBasedStateMachine):
    """Whatever happens: legal states, gapless records, everything writable, nothing after the end."""

    @initialize(
        version=st.sampled_from(["ga", "beta"]),
        privacy=st.booleans(),
        kind=st.sampled_from(sorted(KINDS)),
        stage=st.sampled_from(["admitted", "ready", "attached", "attached"]),
    )
    def admit(self, version: str, privacy: bool, kind: str, stage: str) -> None:
        self.worker = WorkerCore(api_version=version, privacy=privacy, **KINDS[kind])
        self.privacy = privacy
        self.read = 0
        self.state = SessionState.CONNECTING
        self.sequences = {"event": 0, "journal": 0}
        if stage != "admitted":
            self.worker.ready()
            self.worker.feed(ev.ScenarioReady())
        if stage == "attached":
            self.worker.attached()

    def provider(self, kind: str, **fields: Any) -> None:
        self.worker.feed(ev.ProviderMessage({"type": kind, **fields}))

    @rule()
    def opened(self) -> None:
        self.worker.feed(ev.ProviderOpened("client", "socket"))
        self.provider("session.updated", session={})

    @rule(kind=st.sampled_from([ev.CredentialKind.TICKET, ev.CredentialKind.RESUME]))
    def attach(self, kind: ev.CredentialKind) -> None:
        request = ev.AttachRequest(kind, PCM24, PCM24, PlayoutMode.REALTIME, 100)
        if self.worker.session.check_attach(request, self.worker.now) is None:
            self.worker.feed(ev.LegAttached(request, "token"))

    @rule()
    def leg_lost(self) -> None:
        if self.worker.session.state is SessionState.ACTIVE:
            self.worker.feed(ev.LegLost("cancelled"))

    @rule(response=RESPONSES)
    def response_created(self, response: str) -> None:
        self.provider("response.created", response={"id": response})

    @rule(response=RESPONSES, status=STATUS)
    def response_done(self, response: str, status: str) -> None:
        usage = {"input_tokens": 1, "output_tokens": 2}
        self.provider("response.done", response={"id": response, "status": status, "usage": usage})

    @rule(item=ITEMS, size=st.integers(0, 5000), sent=st.integers(0, 5000))
    def audio(self, item: str, size: int, sent: int) -> None:
        if self.worker.session.state is SessionState.ACTIVE:
            self.worker.session.ledger.received((item, 0), 1, size, self.worker.now)
            for position in range(0, min(size, sent, 200), 20):
                self.worker.session.ledger.sent((item, 0), position, 20, self.worker.now)

    @rule(item=ITEMS)
    def speech(self, item: str) -> None:
        self.provider("input_audio_buffer.speech_started", item_id=item, audio_start_ms=0)

    @rule(
        item=ITEMS, response=RESPONSES, call=CALLS, name=st.sampled_from(["f", "g", "h", "hang_up", "other"])
    )
    def function_call(self, item: str, response: str, call: str, name: str) -> None:
        done = {"type": "function_call", "id": item, "call_id": call, "name": name, "arguments": WORDS}
        self.provider("response.output_item.done", response_id=response, item=done)

    @rule(call=CALLS, problem=st.none() | st.sampled_from(ToolCode))
    def service_answers(self, call: str, problem: ToolCode | None) -> None:
        if problem is None:
            self.worker.feed(ev.ToolReturned(call, WORDS))
        else:
            self.worker.feed(ev.ToolFailed(call, ToolProblem(problem, "it failed")))

    @rule(
        item=ITEMS, response=RESPONSES, text=st.sampled_from([WORDS, "goodbye then", ""]), user=st.booleans()
    )
    def words(self, item: str, response: str, text: str, user: bool) -> None:
        if user:
            kind = "conversation.item.input_audio_transcription.completed"
            self.provider(kind, item_id=item, content_index=0, transcript=text)
        else:
            where = {"response_id": response, "item_id": item, "content_index": 0}
            self.provider("response.output_audio_transcript.delta", **where, delta=text)
            self.provider("response.output_audio_transcript.done", **where, transcript=text)

    @rule(command=st.sampled_from(COMMANDS))
    def scenario_says(self, command: ScenarioCommand) -> None:
        self.worker.feed(ev.ScenarioReady())
        self.worker.feed(ev.ScenarioSaid(command))

    @rule(kind=st.sampled_from(UnitEventKind))
    def unit_tells(self, kind: UnitEventKind) -> None:
        self.worker.feed(ev.UnitEvent("p", kind, "tag", "it failed", "file:///r.wav", 100, 200))

    @rule(
        item=ITEMS, response=RESPONSES, epoch=st.integers(0, 3), position=st.sampled_from([0.0, 20.0, 5000.0])
    )
    def media_path_tells(self, item: str, response: str, epoch: int, position: float) -> None:
        self.worker.feed(ev.FirstFrame(response))
        self.worker.feed(ev.PartSent(item, 0, epoch, position))

    @rule(what=st.sampled_from(["overflow", "drain", "clear", "event"]))
    def others_tell(self, what: str) -> None:
        others: dict[str, ev.Event] = {
            "overflow": ev.OutputOverflow(),
            "drain": ev.DrainAnnounced(1_000_500.0),
            "clear": ev.CommandReceived(clear=True),
            "event": ev.CommandReceived({"type": "response.create"}),
        }
        self.worker.feed(others[what])

    @rule(item=ITEMS, played=st.integers(0, 5000), epoch=st.integers(0, 4))
    def caller_answers(self, item: str, played: int, epoch: int) -> None:
        self.worker.feed(ev.LegSaid(ev.Cleared(epoch, item, 0, played)))
        self.worker.feed(ev.LegSaid(ev.Progress(item, 0, played, epoch)))

    @rule(
        command=st.one_of(
            st.builds(ev.Dtmf, st.sampled_from("059*#")),
            st.builds(ev.MarkPlayed, st.text(max_size=5), st.integers(0, 5)),
            st.builds(ev.ToolOutput, CALLS, st.text(max_size=5), st.booleans()),
            st.builds(
                ev.ClientEvent, st.fixed_dictionaries({"type": st.sampled_from(["response.create", "x"])})
            ),
            st.builds(ev.ClientEventInvalid, st.just("bad")),
            st.just(ev.ClearRequest()),
        )
    )
    def caller_says(self, command: ev.LegCommand) -> None:
        self.worker.feed(ev.LegSaid(command))

    @rule(seconds=st.sampled_from([0.05, 1.0, 25.0]))
    def pass_time(self, seconds: float) -> None:
        self.worker.advance(seconds)

    @rule(end=st.sampled_from(["hangup", "provider", "operator", *["none"] * 12]))
    def maybe_end(self, end: str) -> None:
        if end == "hangup":
            self.worker.feed(ev.LegSaid(ev.Hangup("bye")))
        elif end == "provider":
            self.worker.feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, "gone"))
        elif end == "operator":
            self.worker.feed(ev.TerminateRequested(EndReason.TERMINATED, "x"))

    @invariant()
    def every_effect_is_legal(self) -> None:
        if not hasattr(self, "worker"):
            return
        for effect in self.worker.effects[self.read :]:
            if isinstance(effect, fx.StateChanged) and effect.state is not self.state:
                assert effect.state in TRANSITIONS[self.state]
                self.state = effect.state
            elif isinstance(effect, fx.Publish):
                record = effect.record
                self.sequences[record.kind] += 1
                assert record.sequence == self.sequences[record.kind]
                text = events_pb.encode(record, "worker", "instance").payload
                assert b"sk-secret-value" not in text
                assert not (self.privacy and WORDS.encode() in text), record.type
            elif isinstance(effect, fx.SendLeg):
                media_pb.write(effect.message, "worker").SerializeToString()
        self.read = len(self.worker.effects)
        assert self.state is self.worker.session.state

    @invariant()
    def nothing_follows_the_end(self) -> None:
        if hasattr(self, "worker") and self.worker.session.state is SessionState.ENDED:
            assert self.worker.feed(ev.ClearRequest()) == []  # type: ignore[arg-type]
            assert self.worker.session.next_deadline() is None

    @invariant()
    def kept_events_are_bounded(self) -> None:
        if hasattr(self, "worker"):
            assert len(self.worker.session._replay) <= SessionBounds().replay_events


TestWorker = WorkerMachine.TestCase
TestWorker.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
