"""KubeStore: `ports.Store` on the API server, with aiohttp.

Every request has a deadline, and every attempt to write asks first whether this process still may. 429 and
5xx are repeated for a while where repeating is harmless, a 401 once with the
token read afresh; everything else becomes a `StoreError`, whose text never holds what was sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote

import aiohttp
import msgspec

from parley_operator.api.constants import RESOURCES, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.ports import Conflict, NotLeading, Refused, StoreError

from .gate import Gate
from .login import Login

log = logging.getLogger(__name__)
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
FIELD_MANAGER = "parley-operator"
OURS = {"fieldManager": FIELD_MANAGER}
# Within the class, `list` is the method.
_Bodies = list[Body]
_REPEATED = {429, 500, 502, 503, 504}
_LONGEST_PAUSE = 5.0
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: Body
    retry_after: float


class KubeStore:
    """Use as an async context manager; one connection pool."""

    def __init__(
        self,
        login: Login,
        *,
        timeout: float = 15.0,
        attempts: int = 4,
        page: int = 500,
        on_error: Callable[[str, int], None] = lambda verb, code: None,
        may_write: Callable[[], bool] = lambda: True,
        on_written: Callable[[str, str], None] = lambda kind, version: None,
        writes_at_once: int = 24,
    ) -> None:
        """`on_written` is told the kind and the resource version of what was created or changed."""
        self._login = login
        self._timeout = timeout
        self._attempts = attempts
        self._page = page
        self._on_error = on_error
        self._may_write = may_write
        self._on_written = on_written
        self._gate = Gate(writes_at_once)
        self._http: aiohttp.ClientSession | None = None
        self._token = ""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._login.ssl_context() or True, limit=64)
        self._http = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._token = self._login.token()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    # -- Store

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        answer = await self._request("GET", _path(kind, namespace, name))
        return None if answer.status == 404 else self._good(answer, f"get {kind} {namespace}/{name}")

    async def list(self, kind: str, labels: str = "") -> list[Body]:
        for _ in range(3):
            found = await self._list_once(kind, labels)
            if found is not None:
                return found
        raise StoreError(f"list {kind}: the list grew too old while it was read")

    async def _list_once(self, kind: str, labels: str) -> _Bodies | None:
        prefix, plural = RESOURCES[kind]
        query = {"limit": str(self._page)}
        if labels:
            query["labelSelector"] = labels
        found: _Bodies = []
        while True:
            answer = await self._request("GET", f"/{prefix}/{plural}", query=query)
            if answer.status == 410:
                return None
            page = self._good(answer, f"list {kind}")
            items = page.get("items")
            found += [cast("Body", item) for item in items] if isinstance(items, list) else []
            more = text_at(page, "metadata", "continue")
            if not more:
                return found
            query["continue"] = more

    async def create(self, kind: str, body: Mapping[str, object]) -> Body:
        namespace, name = text_at(body, "metadata", "namespace"), text_at(body, "metadata", "name")
        answer = await self._request("POST", _path(kind, namespace), body=body, query=OURS, harmless=False)
        return self._written(kind, self._good(answer, f"create {kind} {namespace}/{name}"))

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, object]) -> Body | None:
        answer = await self._request(
            "PATCH", _path(kind, namespace, name), body=patch, media=MERGE, query=OURS
        )
        return None if answer.status == 404 else self._good(answer, f"patch {kind} {namespace}/{name}")

    async def patch_status(
        self, kind: str, seen: Mapping[str, object], status: Mapping[str, object]
    ) -> Body | None:
        namespace, name = text_at(seen, "metadata", "namespace"), text_at(seen, "metadata", "name")
        uid = text_at(seen, "metadata", "uid")
        path = _path(kind, namespace, name) + "/status"
        # The API server ignores a uid in a patch of /status; the resource version is what it compares.
        body = {
            "metadata": {"resourceVersion": text_at(seen, "metadata", "resourceVersion")},
            "status": status,
        }
        answer = await self._request("PATCH", path, body=body, media=MERGE, query=OURS)
        return await self._status_written(answer, kind, namespace, name, uid)

    async def apply_status(
        self, kind: str, seen: Mapping[str, object], status: Mapping[str, object]
    ) -> Body | None:
        namespace, name = text_at(seen, "metadata", "namespace"), text_at(seen, "metadata", "name")
        uid = text_at(seen, "metadata", "uid")
        metadata = {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "resourceVersion": text_at(seen, "metadata", "resourceVersion"),
        }
        api = RESOURCES[kind][0].removeprefix("apis/").removeprefix("api/")
        body = {"apiVersion": api, "kind": kind, "metadata": metadata, "status": status}
        query = {**OURS, "force": "true"}
        path = _path(kind, namespace, name) + "/status"
        answer = await self._request("PATCH", path, body=body, media=APPLY, query=query)
        return await self._status_written(answer, kind, namespace, name, uid)

    async def _status_written(
        self, answer: _Answer, kind: str, namespace: str, name: str, uid: str
    ) -> Body | None:
        if answer.status == 404:
            return None
        if answer.status in (409, 422):
            present = await self.get(kind, namespace, name)
            if present is None or text_at(present, "metadata", "uid") != uid:
                return None
        return self._written(kind, self._good(answer, f"write status of {kind} {namespace}/{name}"))

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        body: Body = {"propagationPolicy": "Background"}
        if uid:
            body["preconditions"] = {"uid": uid}
        answer = await self._request("DELETE", _path(kind, namespace, name), body=body)
        if answer.status not in (404, 409):
            self._good(answer, f"delete {kind} {namespace}/{name}")

    async def apply(self, kind: str, body: Mapping[str, object]) -> Body:
        namespace, name = text_at(body, "metadata", "namespace"), text_at(body, "metadata", "name")
        query = {**OURS, "force": "true"}
        path = _path(kind, namespace, name)
        answer = await self._request("PATCH", path, body=body, media=APPLY, query=query)
        return self._good(answer, f"apply {kind} {namespace}/{name}")

    async def review(self, path: str, body: Mapping[str, object]) -> Body:
        """POST what is answered and not kept, such as a TokenReview. Raises `StoreError`."""
        answer = await self._request("POST", path, body=body)
        if answer.status >= 300:
            # Nothing of the answer: it may repeat what was sent.
            raise StoreError(f"POST {path}: HTTP {answer.status}", code=answer.status)
        return answer.body

    async def count(self, kind: str) -> int:
        """How many objects of the kind there are; one of them is read."""
        prefix, plural = RESOURCES[kind]
        answer = await self._request("GET", f"/{prefix}/{plural}", query={"limit": "1"})
        page = self._good(answer, f"count {kind}")
        items, left = page.get("items"), map_at(page, "metadata").get("remainingItemCount")
        return (len(items) if isinstance(items, list) else 0) + (left if isinstance(left, int) else 0)

    # -- HTTP

    def _written(self, kind: str, body: Body) -> Body:
        self._on_written(kind, text_at(body, "metadata", "resourceVersion"))
        return body

    def _good(self, answer: _Answer, what: str) -> Body:
        if answer.status < 300:
            return answer.body
        said = text_at(answer.body, "message")
        text = f"{what}: HTTP {answer.status}: {said[:500]}"
        kind = StoreError
        if answer.status == 409:
            kind = Conflict
        elif answer.status in (400, 403, 404, 405, 413, 415, 422):
            kind = Refused
        raise kind(text, code=answer.status, words=said[:2000], causes=_causes(answer.body))

    async def _request(
        self,
        verb: str,
        path: str,
        *,
        body: Mapping[str, object] | None = None,
        media: str = "application/json",
        query: Mapping[str, str] | None = None,
        harmless: bool = True,
    ) -> _Answer:
        delay, refreshed = 0.2, False
        for attempt in range(1, self._attempts + 1):
            try:
                async with self._gate.turn(writes=verb != "GET"):
                    answer = await self._once(verb, path, body, media, query)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._on_error(verb, 0)
                if attempt == self._attempts or not harmless:
                    raise StoreError(f"{verb} {path}: {type(error).__name__}") from error
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
                continue
            if answer.status >= 400 and answer.status != 404:
                self._on_error(verb, answer.status)
            if answer.status == 401 and not refreshed:
                refreshed = True
                try:
                    self._token = self._login.token()
                except OSError as error:
                    raise StoreError(f"{verb} {path}: no token: {type(error).__name__}", code=401) from error
                continue
            # The server refuses with 429 before it does anything.
            repeat = answer.status == 429 or (answer.status in _REPEATED and harmless)
            if answer.status == 429:
                # Meant for all of us: nobody knocks again before.
                self._gate.pause(min(answer.retry_after or delay, _LONGEST_PAUSE))
            if not repeat or attempt == self._attempts:
                return answer
            await asyncio.sleep(min(answer.retry_after or delay, _LONGEST_PAUSE))
            delay = min(delay * 2, 2.0)
        return answer

    async def _once(
        self,
        verb: str,
        path: str,
        body: Mapping[str, object] | None,
        media: str,
        query: Mapping[str, str] | None,
    ) -> _Answer:
        if self._http is None:
            raise StoreError("the store is not open")
        # As late as can be: a process that was frozen meanwhile finds its time over.
        if verb != "GET" and not self._may_write():
            raise NotLeading(f"{verb} {path}: not sent: this operator does not lead")
        headers = {"Accept": "application/json", "Content-Type": media}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else _encode(body)
        url = self._login.server + path
        async with self._http.request(verb, url, data=data, headers=headers, params=query) as response:
            raw = await response.read()
            try:
                found = _decode(raw) if raw else {}
            except msgspec.DecodeError:
                found = {"message": "the answer is no JSON"}
            after = response.headers.get("Retry-After", "")
            seconds = float(after) if after.isdigit() else 0.0
            return _Answer(response.status, map_at({"body": found}, "body"), seconds)


def _causes(status: Body) -> list[tuple[str, str]]:
    """The fields that the API server names in a refusal, with what it says of them."""
    found = map_at(status, "details").get("causes")
    items = found if isinstance(found, list) else []
    return [(text_at(c, "field"), text_at(c, "message")[:500]) for c in items if isinstance(c, dict)]


def _path(kind: str, namespace: str, name: str = "") -> str:
    # Workers report names too: none may lead to another path.
    prefix, plural = RESOURCES[kind]
    space, last = quote(namespace, safe=""), quote(name, safe="")
    return f"/{prefix}/namespaces/{space}/{plural}" + (f"/{last}" if name else "")
