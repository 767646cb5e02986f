"""The players of one session: made, heard by the caller and the provider, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from parley_realtime.events import MediaUnit
from parley_realtime.units.mixing import MixBus
from parley_realtime.units.player import Player, PlayerEvent, PlayerEvents
from parley_realtime.units.sources import PlayerAccess

from parley_worker.core.addresses import may_be_reached
from parley_worker.core.agent import MediaAccess
from parley_worker.core.audio import AudioFormat
from parley_worker.core.events import UnitEvent
from parley_worker.core.units import (
    CALLER,
    CLIENT,
    MAX_PLAYERS,
    RESERVED,
    ControlPlayer,
    CreatePlayer,
    PlayerAction,
    UnitEventKind,
)
from parley_worker.runtime.recording import media_threads

CALLER_SILENT_SECONDS = 0.06
"""Without frames of the caller for so long, players are sent to the provider alone."""
TAIL_SECONDS = 0.5
"""A player that has ended is heard for so long: what was gathered goes out."""


@dataclass(slots=True)
class _Playing:
    order: CreatePlayer
    player: Player
    task: asyncio.Task[None]
    tags: dict[str, str]


class Players:
    """See the module. `to_caller` is None while no player is heard by the caller; so is `to_client`."""

    def __init__(
        self,
        access: MediaAccess,
        provider: AudioFormat,
        clock: Callable[[], float],
        on_event: Callable[[UnitEvent], None],
        on_sound: Callable[[], None],
        on_change: Callable[[], None],
        push: Callable[[bytes], None],
    ) -> None:
        self._access = PlayerAccess(
            hosts=access.hosts, directories=access.directories, allow_address=may_be_reached
        )
        self._provider, self._clock = provider, clock
        self._on_event, self._on_sound, self._on_change, self._push = on_event, on_sound, on_change, push
        self._caller: AudioFormat | None = None
        self._caller_at = 0.0
        self._playing: dict[str, _Playing] = {}
        self._ended: dict[str, _Playing] = {}
        self.to_caller: MixBus | None = None
        self.to_client: MixBus | None = None

    def create(self, order: CreatePlayer, tasks: asyncio.TaskGroup) -> None:
        """Make a player and begin to load its source. ValueError: it cannot be made."""
        if order.unit in RESERVED or order.unit in self._playing or not order.unit:
            raise ValueError(f"the name {order.unit!r} is taken: give the player another one")
        if len(self._playing) >= MAX_PLAYERS:
            raise ValueError(f"{MAX_PLAYERS} players are the most: stop one")
        player = Player(
            order.source,
            loop=order.loop,
            volume=order.volume,
            access=self._access,
            executor=media_threads(),
        )
        for name in PlayerEvents:
            player.add_event_listener(name, lambda event: self._happened(order.unit, event))
        task = tasks.create_task(self._run(order.unit, player), name=f"player {order.unit}")
        self._playing[order.unit] = _Playing(order, player, task, {})
        self._ended.pop(order.unit, None)

    async def _run(self, unit: str, player: Player) -> None:
        try:
            await player.run()
        finally:
            playing = self._playing.get(unit)
            if playing is not None and playing.player is player:
                del self._playing[unit]

    def control(self, order: ControlPlayer, tasks: asyncio.TaskGroup) -> None:
        """Tell a player something. ValueError: there is none of that name."""
        ended = self._ended.pop(order.unit, None)
        if ended is not None:
            if order.action is PlayerAction.PLAY:
                self._play_again(ended, tasks)
            return
        player = self._find(order.unit).player
        match order.action:
            case PlayerAction.PLAY:
                player.play()
            case PlayerAction.PAUSE:
                player.pause()
            case PlayerAction.STOP:
                player.stop()
                self._drop(order.unit)

    def _play_again(self, ended: _Playing, tasks: asyncio.TaskGroup) -> None:
        self._drop(ended.order.unit)
        self.create(ended.order, tasks)
        for target, tag in ended.tags.items():
            self.send(ended.order.unit, target, tag)

    def send(self, unit: str, target: str, tag: str) -> None:
        """Let caller or client hear it. ValueError: there is none of that name, or it is heard there."""
        playing = self._find(unit)
        if target in playing.tags:
            raise ValueError(f"player {unit!r} is sent to {target!r} already")
        playing.tags[target] = tag
        playing.player.send_media_to(self._feed(unit, target))

    def stop_sending(self, unit: str, target: str) -> None:
        """Let the target hear it no more. ValueError: there is none of that name."""
        playing = self._find(unit)
        playing.tags.pop(target, None)
        bus = self.to_caller if target == CALLER else self.to_client
        feed = bus.remove(unit) if bus is not None else None
        if feed is not None:
            playing.player.stop_media_to(feed)
        self._settle()

    def _find(self, unit: str) -> _Playing:
        try:
            return self._playing[unit]
        except KeyError:
            remedy = (
                "has ended: let it play again" if unit in self._ended else "is not there: create it first"
            )
            raise ValueError(f"player {unit!r} {remedy}") from None

    def _feed(self, unit: str, target: str) -> MediaUnit:
        if target == CLIENT:
            if self.to_client is None:
                self.to_client = MixBus(self._provider, duck=False)
            return self.to_client.add(unit, self._client_sound)
        if self.to_caller is None:
            self.to_caller = MixBus(self._caller or self._provider)
            self._on_change()
        return self.to_caller.add(unit, self._on_sound)

    def attached(self, caller: AudioFormat) -> None:
        """A caller takes this format: who is heard by it goes on in that."""
        self._caller = caller
        if self.to_caller is None or self.to_caller.audio == caller:
            return
        old, self.to_caller = self.to_caller, MixBus(caller)
        for unit, playing in self._playing.items():
            if CALLER in playing.tags:
                feed = old.remove(unit)
                if feed is not None:
                    playing.player.stop_media_to(feed)
                playing.player.send_media_to(self.to_caller.add(unit, self._on_sound))
        self._on_change()

    def silence(self, size: int) -> bytes:
        """So many bytes of it in the provider's format."""
        return self._provider.silence * (size // self._provider.sample_bytes)

    def over_caller(self, payload: bytes, now: float) -> bytes:
        """The caller's audio for the provider, with players in it."""
        self._caller_at = now
        return self.to_client.over(payload) if self.to_client is not None else payload

    def _client_sound(self) -> None:
        if self.to_client is not None and self._clock() - self._caller_at > CALLER_SILENT_SECONDS:
            payload = self.to_client.background(20)
            if payload is not None:
                self._push(payload)

    def _happened(self, unit: str, event: PlayerEvent) -> None:
        playing = self._playing.get(unit)
        tag = next(iter(playing.tags.values()), "") if playing is not None else ""
        match event.name:
            case PlayerEvents.PlaybackReady:
                self._on_event(UnitEvent(unit, UnitEventKind.READY, tag))
            case PlayerEvents.Started:
                self._on_event(UnitEvent(unit, UnitEventKind.STARTED, tag))
            case PlayerEvents.PlaybackFinished:
                if not event.data["stopped"] and playing is not None:
                    self._remember(self._playing.pop(unit))
                    asyncio.get_running_loop().call_later(TAIL_SECONDS, self._drop_ended, unit, event.player)
                played = int(event.data["duration"])
                self._on_event(UnitEvent(unit, UnitEventKind.ENDED, tag, duration_ms=played))
            case PlayerEvents.Error:
                self._drop(unit)
                self._on_event(UnitEvent(unit, UnitEventKind.FAILED, tag, message=event.data["message"]))

    def _remember(self, ended: _Playing) -> None:
        """It may be asked to play again."""
        self._ended[ended.order.unit] = ended
        while len(self._ended) > MAX_PLAYERS:
            del self._ended[next(iter(self._ended))]

    def _drop_ended(self, unit: str, player: Player) -> None:
        """Its name may be another player's by now."""
        playing = self._playing.get(unit)
        if playing is None or playing.player is player:
            self._drop(unit)

    def _drop(self, unit: str) -> None:
        for bus in (self.to_caller, self.to_client):
            if bus is not None:
                bus.remove(unit)
        self._settle()

    def _settle(self) -> None:
        """Where no player is heard any more nothing is mixed."""
        if self.to_client is not None and not len(self.to_client):
            self.to_client = None
        if self.to_caller is not None and not len(self.to_caller):
            self.to_caller = None
            self._on_change()

    def stop(self) -> None:
        """End all of them."""
        for playing in tuple(self._playing.values()):
            playing.task.cancel()
        self.to_caller = self.to_client = None
        self._on_change()
