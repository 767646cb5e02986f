"""Sessions seen by callers of the session service: one, a page, or all and every change."""

from __future__ import annotations

import base64
import binascii
import heapq
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.v1alpha1 import text_at
from parley_operator.domain.faults import Fault, FaultCode, invalid
from parley_operator.domain.requests import DEFAULT_PAGE, MAX_PAGE, Caller, fits_labels

from .access import Gate
from .context import Context
from .notices import MAX_UNREAD, Watcher
from .queue import Key
from .whereabouts import not_found, read_session

Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """Watches at once, in all and of one caller; and how often, in seconds, the rights of one who watches are
    looked at again."""

    watchers: int = 512
    watchers_each: int = 128
    recheck: float = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """Of a watch: a session as it is, or as it was last when `gone`; without one the snapshot of `synced`
    sessions is complete."""

    body: Body | None = None
    gone: bool = False
    synced: int = 0


class SessionViews:
    """Works on the cache of the leading replica."""

    def __init__(self, context: Context, gate: Gate, settings: ViewSettings | None = None) -> None:
        self._context = context
        self._gate = gate
        self._settings = settings or ViewSettings()
        self._watching: dict[str, int] = {}

    async def get(self, caller: Caller, namespace: str, name: str) -> Body:
        """Raises `Fault`."""
        await self._gate.require(caller, "get", namespace, name)
        # Never behind what an answer of CreateSession said.
        body = self._context.notices.coming(Key(SESSION, namespace, name))
        body = body or self._context.cache.get(SESSION, namespace, name)
        body = body or await read_session(self._context, namespace, name)
        if body is None:
            raise not_found(namespace, name)
        return body

    async def list(
        self,
        caller: Caller,
        namespace: str,
        *,
        size: int = 0,
        token: str = "",
        labels: Mapping[str, str] | None = None,
        phases: Collection[str] = (),
    ) -> tuple[list[Body], str]:
        """A page in the order of namespace and name, and the token of the next one. Raises `Fault`."""
        if not 0 <= size <= MAX_PAGE:
            raise invalid("page_size", f"{size}: give 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
        after = _read_token(token)
        await self._gate.require(caller, "list", namespace)
        count = size or DEFAULT_PAGE
        fitting = (
            ((key.namespace, key.name), body)
            for key, body in self._context.cache.of_kind(SESSION)
            if namespace in ("", key.namespace)
            and (key.namespace, key.name) > after
            and (not phases or (text_at(body, "status", "phase") or "Pending") in phases)
            and fits_labels(body, labels or {})
        )
        page = heapq.nsmallest(count + 1, fitting, key=lambda item: item[0])
        more = _write_token(page[count - 1][0]) if len(page) > count else ""
        return [body for _, body in page[:count]], more

    async def watch(
        self, who: Callable[[], Awaitable[Caller]], watcher: Watcher
    ) -> AsyncGenerator[Entry, None]:
        """The sessions that are there, then every change, without end. Raises `Fault`."""
        caller = await self._judged(who, watcher)
        mine = self._watching.get(caller.username, 0)
        bounds = self._settings
        if mine >= bounds.watchers_each or sum(self._watching.values()) >= bounds.watchers:
            raise Fault(
                FaultCode.EXHAUSTED,
                "too-many-watches",
                f"{mine} watches of {caller.username!r} are open; watch a "
                "namespace in place of single sessions",
            )
        self._watching[caller.username] = mine + 1
        try:
            with self._context.notices.watch(watcher):
                for key, body in self._context.cache.of_kind(SESSION):
                    watcher.tell(key, text_at(body, "metadata", "uid"), body, False)
                snapshot = watcher.take()
                for body, _ in snapshot:
                    yield Entry(body)
                yield Entry(synced=len(snapshot))
                async with aclosing(self._changes(who, watcher)) as changes:
                    async for entry in changes:
                        yield entry
        finally:
            self._watching[caller.username] -= 1
            if not self._watching[caller.username]:
                del self._watching[caller.username]

    async def _changes(
        self, who: Callable[[], Awaitable[Caller]], watcher: Watcher
    ) -> AsyncGenerator[Entry, None]:
        clock = self._context.clock
        judge_at = clock.monotonic() + self._settings.recheck
        while True:
            await watcher.wait(max(0.0, judge_at - clock.monotonic()))
            if watcher.overflowed:
                words = f"more than {MAX_UNREAD} sessions changed unread; read faster, or watch one namespace"
                raise Fault(FaultCode.EXHAUSTED, "slow-reader", words)
            if watcher.closed:
                raise Fault(FaultCode.UNAVAILABLE, "not-leading", "this replica leads no more; watch again")
            if clock.monotonic() >= judge_at:
                await self._judged(who, watcher)
                judge_at = clock.monotonic() + self._settings.recheck
            for body, gone in watcher.take():
                yield Entry(body, gone)

    async def _judged(self, who: Callable[[], Awaitable[Caller]], watcher: Watcher) -> Caller:
        caller = await who()
        await self._gate.require(caller, "watch", watcher.namespace, watcher.name)
        return caller


def _write_token(place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _read_token(token: str) -> Place:
    if not token:
        return ("", "")
    try:
        namespace, name = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, binascii.Error):
        namespace = name = None
    if not isinstance(namespace, str) or not isinstance(name, str):
        raise invalid("page_token", "is none of ours; give next_page_token of the page before, or nothing")
    return (namespace, name)
