"""`ctx.http`: requests that the worker makes for a scenario, to hosts that its pool allows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parley_scenario.events import ScenarioMistake
from parley_scenario.link import Link

MAX_WAITING = 32
MAX_BODY_BYTES = 1024 * 1024
MAX_SECONDS = 3600


class HttpError(Exception):
    """There is no response: the text says why."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a server answered, whatever its status."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    text: str = field(repr=False)

    @property
    def ok(self) -> bool:
        """True for a status from 200 to 299."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body, read as JSON; ValueError when it is none."""
        return json.loads(self.text)


class Http:
    """Requests over http and https. A few run at once, some more wait; redirects are not followed."""

    def __init__(self, link: Link, at_once: int) -> None:
        self._link = link
        self._running = asyncio.Semaphore(at_once)
        self._waiting = 0

    async def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 5.0
    ) -> HttpResponse:
        """Fetch a URL. HttpError: it is not allowed, cannot be reached, or answers too much or too late."""
        return await self.request("GET", url, headers=headers, timeout=timeout)

    async def post(
        self,
        url: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> HttpResponse:
        """Send text as it is, and anything else as JSON. HttpError: see `get`."""
        return await self.request("POST", url, body, headers=headers, timeout=timeout)

    async def request(
        self,
        method: str,
        url: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> HttpResponse:
        """Any method. HttpError: see `get`."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        if isinstance(body, str) and len(body.encode()) > MAX_BODY_BYTES:
            raise HttpError(f"the body is over {MAX_BODY_BYTES} bytes: send less")
        if not isinstance(timeout, int | float) or not 0 < timeout <= MAX_SECONDS:
            raise ScenarioMistake(f"timeout {timeout!r}: give seconds, above 0 and at most {MAX_SECONDS}")
        if self._waiting >= MAX_WAITING:
            raise ScenarioMistake(f"{MAX_WAITING} HTTP requests wait: wait for some before asking for more")
        self._waiting += 1
        try:
            async with self._running:
                id = self._link.name("http")
                future = self._link.ask(id)
                self._link.send(
                    "http", id=id, method=method, url=url, headers=sent, body=body, timeout=timeout
                )
                answer = await future
        finally:
            self._waiting -= 1
        if "error" in answer:
            raise HttpError(str(answer["error"]))
        return HttpResponse(int(answer["status"]), answer["headers"], str(answer["text"]))
