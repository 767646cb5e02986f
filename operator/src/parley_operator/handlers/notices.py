"""What becomes of sessions, told at once to those in this process who wait for it.

The cache tells every object that it takes or drops, the reconciler tickets and placements, which are known
before any status says so. Nobody is waited for: a notice only marks what is new and wakes whoever is
interested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.merge import deep_merge
from parley_operator.domain.model import Placement
from parley_operator.domain.requests import fits_labels

from .queue import Key
from .tickets import Ticket

# Distinct sessions that a watcher may have unread; beyond it the watcher is ended.
MAX_UNREAD = 20_000


@dataclass(slots=True)
class Facts:
    """What is known of one session; `ticket` and `placement` only from while somebody waited for it."""

    body: Body | None = None
    ticket: Ticket | None = None
    placement: Placement | None = None
    deleted: bool = False


class Expectation:
    """One who waits for a session by namespace and name, from before it is made."""

    def __init__(self) -> None:
        self._facts: dict[str, Facts] = {}
        self._news = asyncio.Event()
        self.closed = False

    def of(self, uid: str) -> Facts:
        """What was heard of the session of this uid: an older one may have had the same name."""
        return self._facts.setdefault(uid, Facts())

    def wake(self) -> None:
        self._news.set()

    async def wait(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until `done` holds; false when `timeout` seconds passed, or nothing more will be told."""
        try:
            async with asyncio.timeout(timeout):
                while not done():
                    if self.closed:
                        return False
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return done()
        return True


@dataclass(slots=True, eq=False)
class Watcher:
    """Sessions of a namespace (empty: all), by name and labels where given. What is unread of one session is
    joined: the newest counts."""

    namespace: str = ""
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    overflowed: bool = False
    closed: bool = False
    _unread: dict[str, tuple[Body, bool]] = field(default_factory=dict)
    _shown: set[str] = field(default_factory=set)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, key: Key, uid: str, body: Body, deleted: bool) -> None:
        if self.namespace not in ("", key.namespace) or self.name not in ("", key.name):
            return
        fits = not deleted and fits_labels(body, self.labels)
        if not fits and uid not in self._shown:
            self._unread.pop(uid, None)
            return
        self._unread[uid] = (body, not fits)
        if len(self._unread) > MAX_UNREAD:
            self.overflowed = True
            self._unread.clear()
        self._news.set()

    def wake(self) -> None:
        self._news.set()

    def take(self) -> list[tuple[Body, bool]]:
        """What is unread, oldest first, each with whether it is gone."""
        found, self._unread = self._unread, {}
        for uid, (_, gone) in found.items():
            (self._shown.discard if gone else self._shown.add)(uid)
        return list(found.values())

    async def wait(self, timeout: float) -> None:
        """Until there is something unread, `timeout` seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                while not (self._unread or self.overflowed or self.closed):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass


class Notices:
    """Lives on one event loop. Knows no session unless it is told of it."""

    def __init__(self) -> None:
        self._waiting: dict[Key, set[Expectation]] = {}
        self._watchers: set[Watcher] = set()
        self._keys: dict[str, Key] = {}
        # Of no more sessions than are being written.
        self._coming: dict[Key, Body] = {}
        self._closed = False

    # -- what comes in

    def observed(self, kind: str, key: Key, body: Body, deleted: bool) -> None:
        """The cache took an object, or dropped it."""
        if kind == SESSION:
            (self.deleted if deleted else self.changed)(text_at(body, "metadata", "uid"), body)

    def changed(self, uid: str, body: Body) -> None:
        """A session was made or changed, its status included."""
        key = _key(body)
        self._keys[uid] = key
        for each in self._waiting.get(key, ()):
            each.of(uid).body = body
            each.wake()
        for watcher in self._watchers:
            watcher.tell(key, uid, body, False)

    def deleted(self, uid: str, body: Body) -> None:
        key = self._keys.pop(uid, None) or _key(body)
        for each in self._waiting.get(key, ()):
            each.of(uid).deleted = True
            each.wake()
        for watcher in self._watchers:
            watcher.tell(key, uid, body, True)

    def ticketed(self, key: Key, uid: str, ticket: Ticket) -> None:
        """A ticket was made or read. It is kept only for those who wait for this session."""
        for each in self._waiting.get(key, ()):
            each.of(uid).ticket = ticket

    def placed(self, key: Key, uid: str, placement: Placement) -> None:
        """A worker admitted the session."""
        for each in self._waiting.get(key, ()):
            each.of(uid).placement = placement
            each.wake()

    def foretell(self, key: Key, body: Body, status: Mapping[str, object]) -> None:
        """What is about to be written into the status, told to those who wait for just this session: the API
        server is slower than what it is told of. Until `written`, `coming` knows it too."""
        waiting = self._waiting.get(key)
        if waiting:
            self._coming[key] = coming = {**body, "status": deep_merge(map_at(body, "status"), status)}
            uid = text_at(body, "metadata", "uid")
            for each in waiting:
                each.of(uid).body = coming
                each.wake()

    def written(self, key: Key) -> None:
        """Nothing is on its way into the status of this session any more."""
        self._coming.pop(key, None)

    def coming(self, key: Key) -> Body | None:
        """The session as somebody was told that it is, while that is being written."""
        return self._coming.get(key)

    def close(self) -> None:
        """Nothing more will be told: wake everybody."""
        self._closed = True
        for group in self._waiting.values():
            for each in group:
                each.closed = True
                each.wake()
        for watcher in self._watchers:
            watcher.closed = True
            watcher.wake()

    # -- who waits

    def key_of(self, uid: str) -> Key | None:
        """Where the session of this uid is, while it exists."""
        return self._keys.get(uid)

    @contextmanager
    def expect(self, namespace: str, name: str) -> Iterator[Expectation]:
        key = Key(SESSION, namespace, name)
        waiting = Expectation()
        waiting.closed = self._closed
        self._waiting.setdefault(key, set()).add(waiting)
        try:
            yield waiting
        finally:
            group = self._waiting[key]
            group.discard(waiting)
            if not group:
                del self._waiting[key]

    @contextmanager
    def watch(self, watcher: Watcher) -> Iterator[Watcher]:
        watcher.closed = self._closed
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    @property
    def watchers(self) -> int:
        return len(self._watchers)


def _key(body: Body) -> Key:
    return Key(
        SESSION, text_at(body, "metadata", "namespace") or "default", text_at(body, "metadata", "name")
    )
