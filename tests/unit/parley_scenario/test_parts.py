"""The parts of a scenario's side that need no process: frames, handlers, timers, faults, names."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_realtime import catalogue
from parley_realtime.errors import InvalidEventError
from parley_scenario import CallEvents, Context, ScenarioMistake, UnknownEvent
from parley_scenario.client import CLIENT_EVENT_TYPES, make_client
from parley_scenario.context import Limits, SessionInfo, Setup, tool_output
from parley_scenario.events import CUES, AppEvents, PlayerEvents, RecorderEvents
from parley_scenario.faults import fault_of
from parley_scenario.handlers import Handlers, call
from parley_scenario.host import Printed
from parley_scenario.link import MAX_QUESTIONS, Link
from parley_scenario.loading import load_entry, load_source
from parley_scenario.timers import Timer, Timers
from parley_scenario.units import CallerLeg
from parley_scenario.wire import HEADER_BYTES, MAX_FRAME_BYTES, Decoder, WireError, decode, encode
from parley_worker.codec.scenario_json import BadFrame, command_of
from parley_worker.core import events as ev
from parley_worker.core import scenario as commands
from parley_worker.core.agent import Line
from parley_worker.core.units import CreatePlayer, SendMedia, StartRecorder, UnitEventKind

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), json_values, max_size=4)


class Made:
    """A context that keeps what it sends."""

    def __init__(self, api_version: str = "ga") -> None:
        self.sent: list[dict[str, Any]] = []
        self.due: list[Timer] = []
        self.link = Link(lambda frame: self.sent.append(dict(frame)))
        setup = Setup(SessionInfo("uid", "name", "ns", 1), api_version, {"a": 1}, Limits(max_timers=2))
        timers = Timers(2, self.due.append)
        self.ctx = Context(setup, self.link, timers, asyncio.ensure_future)

    def orders(self) -> list[commands.ScenarioCommand]:
        """What the worker makes of it."""
        return [command_of(json.loads(json.dumps(frame))) for frame in self.sent if frame["t"] != "listen"]


class TestWire:
    @settings(max_examples=40)
    @given(st.lists(objects, max_size=4), st.integers(1, 7))
    def test_frames_come_out_as_they_went_in_however_they_are_cut(self, frames: list[Any], size: int) -> None:
        data, decoder, out = b"".join(map(encode, frames)), Decoder(), []
        for at in range(0, len(data), size):
            out += decoder.feed(data[at : at + size])
        assert out == frames

    @given(st.binary(max_size=64))
    def test_any_bytes_are_frames_or_an_error(self, data: bytes) -> None:
        try:
            assert all(isinstance(frame, dict) for frame in Decoder().feed(data))
        except WireError:
            pass

    def test_what_is_too_long_is_refused_both_ways(self) -> None:
        with pytest.raises(WireError, match="at most 4194304"):
            encode({"x": "y" * MAX_FRAME_BYTES})
        with pytest.raises(WireError, match="announces"):
            list(Decoder().feed(b"\xff" * HEADER_BYTES))

    @pytest.mark.parametrize("frame", [{"x": object()}, {"x": float("nan")}])
    def test_what_is_no_json_is_refused(self, frame: dict[str, Any]) -> None:
        with pytest.raises(WireError, match="must be JSON"):
            encode(frame)

    @pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"[" * 100_000])
    def test_a_body_that_is_no_object_is_refused(self, body: bytes) -> None:
        with pytest.raises(WireError):
            decode(body)


class TestCommands:
    @given(
        objects, st.sampled_from(["send", "say", "unit", "hangup", "transfer", "complete", "log", "x", None])
    )
    def test_any_frame_is_a_command_or_a_bad_frame(self, frame: dict[str, Any], kind: str | None) -> None:
        try:
            assert command_of({**frame, "t": kind}) is not None
        except BadFrame:
            pass

    @pytest.mark.parametrize(
        "frame",
        [
            {"t": "send", "event": []},
            {"t": "say", "id": "x"},
            {"t": "say", "id": "x" * 65, "text": "x"},
            {"t": "unit", "order": "explode"},
            {"t": "unit", "order": "create_player", "unit": "p", "source": "s", "volume": True},
            {"t": "unit", "order": "create_player", "unit": "p", "source": "s", "volume": 5},
            {"t": "unit", "order": "control_player", "unit": "p", "action": "sing"},
            {"t": "log", "level": 5, "text": "x"},
            {},
        ],
    )
    def test_bad_frames(self, frame: dict[str, Any]) -> None:
        with pytest.raises(BadFrame):
            command_of(frame)

    async def test_what_a_context_asks_for_is_what_the_worker_takes(self) -> None:
        made = Made()
        ctx = made.ctx
        line = ctx.say("Hello.")
        ctx.say(instructions="Greet.")
        ctx.caller.hangup()
        ctx.caller.hangup(after_speech=True)
        ctx.caller.transfer("+1", "note")
        ctx.client.clear_media_buffer()
        ctx.client.response_create({})
        ctx.log.warning("a", 1)
        player = ctx.create_player("https://x/y.wav", loop=True, volume=0.5)
        ctx.send_media_between(player, ctx.client)
        ctx.recorder.start()
        ctx.terminate("done")
        assert made.orders() == [
            commands.SayLine("line-1", Line("Hello.")),
            commands.SayLine("line-2", Line("", "Greet.")),
            commands.HangUp(False),
            commands.HangUp(True),
            commands.TransferCall("+1", "note"),
            commands.ClearAudio(),
            commands.SendEvent({"type": "response.create"}),
            commands.Log("warning", "a 1"),
            commands.OrderUnit(CreatePlayer("player-3", "https://x/y.wav", True, 0.5)),
            commands.OrderUnit(SendMedia("player-3", "client")),
            commands.OrderUnit(SendMedia("client", "player-3")),
            commands.OrderUnit(StartRecorder()),
            commands.Complete("done"),
        ]
        made.link.answer("line-1", "heard")
        assert await line == "heard"
        made.link.close()


def test_names_of_both_sides_agree() -> None:
    assert CLIENT_EVENT_TYPES == ev.CLIENT_EVENT_TYPES
    kinds = {str(kind) for kind in UnitEventKind}
    assert set(CUES["player"]) | set(CUES["recorder"]) == kinds
    assert set(CUES["app"].values()) == set(AppEvents)
    assert set(CUES["caller"].values()) == set(CallEvents)
    assert set(CUES["player"].values()) == set(PlayerEvents)
    assert set(CUES["recorder"].values()) == set(RecorderEvents)


class TestHandlers:
    async def test_order_duplicates_and_removal_during_a_dispatch(self) -> None:
        seen: list[str] = []
        handlers = Handlers("x", {"a.One"})

        async def first(event: Any) -> None:
            seen.append("first")
            handlers.remove("a.One", last)
            handlers.add("a.One", late)

        def last(event: Any) -> None:
            seen.append("last")

        def late(event: Any) -> None:
            seen.append("late")

        for handler in (first, first, last):
            handlers.add("a.One", handler)
        await handlers.dispatch("a.One", None, 1.0)
        assert seen == ["first"]
        await handlers.dispatch("a.One", None, 1.0)
        assert seen == ["first", "first", "late"]
        handlers.remove("a.One")
        assert handlers.names == []

    def test_an_unknown_event_names_the_nearest(self) -> None:
        ctx = Made().ctx
        with pytest.raises(UnknownEvent, match=r"did you mean 'Call\.DtmfReceived'"):
            ctx.caller.add_event_listener("DtmfRecieved", print)
        with pytest.raises(UnknownEvent, match="the application has no event 'zzz': use one of"):
            ctx.add_event_listener("zzz", print)
        with pytest.raises(UnknownEvent, match="ResponseDone"):
            ctx.client.add_event_listener("OpenAI.RealtimeAPI.ResponseDne", print)

    async def test_what_is_no_function_fails_at_dispatch(self) -> None:
        handlers = Handlers("x", {"a.One"})
        handlers.add("a.One", 5)
        with pytest.raises(ScenarioMistake, match=r"a handler of a\.One is a int"):
            await handlers.dispatch("a.One", None, 1.0)

    async def test_an_async_handler_has_a_limit_and_a_future_is_not_waited_for(self) -> None:
        async def slow() -> None:
            await asyncio.Event().wait()

        with pytest.raises(ScenarioMistake, match=r"slow, did not end within 0 s.*ctx\.spawn"):
            await call(slow, (), 0.0, "it")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert await call(lambda: future, (), 0.0, "it") is future


class TestContext:
    def test_mistakes_are_named(self) -> None:
        ctx = Made().ctx
        for bad, words in (
            (lambda: ctx.say(), "give the text"),
            (lambda: ctx.say("a", instructions="b"), "give the text"),
            (lambda: ctx.say("a" * 10_001), "at most 10000"),
            (lambda: ctx.caller.transfer(""), "target is empty"),
            (lambda: ctx.caller.send_media_to("x"), "is no media unit"),  # type: ignore[arg-type]
            (lambda: ctx.tool("x")(5), "register a function"),  # type: ignore[type-var]
        ):
            with pytest.raises(ScenarioMistake, match=words):
                bad()
        with pytest.raises(InvalidEventError, match="not allowed"):
            ctx.client.send_event({"type": "output_audio_buffer.clear"})

    async def test_questions_have_a_bound(self) -> None:
        made = Made()
        for _ in range(MAX_QUESTIONS):
            made.ctx.say("x")
        with pytest.raises(ScenarioMistake, match="256 answers"):
            made.ctx.say("x")
        made.link.close()

    async def test_digits_that_come_at_once_are_all_collected(self) -> None:
        ctx = Made().ctx
        collecting = asyncio.ensure_future(ctx.caller.collect_digits(9))
        await asyncio.sleep(0)
        for digit in "123#4":
            ctx.caller.happened(CallEvents.DtmfReceived, {"digit": digit})
        assert await collecting == "123"

    async def test_timers_are_limited_and_do_not_pile_up(self) -> None:
        made = Made()
        once = made.ctx.set_timeout(print, 0)
        again = made.ctx.set_interval(print, 0)
        with pytest.raises(ScenarioMistake, match="2 timers are active"):
            made.ctx.set_timeout(print, 1)
        once._due()
        once._due()
        again._due()
        again._due()
        assert made.due == [once, again]
        again.waits = False
        again._due()
        assert made.due == [once, again, again]
        made.ctx.clear_interval(again)
        once.cancel()
        assert not again.active
        with pytest.raises(ScenarioMistake, match="0 or more"):
            made.ctx.set_timeout(print, -1)

    def test_both_shapes(self) -> None:
        sent: list[dict[str, Any]] = []
        link = Link(lambda frame: sent.append(dict(frame)))
        make_client(link, "beta").response_cancel()  # type: ignore[union-attr]
        make_client(link, "ga").input_audio_buffer_commit()  # type: ignore[union-attr]
        assert [frame["event"]["type"] for frame in sent] == ["response.cancel", "input_audio_buffer.commit"]

    @pytest.mark.parametrize("shape", ["ga", "beta"])
    def test_every_method_of_the_library_is_there(self, shape: str) -> None:
        client = make_client(Link(lambda frame: None), shape)
        elsewhere = {"create_realtime_api_client", "send_media_between", "stop_media_between"}
        names = {row.ours for row in catalogue.METHODS if (row.ga if shape == "ga" else row.beta)}
        assert [name for name in sorted(names - elsewhere) if not callable(getattr(client, name, None))] == []

    def test_media_methods_take_what_those_of_the_library_take(self) -> None:
        sent: list[dict[str, Any]] = []
        link = Link(lambda frame: sent.append(dict(frame)))
        client, caller = make_client(link, "ga"), CallerLeg(link)
        client.send_media_to(caller)
        client.send_media_to(caller, {"tag": "line"})
        client.send_media_to(caller, "line")
        client.send_media_to(caller, tag="line")
        assert [frame["tag"] for frame in sent] == ["", "line", "line", "line"]
        client.clear_media_buffer({"tag": "line"})
        assert sent[-1]["t"] == "clear"
        for wrong in ({"tag": "a", "encoding": "ULAW"}, {"tag": 5}, 5):
            with pytest.raises(ScenarioMistake, match=r"send_media_to: ('encoding'|tag must be a string)"):
                client.send_media_to(caller, wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("mistake", "words"),
        [
            (lambda ctx: ctx.say(5), "say: text must be a string, not int"),
            (lambda ctx: ctx.say(instructions=["x"]), "say: instructions must be a string, not list"),
            (lambda ctx: ctx.say("x" * 10_001), "say: text has at most 10000 characters, not 10001"),
            (lambda ctx: ctx.create_player(None), "create_player: source must be a string, not NoneType"),
            (lambda ctx: ctx.create_player("x" * 5000), "create_player: source has at most 4096"),
            (
                lambda ctx: ctx.create_player("a.wav", volume="loud"),
                "volume is a number from 0 to 4, not 'loud'",
            ),
            (lambda ctx: ctx.create_player("a.wav", volume=float("nan")), "volume is a number from 0 to 4"),
            (lambda ctx: ctx.caller.transfer(5), "transfer: target must be a string, not int"),
            (lambda ctx: ctx.caller.transfer(""), "transfer: target is empty"),
            (lambda ctx: ctx.caller.transfer("+1", None), "transfer: note must be a string, not NoneType"),
            (lambda ctx: ctx.terminate(5), "terminate: reason must be a string, not int"),
            (lambda ctx: ctx.client.send_media_to(ctx.caller, "x" * 65), "tag has at most 64 characters"),
        ],
    )
    async def test_what_cannot_be_done_is_said_at_its_line(
        self, mistake: Callable[[Context], object], words: str
    ) -> None:
        """And nothing of it reaches the worker, which could only end the process without a line."""
        made = Made()
        with pytest.raises(ScenarioMistake, match=re.escape(words)):
            mistake(made.ctx)
        assert made.sent == []

    def test_what_is_at_the_limits_is_taken_by_the_worker(self) -> None:
        made = Made()
        made.ctx.create_player("x" * 4096, volume=4, loop=1)  # type: ignore[arg-type]
        made.ctx.caller.transfer("x" * 256, "y" * 100_000)
        made.ctx.client.send_media_to(made.ctx.caller, "x" * 64)
        made.ctx.caller.hangup(after_speech=1)  # type: ignore[arg-type]
        made.ctx.terminate("z" * 10_000)
        player, moved, _, hung_up, _ = made.orders()
        assert isinstance(player, commands.OrderUnit)
        assert player.order == CreatePlayer("player-1", "x" * 4096, True, 4.0)
        assert moved == commands.TransferCall("x" * 256, "y" * 100_000)
        assert hung_up == commands.HangUp(True)

    def test_results_of_tools(self) -> None:
        assert tool_output("as it is") == "as it is"
        assert tool_output({"a": [1, "é"]}) == '{"a": [1, "é"]}'
        assert tool_output(None) == "null"
        with pytest.raises(TypeError):
            tool_output(object())


class TestFaults:
    def error(self, code: str) -> BaseException:
        try:
            exec(compile(code, "mine.py", "exec"), {})
        except BaseException as error:  # noqa: BLE001 - what is looked at
            return error
        raise AssertionError

    def test_the_line_of_the_user_is_named_and_the_text_is_apart(self) -> None:
        fault = fault_of(self.error("import json\ndef f():\n  json.loads('{')\nf()"))
        assert fault.message == "mine.py:3: JSONDecodeError"
        assert fault.text.startswith("Expecting property name")

    def test_our_own_words_are_part_of_the_message(self) -> None:
        code = "from parley_scenario.events import check_event\n\ncheck_event('x', {'a.B'}, 'it')"
        assert fault_of(self.error(code)).message.startswith("mine.py:3: UnknownEvent: it has no event 'x'")

    def test_errors_of_syntax_and_of_nowhere(self) -> None:
        assert fault_of(self.error("x = = 1")).message == "mine.py:1: SyntaxError"
        assert fault_of(ValueError("x")).message == "ValueError"


class TestLoading:
    def test_entry_points(self) -> None:
        assert load_entry("json:dumps") is json.dumps
        assert load_entry("json:JSONEncoder.encode") is json.JSONEncoder.encode
        for entry, words in (
            ("json", "is not package.module:function"),
            ("no_such_module:main", "there is no module 'no_such_module': .* beside the YAML"),
            ("json:main", "json has no 'main'"),
            ("json:__name__", "is a str: name a function"),
        ):
            with pytest.raises(ScenarioMistake, match=words):
                load_entry(entry)

    def test_source(self) -> None:
        assert load_source("def f(ctx):\n  return ctx", "a.py", "f")(3) == 3
        with pytest.raises(ScenarioMistake, match=r"a\.py has no function 'main'"):
            load_source("", "a.py", "main")


def test_what_is_printed_is_logged_line_by_line() -> None:
    lines: list[str] = []
    printed = Printed(lines.append)
    print("one\ntwo", file=printed)  # type: ignore[call-overload]
    print("half", end="", file=printed)  # type: ignore[call-overload]
    printed.flush()
    assert lines == ["one", "two"]
    assert not printed.isatty()
