"""The session service's desks over a plane in memory, with reviews that tests steer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import pytest
from parley_operator.domain.faults import Fault
from parley_operator.domain.model import SessionState
from parley_operator.domain.requests import Caller, check_create
from parley_operator.handlers.access import Gate
from parley_operator.handlers.session_desk import DeskSettings, SessionDesk
from parley_operator.handlers.session_finding import FindSettings, SessionFinder
from parley_operator.handlers.session_views import SessionViews, ViewSettings
from parley_operator.handlers.whereabouts import Whereabouts
from parley_operator.ports import StoreError
from reconcile_plane import HOSTS, POOL, PROVIDER, Plane
from virtual_time import run

ALICE, BOB = Caller("alice", "u-1", ("dev",)), Caller("bob", "u-2")
SPEC = {"agent": {"provider": PROVIDER}}
KEY = b"a key of the operators"


@dataclass
class StaticReviews:
    """Tokens by caller; everything is allowed but `denied` verbs. Counts what it was asked."""

    tokens: dict[str, Caller] = field(default_factory=lambda: {"alice-token": ALICE, "bob-token": BOB})
    denied: set[tuple[str, str]] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    fails: bool = False
    slow: float = 0.0

    async def identify(self, token: str) -> Caller | None:
        return await self._answer("identify", self.tokens.get(token))

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        return await self._answer(f"{verb} {namespace}/{name}", (caller.username, verb) not in self.denied)

    async def _answer(self, what: str, answer: Any) -> Any:
        self.asked.append(what)
        await asyncio.sleep(self.slow)
        if self.fails:
            raise StoreError("no answer")
        return answer


class Desks:
    """`plane` with a pool, its reconciler, and the desks over them."""

    def __init__(
        self,
        desk: DeskSettings | None = None,
        views: ViewSettings | None = None,
        find: FindSettings | None = None,
    ) -> None:
        self.plane = Plane()
        self.reviews = StaticReviews()
        self._settings = (desk, views, find)
        self._ids = iter(range(1, 10_000))
        self.lead()

    def lead(self) -> None:
        """As the plane's process does, anew after each restart."""
        context, reconciler = self.plane.context, self.plane.reconciler
        desk, views, find = self._settings
        self.gate = Gate(self.reviews, self.plane.clock)
        where = Whereabouts(context, reconciler.sessions.book.get, reconciler.sessions.book.digest)
        self.desk = SessionDesk(
            context, self.gate, where, reconciler.observe, KEY, lambda: f"id{next(self._ids)}", desk
        )
        self.views = SessionViews(context, self.gate, views)
        self.finder = SessionFinder(context, self.gate, where, find)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """With a pool and the reconciler at work."""
        await self.plane.apply(POOL, "default", {**HOSTS, "allowedNamespaces": ["*"]})
        task = asyncio.create_task(self.plane.reconciler.run())
        try:
            await self.plane.reconciler.started.wait()
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def report(self, state: SessionState, **facts: Any) -> None:
        """What worker `w` says of the one session that it was asked to take."""
        [(_, request)] = self.plane.links.admits
        told = self.plane.links.report("w", request, state, **facts)
        self.plane.reconciler.worker_changed("w", told)

    async def create(self, caller: Caller = ALICE, **changes: Any) -> Any:
        return await self.desk.create(caller, wanted(**changes))


def wanted(**changes: Any) -> Any:
    values = {
        "namespace": "default", "name": "", "request_id": "r-1", "spec_json": json.dumps(SPEC), "labels": {},
        "wait": 5.0, "ready": False,
    }  # fmt: skip
    return check_create(**{**values, **changes})


async def until(check: Callable[[], Any]) -> None:
    """Wait for it; for ever in virtual time is a minute."""
    async with asyncio.timeout(60):
        while True:
            if check():
                return
            await asyncio.sleep(0.01)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        run(test(*args, **kwargs))

    return wrapped


async def fault_of(work: Coroutine[Any, Any, Any]) -> Fault:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value
