"""What a scenario is given: `async def main(ctx: Context) -> None` registers handlers and returns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from parley_scenario.client import BetaClient, GAClient, make_client
from parley_scenario.events import AppEvents, Event, ScenarioMistake, check_text
from parley_scenario.handlers import Handler, Handlers
from parley_scenario.link import Link
from parley_scenario.timers import Timer, Timers
from parley_scenario.units import CallerLeg, Player, Recorder, Unit
from parley_scenario.web import Http

ToolHandler = Callable[[dict[str, Any]], object]
T = TypeVar("T", bound=ToolHandler)
MAX_LINE_CHARACTERS = 10_000
MAX_SOURCE_CHARACTERS = 4096
MAX_VOLUME = 4
MAX_TASKS = 100


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Which session this is. `attempt` counts its placements.

    `resumed`: the conversation goes on that an earlier placement began, with this process instead of that
    one's. What the scenario kept in variables is gone; a caller who was there is told of as
    `CallEvents.Reconnected`, never as `Connected`.
    """

    uid: str
    name: str
    namespace: str
    attempt: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a scenario; seconds and counts."""

    handler_timeout: float = 1.0
    async_handler_timeout: float = 10.0
    max_timers: int = 100
    http_requests: int = 3


@dataclass(frozen=True, slots=True)
class Setup:
    """What a context is made from. `parameters` are the spec's."""

    session: SessionInfo
    api_version: str = "ga"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()


class Log:
    """Lines for the journal (none under privacy). Bounded: what is too much is dropped."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def debug(self, *words: object) -> None:
        self._write("debug", words)

    def info(self, *words: object) -> None:
        self._write("info", words)

    def warning(self, *words: object) -> None:
        self._write("warning", words)

    def error(self, *words: object) -> None:
        self._write("error", words)

    def _write(self, level: str, words: tuple[object, ...]) -> None:
        self._link.send("log", level=level, text=" ".join(map(str, words))[:4000])


class Context:
    """One session, in the hands of its scenario. Everything but what is awaited returns at once."""

    def __init__(self, setup: Setup, link: Link, timers: Timers, spawn: Callable[..., Any]) -> None:
        self._link, self._timers, self._spawn = link, timers, spawn
        self.session = setup.session
        self.parameters: Mapping[str, Any] = MappingProxyType(dict(setup.parameters))
        """The `parameters` of the spec."""
        self.client: GAClient | BetaClient = make_client(link, setup.api_version)
        """The conversation at the provider: the methods and events of the session's API version."""
        self.caller = CallerLeg(link)
        self.recorder = Recorder(link)
        self.http = Http(link, setup.limits.http_requests)
        self.log = Log(link)
        self._app = Handlers("the application", frozenset(AppEvents))
        self._players: dict[str, Player] = {}
        self._tools: dict[str, ToolHandler] = {}

    # Events

    def add_event_listener(self, event: str, handler: Handler | object) -> None:
        """Call `handler(event)` for an event of AppEvents."""
        self._app.add(event, handler)

    def remove_event_listener(self, event: str, handler: Handler | object | None = None) -> None:
        """Remove one handler of the event, or all when none is given."""
        self._app.remove(event, handler)

    def on_terminating(self, handler: Handler) -> Handler:
        """A decorator: last work after the end of the session, within a short time."""
        self._app.add(AppEvents.Terminating, handler)
        return handler

    # Speaking and hearing

    def say(self, text: str = "", *, instructions: str = "") -> Awaitable[str]:
        """Let the agent say `text` word for word, or what `instructions` ask for.

        Lines are said one by one. What is returned can be awaited, and need not be: `heard`, `interrupted`
        or `failed`.
        """
        if bool(text) == bool(instructions):
            raise ScenarioMistake("say: give the text to say, or instructions for it")
        check_text("say: text", text, MAX_LINE_CHARACTERS)
        check_text("say: instructions", instructions, MAX_LINE_CHARACTERS)
        id = self._link.name("line")
        future = self._link.ask(id)
        self._link.send("say", id=id, text=text, instructions=instructions)
        return future

    def create_player(self, source: str, *, loop: bool = False, volume: float = 1.0) -> Player:
        """A player of an http or https URL, or of a file, that the pool allows."""
        check_text("create_player: source", source, MAX_SOURCE_CHARACTERS)
        if isinstance(volume, bool) or not isinstance(volume, int | float) or not 0 <= volume <= MAX_VOLUME:
            raise ScenarioMistake(f"create_player: volume is a number from 0 to {MAX_VOLUME}, not {volume!r}")
        player = Player(self._link, self._link.name("player"))
        self._players[player.unit] = player
        order = {"order": "create_player", "unit": player.unit, "source": source}
        self._link.send("unit", **order, loop=bool(loop), volume=volume)
        return player

    def send_media_between(self, one: Unit, other: Unit) -> None:
        """Let two units hear each other."""
        one.send_media_to(other)
        other.send_media_to(one)

    def stop_media_between(self, one: Unit, other: Unit) -> None:
        """Let two units not hear each other any more."""
        one.stop_media_to(other)
        other.stop_media_to(one)

    # Tools

    def tool(self, name: str) -> Callable[[T], T]:
        """A decorator: `handler(arguments)` answers the model's calls of that function.

        The spec routes the function to the scenario (`route: {scenario: {}}`). What it returns goes to the
        model, as it is when it is text, else as JSON. What it raises becomes an error result.
        """

        def register(handler: T) -> T:
            if not callable(handler):
                raise ScenarioMistake(f"tool {name!r}: register a function")
            self._tools[name] = handler
            return handler

        return register

    # Time and tasks

    def set_timeout(self, handler: Callable[[], object], seconds: float) -> Timer:
        """Call `handler()`, sync or async, once after that time."""
        return self._timers.add(handler, seconds, repeats=False)

    def set_interval(self, handler: Callable[[], object], seconds: float) -> Timer:
        """Call it again and again; a call that comes due while the last one waits is left out."""
        return self._timers.add(handler, seconds, repeats=True)

    def clear_timeout(self, timer: Timer) -> None:
        """Forget a timer."""
        timer.cancel()

    clear_interval = clear_timeout

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run long work beside the handlers; an error in it ends the scenario as one in a handler does."""
        task: asyncio.Task[Any] = self._spawn(work)
        return task

    # The end

    def terminate(self, reason: str = "") -> None:
        """The scenario has done its work: end the session."""
        self._link.send("complete", reason=check_text("terminate: reason", reason, MAX_LINE_CHARACTERS)[:500])

    # What the host does

    def target_of(self, to: str) -> CallerLeg | Recorder | Player | None:
        """What a cue belongs to, or None for what is not known any more."""
        if to == "caller":
            return self.caller
        return self.recorder if to == "recorder" else self._players.get(to)

    async def dispatch_app(self, name: str, data: Mapping[str, Any], timeout: float) -> None:
        """Call the handlers of an event of the application."""
        await self._app.dispatch(name, Event(name, self, data), timeout)

    def tool_handler(self, name: str) -> ToolHandler | None:
        """Who answers this function."""
        return self._tools.get(name)


def tool_output(value: object) -> str:
    """A handler's result as the model gets it. TypeError or ValueError: it is no JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
