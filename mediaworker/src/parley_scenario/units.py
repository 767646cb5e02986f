"""Things that give or take audio, as a scenario sees them. Audio itself stays in the worker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from parley_scenario.events import (
    CallEvents,
    Event,
    PlayerEvents,
    RecorderEvents,
    ScenarioMistake,
    check_event,
    check_text,
)
from parley_scenario.handlers import Handler, Handlers
from parley_scenario.link import Link

MAX_TARGET_CHARACTERS = 256
MAX_NOTE_CHARACTERS = 100_000
MAX_TAG_CHARACTERS = 64
MAX_UNTAKEN = 256


class Unit:
    """Something that audio can be sent from or to."""

    def __init__(self, link: Link, unit: str) -> None:
        self._link = link
        self.unit = unit
        """Its name in the session."""

    def send_media_to(
        self, unit: Unit, parameters: Mapping[str, Any] | str | None = None, *, tag: str = ""
    ) -> None:
        """Let the other unit hear this one. Caller and client hear each other from the start.

        `parameters` is a tag, or an object that has one, as in VoxEngine.
        """
        self._order("send_media", source=self.unit, target=_name(unit), tag=_tag(tag or parameters))

    def stop_media_to(self, unit: Unit) -> None:
        """Let the other unit not hear this one any more; what else it hears goes on."""
        self._order("stop_media", source=self.unit, target=_name(unit))

    def _order(self, order: str, **fields: Any) -> None:
        self._link.send("unit", order=order, **fields)


def _name(unit: object) -> str:
    if not isinstance(unit, Unit):
        raise ScenarioMistake(f"{unit!r} is no media unit: give the caller, the client or a player")
    return unit.unit


def _tag(parameters: object) -> str:
    """The tag in what `send_media_to` was given; in a session each leg has one encoding, its own."""
    if isinstance(parameters, Mapping):
        for name in parameters.keys() - {"tag"}:
            raise ScenarioMistake(f"send_media_to: {name!r} has no meaning in a session, give 'tag' alone")
        parameters = parameters.get("tag")
    return "" if parameters is None else check_text("send_media_to: tag", parameters, MAX_TAG_CHARACTERS)


async def _first(events: asyncio.Queue[Event], timeout: float | None) -> Event | None:
    try:
        async with asyncio.timeout(timeout):
            return await events.get()
    except TimeoutError:
        return None


class Source(Unit):
    """A unit with events of its own."""

    def __init__(self, link: Link, unit: str, owner: str, known: Collection[str]) -> None:
        super().__init__(link, unit)
        self._handlers = Handlers(owner, known)
        self._owner, self._known = owner, known
        self._taps: list[tuple[str, asyncio.Queue[Event]]] = []

    def add_event_listener(self, event: str, handler: Handler | object) -> None:
        """Call `handler(event)`, sync or async, for every such event."""
        self._handlers.add(event, handler)

    def remove_event_listener(self, event: str, handler: Handler | object | None = None) -> None:
        """Remove one handler of the event, or all when none is given."""
        self._handlers.remove(event, handler)

    async def next(self, event: str, timeout: float | None = None) -> Event | None:
        """The next such event from now on; None when `timeout` seconds pass without one."""
        with self._tap(event) as events:
            return await _first(events, timeout)

    @contextlib.contextmanager
    def _tap(self, event: str) -> Iterator[asyncio.Queue[Event]]:
        """Every such event from here on; what is not taken is bounded, the oldest are kept."""
        tap = (check_event(event, self._known, self._owner), asyncio.Queue[Event](MAX_UNTAKEN))
        self._taps.append(tap)
        try:
            yield tap[1]
        finally:
            self._taps.remove(tap)

    def happened(self, name: str, data: dict[str, Any]) -> Event:
        """The host's word on an event: wakes whoever waits for it."""
        event = Event(name, self, data)
        for wanted, events in self._taps:
            if wanted == name and not events.full():
                events.put_nowait(event)
        return event

    async def dispatch(self, event: Event, timeout: float) -> None:
        """Call the handlers of an event that has happened."""
        await self._handlers.dispatch(event.name, event, timeout)


class CallerLeg(Source):
    """The caller's side of the call."""

    def __init__(self, link: Link) -> None:
        super().__init__(link, "caller", "the caller", frozenset(CallEvents))
        self._attached = asyncio.Event()

    @property
    def attached(self) -> bool:
        """True while a caller is there."""
        return self._attached.is_set()

    async def connected(self) -> None:
        """Wait until a caller is there."""
        await self._attached.wait()

    def hangup(self, *, after_speech: bool = False) -> None:
        """End the call: at once, or after everything that is being said was heard."""
        self._link.send("hangup", after_speech=bool(after_speech))

    def transfer(self, target: str, note: str = "") -> None:
        """Ask whoever connects the caller, such as a telephony gateway, to move the call to `target`.

        The gateway hangs up once it has; a session that is still there after 30 s is ended.
        """
        if not check_text("transfer: target", target, MAX_TARGET_CHARACTERS):
            raise ScenarioMistake("transfer: target is empty: say where the call is to go")
        check_text("transfer: note", note, MAX_NOTE_CHARACTERS)
        self._link.send("transfer", target=target, note=note)

    async def collect_digits(self, count: int, *, timeout: float = 10.0, end: str = "#") -> str:
        """Keys until there are `count`, one of `end` comes, or `timeout` seconds pass without one."""
        digits = ""
        with self._tap(CallEvents.DtmfReceived) as keys:
            while len(digits) < count:
                event = await _first(keys, timeout)
                if event is None or event.data["digit"] in end:
                    break
                digits += str(event.data["digit"])
        return digits

    def happened(self, name: str, data: dict[str, Any]) -> Event:
        """See Source."""
        if name in (CallEvents.Connected, CallEvents.Reconnected):
            self._attached.set()
        elif name in (CallEvents.Detached, CallEvents.Disconnected):
            self._attached.clear()
        return super().happened(name, data)


class Player(Source):
    """Plays a file or a URL to units: `player.send_media_to(ctx.caller)` begins it."""

    def __init__(self, link: Link, unit: str) -> None:
        super().__init__(link, unit, "a player", frozenset(PlayerEvents))

    def play(self) -> None:
        """Go on after a pause; one that has ended begins anew."""
        self._order("control_player", unit=self.unit, action="play")

    def pause(self) -> None:
        """Be silent until `play`."""
        self._order("control_player", unit=self.unit, action="pause")

    def stop(self) -> None:
        """End for good."""
        self._order("control_player", unit=self.unit, action="stop")

    async def finished(self, timeout: float | None = None) -> bool:
        """Wait for its end; False when `timeout` seconds pass first."""
        return await self.next(PlayerEvents.PlaybackFinished, timeout) is not None


class Recorder(Source):
    """The recording of the session, where its spec says."""

    def __init__(self, link: Link) -> None:
        super().__init__(link, "recorder", "the recorder", frozenset(RecorderEvents))

    def start(self) -> None:
        """Begin; nothing happens when it runs."""
        self._order("start_recorder")

    def stop(self) -> None:
        """Finish; nothing happens when none runs."""
        self._order("stop_recorder")
