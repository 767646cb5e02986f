"""Does what a session's core decides: with caller, provider, media path, tools, scenario and records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from parley_realtime import InvalidEventError, OutgoingQueueFull, RealtimeError

from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.budget import Budget
from parley_worker.core.model import EndReason, SessionState
from parley_worker.core.reconfigure import EVENT_ID_PREFIX as RECONFIGURE
from parley_worker.core.session import Session
from parley_worker.runtime.deps import RunnerDeps
from parley_worker.runtime.observing import observe
from parley_worker.runtime.provider import Provider
from parley_worker.runtime.scenario import SessionScenario
from parley_worker.runtime.session_media import SessionMedia
from parley_worker.runtime.tool_calls import ToolCalls
from parley_worker.runtime.unravel import unheard
from parley_worker.transport.ports import LegPort

MESSAGES_A_SECOND = 200
MESSAGES_BURST = 2000


class SessionEffects:
    """See the module. `later` takes an event that an effect causes, `on_state` a state of the session.

    `incoming` is a leg that attaches, until `Started` is sent to it; `provider` is there once it is opened.
    """

    def __init__(
        self,
        session: Session,
        media: SessionMedia,
        tools: ToolCalls,
        scenario: SessionScenario | None,
        deps: RunnerDeps,
        later: Callable[[ev.Event], None],
        on_state: Callable[[SessionState], None],
    ) -> None:
        self._session = session
        self._media = media
        self._tools = tools
        self._scenario = scenario
        self._deps = deps
        self._later = later
        self._on_state = on_state
        self.messages = Budget(MESSAGES_A_SECOND, MESSAGES_BURST)
        """Of the present caller, audio not among them."""
        self.incoming: LegPort | None = None
        self.provider: Provider | None = None

    def do(self, effect: fx.Effect) -> None:
        """Do one."""
        match effect:
            case fx.SendLeg(message):
                self._send_leg(message)
            case fx.Publish(record):
                self._deps.sink.publish(record)
            case fx.SendProvider(event):
                self._send_provider(event)
            case fx.AttachMedia(request):
                self.messages = Budget(MESSAGES_A_SECOND, MESSAGES_BURST)
                self._media.attach(request)
            case fx.DetachMedia():
                self._media.detach()
            case fx.ClearMedia(responses):
                self._media.clear(responses)
            case fx.CutMedia(item_id, content_index, audio_end_ms):
                self._media.units.cut((item_id, content_index), audio_end_ms)
            case fx.UnitCommand(order):
                self._media.units.order(order)
            case fx.TellScenario(cue):
                if self._scenario is not None:
                    self._scenario.tell(cue)
            case fx.DropLeg(refusal, cause):
                self.drop_leg(refusal, cause)
            case fx.StateChanged(state):
                self._on_state(state)
            case _:
                self._seldom(effect)

    def _seldom(self, effect: fx.Effect) -> None:
        match effect:
            case fx.CallTool():
                self._tools.start(effect)
            case fx.CancelTool(call_id):
                self._tools.cancel(call_id)
            case fx.ObserveTool(route, outcome, seconds):
                self._deps.metrics.tool_call(route, outcome, seconds)
            case fx.Observe():
                observe(effect, self._deps.metrics, self._deps.clock.monotonic())

    def _send_leg(self, message: fx.ToLeg) -> None:
        if isinstance(message, fx.Started):
            self._media.leg, self.incoming = self.incoming, None
            self._deps.metrics.leg_attached()
        leg = self._media.leg
        if leg is not None:
            leg.send(message)

    def _send_provider(self, event: Any) -> None:
        if self.provider is None:
            return
        self._media.send_gathered()
        try:
            self.provider.send(event)
        except InvalidEventError as exc:
            event_id = str(event.get("event_id", ""))
            if self._session.state is SessionState.CONNECTING:
                self._later(ev.TerminateRequested(EndReason.INVALID_SPEC, f"session: {exc}"))
            elif event_id.startswith(RECONFIGURE):
                self._later(ev.UpdateUnsendable(event_id, str(exc)))
            else:
                self._later(ev.LegSaid(ev.ClientEventInvalid(str(exc))))
        except OutgoingQueueFull as exc:
            self._later(ev.LegSaid(ev.ClientEventInvalid(exc.message)))
        except RealtimeError as exc:
            self._later(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, exc.message))

    def drop_leg(self, refusal: ev.LegRefusal | None, cause: str) -> None:
        """End the caller's leg, with the refusal if there is one."""
        leg = self._media.leg
        if leg is not None:
            if cause != "ended":
                self._media.drop_queued()
            leg.finish(refusal)
            self._media.leg = None
            self._deps.metrics.leg_detached(cause)

    def refuse_all(self, refusal: ev.LegRefusal) -> None:
        """After a crash: end the leg that is attached, and one that attaches."""
        if self.incoming is not None:
            self.incoming.finish(refusal)
            self.incoming = None
        self.drop_leg(refusal, "protocol-error")

    def let_go(self) -> None:
        """What is over is freed without a collection; see `unravel`."""
        self.incoming = self.provider = self._scenario = None
        self._later = self._on_state = unheard
