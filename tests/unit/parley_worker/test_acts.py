"""What a session does for its scenario, in virtual time."""

from __future__ import annotations

from typing import Any

from parley_realtime.payloads.common import MediaEndedData, MediaStartedData
from parley_worker.codec import media_pb
from parley_worker.codec.events_pb import encode
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core import scenario as say
from parley_worker.core.acts import MAX_HELD, TRANSFER_SECONDS
from parley_worker.core.agent import Line, ScenarioConfig
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.lines import MAX_LINES
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
from parley_worker.core.session import Session, SessionBounds
from parley_worker.core.units import StartRecorder, UnitEventKind

PCM24 = PROVIDER_FORMATS["pcm16"]
S = SessionState


class Stage:
    """A session with a scenario, and what it was told."""

    def __init__(self, privacy: bool = False, provider_audio: str = "") -> None:
        config = SessionConfig(
            key=SessionKey("ns", "name", "uid", 1),
            provider=ProviderConfig("ws://p", "ga", "m", Secret("sk-secret")),
            session={},
            greet=False,
            limits=LimitsConfig(max_duration=600, idle_timeout=300, attach_timeout=30, reattach_timeout=20),
            access=AccessConfig(b"t" * 32),
            privacy=privacy,
            provider_audio=provider_audio,
            scenario=ScenarioConfig(source="...", file_name="mine.py"),
        )
        self.now = 100.0
        self.session = Session(config, SessionBounds(), self.now, 0.0)
        self.effects: list[fx.Effect] = self.session.start(self.now)

    def feed(self, event: ev.Event) -> list[fx.Effect]:
        new = self.session.handle(event, self.now)
        for effect in new:
            if isinstance(effect, fx.Publish):
                encode(effect.record, "worker", "instance")
            if isinstance(effect, fx.SendLeg):
                media_pb.write(effect.message, "instance")
        self.effects += new
        return new

    def asks(self, command: say.ScenarioCommand) -> list[fx.Effect]:
        return self.feed(ev.ScenarioSaid(command))

    def provider(self, type_: str, **fields: Any) -> None:
        self.feed(ev.ProviderMessage({"type": type_, **fields}))

    def ready(self) -> Stage:
        self.feed(ev.ProviderOpened("client", "socket"))
        self.provider("session.updated", session={})
        self.feed(ev.ScenarioReady())
        return self

    def attach(self, kind: ev.CredentialKind = ev.CredentialKind.TICKET) -> Stage:
        self.feed(ev.LegAttached(ev.AttachRequest(kind, PCM24, PCM24, PlayoutMode.REALTIME), "token"))
        return self

    def until(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.session.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.feed(ev.DeadlineReached())
        self.now = end

    def cues(self) -> list[tuple[str, str]]:
        return [(e.cue.to, e.cue.name) for e in self.effects if isinstance(e, fx.TellScenario)]

    def sent(self) -> list[str]:
        return [str(e.event["type"]) for e in self.effects if isinstance(e, fx.SendProvider)]

    def records(self, type_: str) -> list[dict[str, object]]:
        found = [e.record for e in self.effects if isinstance(e, fx.Publish) and e.record.type == type_]
        return [dict(record.fields) for record in found]

    @property
    def end(self) -> tuple[EndReason | None, str]:
        return self.session.report.end_reason, self.session.report.end_message


def test_ready_means_that_the_scenario_listens_too() -> None:
    stage = Stage()
    stage.now += 0.5
    stage.feed(ev.ProviderOpened("client", "socket"))
    stage.provider("session.updated", session={})
    assert stage.session.state is S.CONNECTING
    stage.provider("error", error={"message": "a mistake of the scenario"})
    stage.until(2)
    assert stage.session.state is S.CONNECTING
    stage.feed(ev.ScenarioReady())
    assert stage.session.state is S.READY
    assert [record["connect_ms"] for record in stage.records("provider_connected")] == [500]
    assert stage.records("scenario_started") == [{"entry_point": "mine.py:main"}]
    early = Stage()
    early.feed(ev.ScenarioReady())
    early.feed(ev.ProviderOpened("client", "socket"))
    assert early.session.state is S.CONNECTING
    early.provider("session.updated", session={})
    assert early.session.state is S.READY


def test_a_scenario_that_never_listens_ends_with_the_time_to_connect() -> None:
    stage = Stage()
    stage.feed(ev.ProviderOpened("client", "socket"))
    stage.provider("session.updated", session={})
    stage.until(11)
    assert stage.end[0] is EndReason.PROVIDER_UNAVAILABLE


def test_a_failure_ends_the_session_and_its_text_is_private() -> None:
    for privacy, shown in ((False, "mine.py:1: KeyError: 'x'"), (True, "mine.py:1: KeyError")):
        stage = Stage(privacy)
        stage.feed(ev.ScenarioFailed("mine.py:1: KeyError", "'x'"))
        assert stage.end == (EndReason.SCENARIO_FAILED, shown)
        assert stage.records("scenario_failed") == [{"message": "mine.py:1: KeyError"}]
        assert stage.session.report.ready_at is None


def test_what_is_sent_before_the_provider_is_there_waits_for_it() -> None:
    stage = Stage()
    stage.asks(say.SendEvent({"type": "conversation.item.create", "item": {}}))
    stage.asks(say.SendEvent({"type": "input_audio_buffer.append"}))
    assert stage.sent() == []
    stage.feed(ev.ProviderOpened("client", "socket"))
    assert stage.sent() == ["session.update", "conversation.item.create"]
    stage = Stage()
    for _ in range(MAX_HELD):
        stage.asks(say.SendEvent({"type": "response.create"}))
    assert stage.end[0] is None
    stage.asks(say.SendEvent({"type": "response.create"}))
    assert stage.end[0] is EndReason.SCENARIO_FAILED


def test_cues_follow_the_caller() -> None:
    stage = Stage().ready().attach()
    stage.feed(ev.LegSaid(ev.Dtmf("5", 80)))
    stage.feed(ev.LegLost("cancelled"))
    stage.attach(ev.CredentialKind.RESUME)
    stage.feed(ev.DrainAnnounced(1000.0))
    stage.feed(ev.UnitEvent("player-1", UnitEventKind.ENDED, duration_ms=20))
    assert stage.cues() == [
        ("caller", "Connected"),
        ("caller", "DtmfReceived"),
        ("caller", "Detached"),
        ("caller", "Reconnected"),
        ("app", "Draining"),
        ("player-1", "ended"),
    ]


def test_a_new_web_socket_is_told() -> None:
    stage = Stage().ready().attach()
    stage.feed(ev.ProviderReconnected("ws-2", "lost", 0.25, 3))
    told = [e.cue for e in stage.effects if isinstance(e, fx.TellScenario)][-1]
    assert (told.to, told.name) == ("app", "Reconnected")
    assert told.data == {"web_socket_id": "ws-2", "cause": "lost", "gap_ms": 250}


def test_the_end_that_a_scenario_asks_for() -> None:
    stage = Stage().ready()
    stage.asks(say.Complete("all done"))
    assert stage.end == (EndReason.SCENARIO_COMPLETED, "the scenario has ended: all done")
    stage = Stage(privacy=True).ready()
    stage.asks(say.Complete("all done"))
    assert stage.end == (EndReason.SCENARIO_COMPLETED, "the scenario has ended")
    stage = Stage().ready().attach()
    stage.asks(say.HangUp())
    assert stage.end == (EndReason.AGENT_HANGUP, "the scenario ended the call")


def test_hanging_up_after_speech_waits_for_what_is_being_said() -> None:
    stage = Stage().ready().attach()
    stage.provider("response.created", response={"id": "r"})
    stage.asks(say.HangUp(after_speech=True))
    assert stage.end[0] is None
    stage.provider("response.done", response={"id": "r", "status": "completed"})
    assert stage.end == (EndReason.AGENT_HANGUP, "the scenario ended the call")


def test_a_transfer_is_asked_for_and_bounded() -> None:
    stage = Stage().ready()
    stage.asks(say.TransferCall("+1"))
    assert stage.cues()[-1] == ("caller", "TransferFailed")
    stage.attach()
    stage.asks(say.TransferCall("+1", "note"))
    transfers = [e.message for e in stage.effects if isinstance(e, fx.SendLeg)]
    assert fx.Transfer("+1", "note") in transfers
    assert stage.records("transferred") == [{"target": "+1"}]
    stage.until(TRANSFER_SECONDS + 1)
    assert stage.end == (EndReason.AGENT_HANGUP, "the call was transferred to +1")


def test_a_call_that_nobody_can_move_is_told_at_once_and_goes_on() -> None:
    stage = Stage().ready()
    ulaw = PROVIDER_FORMATS["g711_ulaw"]
    kind, mode = ev.CredentialKind.TICKET, PlayoutMode.REALTIME
    stage.feed(ev.LegAttached(ev.AttachRequest(kind, ulaw, ulaw, mode, moves_calls=False), "token"))
    stage.asks(say.TransferCall("+1"))
    assert stage.cues()[-1] == ("caller", "TransferFailed")
    assert stage.records("transferred") == []
    stage.until(TRANSFER_SECONDS + 1)
    assert stage.session.state is S.ACTIVE


def test_too_many_lines_fail_and_are_told() -> None:
    stage = Stage().ready().attach()
    for number in range(MAX_LINES + 2):
        stage.asks(say.SayLine(str(number), Line("x")))
    assert stage.cues()[-1] == ("lines", "ended")
    stage.asks(say.DropLines())
    assert stage.cues().count(("lines", "ended")) == MAX_LINES + 1


def test_the_agents_audio_is_told_as_it_is_heard() -> None:
    """In the words of the library."""
    stage = Stage(provider_audio="g711_ulaw").ready().attach()
    ledger = stage.session.ledger
    ledger.received(("i", 0), 1, 500, stage.now)
    ledger.done(("i", 0))
    for at in range(0, 500, 20):
        ledger.sent(("i", 0), at, 20, stage.now + at / 1000)
    stage.feed(ev.FirstFrame("r"))
    stage.feed(ev.FirstFrame("r2"))
    stage.until(1.4)
    assert stage.cues()[1:] == [("client", "OpenAI.Events.WebSocketMediaStarted")]
    stage.until(0.5)
    began, told = [e.cue for e in stage.effects if isinstance(e, fx.TellScenario)][-2:]
    assert began.data == {"tag": None, "encoding": "pcmu", "custom_parameters": {}}
    assert began.data.keys() == MediaStartedData.__annotations__.keys()
    assert told.name == "OpenAI.Events.WebSocketMediaEnded"
    assert told.data == {"tag": None, "media_info": {"duration": 500}}
    assert told.data.keys() == MediaEndedData.__annotations__.keys()


def test_logs_go_to_the_journal_within_bounds() -> None:
    stage = Stage().ready()
    stage.asks(say.Log("warning", "x" * 5000))
    stage.asks(say.Log("loud", "y"))
    logged = stage.records("scenario_log")
    assert [(entry["level"], len(str(entry["text"]))) for entry in logged] == [("warning", 4000), ("info", 1)]
    for _ in range(2000):
        stage.asks(say.Log("info", "z"))
    assert len(stage.records("scenario_log")) == 1000
    assert Stage(privacy=True).ready().asks(say.Log("info", "x"))[0].record.kind == "event"  # type: ignore[union-attr]


def test_orders_to_units_are_passed_on() -> None:
    assert Stage().ready().asks(say.OrderUnit(StartRecorder())) == [fx.UnitCommand(StartRecorder())]
