"""What setting a session up costs its neighbours, held within bounds: connections one after the other, names
and certificates in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from parley_worker.core.model import SessionConfig
from parley_worker.core.turnstile import Spread, Turnstile
from parley_worker.transport.resolver import Resolver
from parley_worker.transport.tls import prepare

log = logging.getLogger(__name__)

CONNECT_RATE = 30.0
CONNECTS = 64
ATTACH_RATE = 100.0
_PORTS = {"wss": 443, "https": 443, "ws": 80, "http": 80}


class _Waiter:
    """One that waits; the future is made on its loop."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Gate:
    """A turnstile on the running loop."""

    def __init__(self, stile: Turnstile[_Waiter]) -> None:
        self._stile = stile
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._stile.waiting

    @asynccontextmanager
    async def turn(self, group: str = "") -> AsyncIterator[None]:
        """Waits for the turn; the place is given back at the end of the block. No bound of its own."""
        waiter = _Waiter(group)
        self._stile.ask(group, waiter)
        self._go()
        try:
            await waiter.turn
        except asyncio.CancelledError:
            self._stile.forget(group, waiter)
            if not waiter.turn.cancelled():
                self._leave(group)
            raise
        try:
            yield
        finally:
            self._leave(group)

    def _leave(self, group: str) -> None:
        self._stile.leave(group)
        self._go()

    def _go(self) -> None:
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        while (found := self._stile.next(loop.time())) is not None:
            if isinstance(found, float):
                self._timer = loop.call_later(found, self._again)
                return
            if found.turn.done():
                self._stile.leave(found.group)
            else:
                found.turn.set_result(None)

    def _again(self) -> None:
        self._timer = None
        self._go()


class SettingUp:
    """One for each event loop. Rates are a second, `connects` are at once."""

    def __init__(
        self,
        connect_rate: float = CONNECT_RATE,
        connects: int = CONNECTS,
        attach_rate: float = ATTACH_RATE,
        resolver: Resolver | None = None,
    ) -> None:
        self.connects = Gate(Turnstile(connect_rate, connects))
        self.attaches = Gate(Turnstile(attach_rate))
        self._reconnects = Spread(connect_rate)
        self._resolver = resolver or Resolver()

    async def attach_turn(self) -> None:
        """Wait until another caller may attach."""
        async with self.attaches.turn():
            return

    def reconnect_wait(self) -> float:
        """Seconds until another lost connection may be tried to be replaced."""
        return self._reconnects.wait(asyncio.get_running_loop().time())

    async def prepare(self, config: SessionConfig) -> None:
        """Do in threads what would hold up the loop, so that connecting finds it done.

        ValueError: the certificates are none. OSError: the host has no address.
        """
        url = urlsplit(config.provider.url)
        if not url.hostname or url.scheme not in _PORTS:
            return
        if _PORTS[url.scheme] == 443:
            await prepare(config.provider.ca_pem)
        await self._resolver.lookup(url.hostname, url.port or _PORTS[url.scheme])


def group_of(config: SessionConfig) -> str:
    """Sessions that wait in one line: of one namespace, to one host."""
    return f"{config.key.namespace} {urlsplit(config.provider.url).netloc}"
