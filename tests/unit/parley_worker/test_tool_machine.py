"""Function calls as a machine: models, services, callers and time in any order, and what holds anyway."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.model import EndReason, SessionState
from parley_worker.core.tool_routing import ToolCode, ToolProblem
from session_driver import Driver

ROUTES = (
    ToolRoute("nats", ToolRouteKind.NATS, timeout=5.0),
    ToolRoute("hook", ToolRouteKind.WEBHOOK, timeout=20.0, max_output_bytes=3, cancel_on_barge_in=True),
    ToolRoute("told", ToolRouteKind.SCENARIO, timeout=10.0),
    ToolRoute("mine", ToolRouteKind.CALLER, timeout=8.0, cancel_on_barge_in=True),
)
NAMES = st.sampled_from(["nats", "hook", "told", "mine", "unknown"])
CALLS = st.sampled_from([f"c{n}" for n in range(6)])
TEXTS = st.sampled_from(["ok", "far too long"])


class ToolMachine(RuleBasedStateMachine):
    """One run, one result, one record for each call; every result is spoken about; nothing stays open."""

    @initialize(replies=st.booleans(), echoes=st.booleans())
    def admit(self, replies: bool, echoes: bool) -> None:
        turns = {"type": "server_vad", "create_response": replies}
        self.driver = Driver(tools=ROUTES).ready(turn_detection=turns)
        self.driver.attach()
        self.echoes = echoes
        self.read = 0
        self.responses = 0
        self.requested = False
        self.active: list[str] = []
        self.speaking = False
        self.called: set[str] = set()
        self.started: Counter[str] = Counter()
        self.given: Counter[str] = Counter()
        self.recorded: Counter[str] = Counter()
        self.unspoken: dict[str, bool] = {}
        """Results that want an answer: True once the provider's history holds them."""

    @property
    def ended(self) -> bool:
        return self.driver.session.state is SessionState.ENDED

    def take(self) -> None:
        """Read what was asked for since the last time."""
        new, self.read = self.driver.effects[self.read :], len(self.driver.effects)
        for effect in new:
            match effect:
                case fx.CallTool(call_id):
                    self.started[call_id] += 1
                case fx.CancelTool(call_id):
                    assert self.started[call_id], "only what runs is cancelled"
                case fx.SendProvider({"type": "conversation.item.create", "item": item}):
                    self.given[item["call_id"]] += 1
                    cancelled = '"cancelled"' in item["output"]
                    if not cancelled:
                        self.unspoken[item["call_id"]] = False
                case fx.SendProvider({"type": "response.create"}):
                    assert self.unspoken, "no answer is asked for that has nothing to say"
                    assert not self.active, "no answer is asked for beside another"
                    assert not self.speaking, "no answer is asked for while the caller speaks"
                    self.unspoken.clear()
                    self.requested = True
                case fx.Publish(record) if record.type == "tool_result":
                    self.recorded[str(record.fields["call_id"])] += 1

    def provider(self, kind: str, **fields: Any) -> None:
        self.driver.provider(kind, **fields)
        self.take()

    @rule(name=NAMES, call=CALLS)
    def function_call(self, name: str, call: str) -> None:
        if not self.active:
            self.response_created()
        item = {"type": "function_call", "call_id": call, "name": name, "arguments": "{}"}
        if not self.ended:
            self.called.add(call)
        self.provider("response.output_item.done", response_id=self.active[-1], item=item)

    @rule(call=CALLS, text=TEXTS)
    def service_returns(self, call: str, text: str) -> None:
        self.driver.feed(ev.ToolReturned(call, text))
        self.take()

    @rule(call=CALLS)
    def service_fails(self, call: str) -> None:
        self.driver.feed(ev.ToolFailed(call, ToolProblem(ToolCode.FAILED, "no")))
        self.take()

    @rule(call=CALLS, text=TEXTS)
    def caller_answers(self, call: str, text: str) -> None:
        self.driver.said(ev.ToolOutput(call, text))
        self.take()

    @rule(call=CALLS)
    def echo(self, call: str) -> None:
        if self.echoes and self.given[call]:
            item = {"type": "function_call_output", "call_id": call, "output": "x"}
            if call in self.unspoken:
                self.unspoken[call] = True
            self.provider("conversation.item.added", item=item)

    @rule()
    def response_created(self) -> None:
        """Asked for, or of the provider's own accord."""
        self.responses += 1
        self.requested = False
        self.active.append(f"r{self.responses}")
        self.unspoken = {call: seen for call, seen in self.unspoken.items() if not seen}
        self.provider("response.created", response={"id": self.active[-1]})

    @precondition(lambda self: self.active)
    @rule()
    def response_done(self) -> None:
        self.provider("response.done", response={"id": self.active.pop(0), "status": "completed"})

    @rule()
    def speech(self) -> None:
        self.speaking = not self.speaking
        self.provider(
            "input_audio_buffer.speech_started" if self.speaking else "input_audio_buffer.speech_stopped"
        )

    @rule(seconds=st.floats(0, 6))
    def time(self, seconds: float) -> None:
        self.driver.until(self.driver.now + seconds)
        self.take()

    @precondition(lambda self: self.called)
    @rule(rarely=st.integers(0, 3))
    def end(self, rarely: int) -> None:
        if rarely == 3:
            self.driver.feed(ev.TerminateRequested(EndReason.TERMINATED, "x"))
            self.take()

    @invariant()
    def nothing_is_done_twice(self) -> None:
        for counted in (self.started, self.given, self.recorded):
            assert max(counted.values(), default=0) <= 1

    @invariant()
    def only_calls_of_the_model_have_results(self) -> None:
        assert set(self.recorded) <= self.called

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        if self.speaking:
            self.speech()
        for _ in range(10):
            if self.requested:
                self.response_created()
            while self.active:
                self.response_done()
            self.time(5.0)
        self.nothing_is_done_twice()
        assert set(self.recorded) == self.called, "every call ends in a result"
        if not self.ended:
            assert self.unspoken == {}, "every result is spoken about"


TestTools = ToolMachine.TestCase
TestTools.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
