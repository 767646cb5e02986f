"""Function calls over HTTP: a POST, signed by the rules of Standard Webhooks, repeated while that may help.

    webhook-id: <uid>.<attempt>.<call_id>             (also sent as Idempotency-Key; the same at every try)
    webhook-timestamp: <Unix seconds of this try>
    webhook-signature: v1,<base64 of HMAC-SHA256 over "id.timestamp.body">

Tried again, within the call's deadline: connections that fail or break, 5xx, 429 (not before its
Retry-After). Never: other 4xx, redirects, bad certificates, results that are none. Redirects are not
followed: the URL was judged, its successor was not.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import logging
import random
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from parley_worker import __version__
from parley_worker.clock import Clock
from parley_worker.core.addresses import may_be_reached
from parley_worker.core.tool_routing import (
    ToolCode,
    ToolProblem,
    result_text,
    retry_wait,
    timed_out,
    too_large,
    unreachable,
)
from parley_worker.transport.http_pool import AddressRefused, HttpPool, MayReach
from parley_worker.transport.tls import prepare, trusting
from parley_worker.transport.tool_ports import ToolCallFailed, ToolRequest

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
KEY_PREFIX = "whsec_"
MAX_ERROR_BYTES = 16 * 1024
_CONNECTION_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, OSError)


class _Again(Exception):
    """This try failed and another may do better; `after` is what the server asked for, in seconds."""

    def __init__(self, problem: ToolProblem, after: float | None = None) -> None:
        super().__init__(str(problem.code))
        self.problem = problem
        self.after = after


class Webhooks:
    """The webhook route. One connection pool serves every session, without a bound of its own; `close()`
    ends it."""

    def __init__(
        self,
        clock: Clock,
        chance: Callable[[], float] = random.random,
        may_reach: MayReach = may_be_reached,
    ) -> None:
        self._clock = clock
        self._chance = chance
        headers = {"User-Agent": f"parley-worker/{__version__}", "Accept-Encoding": "identity"}
        self._http = HttpPool(0, may_reach, headers=headers, decompress=False)

    async def close(self) -> None:
        """Close idle connections; calls that run fail."""
        await self._http.close()

    async def call(self, request: ToolRequest) -> str:
        """See ToolService."""
        body = _body(request)
        failed = 0
        while True:
            try:
                return await self._try(request, body)
            except _Again as error:
                failed += 1
                remaining = request.deadline - self._clock.monotonic()
                wait = retry_wait(failed, error.after, remaining, self._chance())
                if failed > request.route.retries or wait is None:
                    raise ToolCallFailed(error.problem) from None
            await asyncio.sleep(wait)

    async def _try(self, request: ToolRequest, body: bytes) -> str:
        name, route = request.name, request.route
        remaining = max(0.001, request.deadline - self._clock.monotonic())
        timeout = aiohttp.ClientTimeout(total=remaining, sock_connect=CONNECT_SECONDS)
        try:
            await prepare(route.ca_pem)
            async with self._http.session().post(
                route.url,
                data=body,
                headers=_headers(request, body, round(self._clock.wall())),
                allow_redirects=False,
                timeout=timeout,
                ssl=trusting(route.ca_pem),
            ) as response:
                return await self._take(request, response)
        except aiohttp.ClientConnectorError as error:
            if isinstance(error, aiohttp.ClientSSLError):
                log.warning("webhook of tool %s: its certificate cannot be trusted", name)
                raise ToolCallFailed(unreachable(name)) from None
            if isinstance(error.os_error, AddressRefused):
                log.warning("webhook of tool %s: its host leads to an address that is refused", name)
                raise ToolCallFailed(_refused(name, "its address may not be called")) from None
            raise _Again(unreachable(name)) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ssl.SSLError, ValueError):
            log.warning("webhook of tool %s: its URL or its certificates cannot be used", name)
            raise ToolCallFailed(unreachable(name)) from None
        except _CONNECTION_ERRORS:
            if self._clock.monotonic() >= request.deadline:
                raise ToolCallFailed(timed_out(route)) from None
            raise _Again(unreachable(name)) from None
        except aiohttp.ClientError:
            problem = ToolProblem(ToolCode.INVALID_RESULT, f"what {name!r} returned is not an HTTP answer")
            raise ToolCallFailed(problem) from None

    async def _take(self, request: ToolRequest, response: aiohttp.ClientResponse) -> str:
        name, status = request.name, response.status
        if status == 429 or status >= 500:
            code = ToolCode.UNAVAILABLE if status in (429, 502, 503, 504) else ToolCode.FAILED
            word = "is busy" if status == 429 else "failed"
            problem = ToolProblem(code, f"{name!r} {word} (HTTP {status})")
            raise _Again(problem, _retry_after(response.headers.get("Retry-After"), self._clock.wall()))
        if 300 <= status < 400:
            raise ToolCallFailed(_refused(name, "it moved to another address, which is not followed"))
        if status >= 400:
            says = _reason(await _read(response, MAX_ERROR_BYTES))
            raise ToolCallFailed(_refused(name, says or f"HTTP {status}"))
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            problem = ToolProblem(ToolCode.INVALID_RESULT, f"what {name!r} returned is compressed")
            raise ToolCallFailed(problem)
        data = await _read(response, request.route.max_output_bytes)
        if data is None:
            raise ToolCallFailed(too_large(request.route))
        result = result_text(data, response.headers.get("Content-Type", ""), name)
        if isinstance(result, ToolProblem):
            raise ToolCallFailed(result)
        return result


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body; None as soon as it is over the limit."""
    if response.content_length is not None and response.content_length > limit:
        return None
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            return None
    return bytes(data)


def _reason(body: bytes | None) -> str:
    """What a refusal `{"error": {"message": "..."}}` says; written for the model by who serves the tool."""
    try:
        parsed = json.loads(body or b"")
        message = parsed["error"]["message"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return message if isinstance(message, str) else ""


def _refused(name: str, why: str) -> ToolProblem:
    return ToolProblem(ToolCode.REFUSED, f"{name!r} refused the call: {why}")


def _body(request: ToolRequest) -> bytes:
    """The whole call as JSON; the same bytes at every try."""
    session = request.session
    deadline = datetime.fromtimestamp(request.deadline_unix, UTC).isoformat(timespec="milliseconds")
    call = {
        "type": "tool.call",
        "name": request.name,
        "call_id": request.call_id,
        "arguments": json.loads(request.arguments),
        "deadline": deadline.replace("+00:00", "Z"),
        "session": {
            "uid": session.uid,
            "attempt": session.attempt,
            "namespace": session.namespace,
            "name": session.name,
        },
    }
    return json.dumps(call, separators=(",", ":")).encode()


def _headers(request: ToolRequest, body: bytes, timestamp: int) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": request.key,
        "webhook-id": request.key,
        "webhook-timestamp": str(timestamp),
    }
    key = request.route.signing_key.reveal()
    if key:
        headers["webhook-signature"] = sign(key, request.key, timestamp, body)
    return headers


def sign(key: str, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64>`. A key `whsec_<base64>` stands for the bytes that it encodes, any other for itself."""
    secret = key.encode()
    if key.startswith(KEY_PREFIX):
        try:
            secret = base64.b64decode(key.removeprefix(KEY_PREFIX), validate=True)
        except binascii.Error:
            secret = key.encode()
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def _retry_after(value: str | None, wall: float) -> float | None:
    """Seconds or a date; None for none, and for what cannot be read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value.strip()[:9])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - wall)
    except (ValueError, TypeError):
        return None
