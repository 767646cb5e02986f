"""Who may do what with the session service: the API server's word, remembered for a short while."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Generic, TypeVar

from parley_operator.clock import Clock
from parley_operator.domain.faults import Fault, FaultCode
from parley_operator.domain.rate import Buckets
from parley_operator.domain.requests import Caller
from parley_operator.ports import Reviews, StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Seconds, and bounds."""

    # A token or right that was taken away is good for this long after it was last asked about.
    keep_good: float = 10.0
    # One that was given is refused for this long.
    keep_bad: float = 3.0
    entries: int = 4096
    reviews_at_once: int = 32
    # Tokens that are nobody's, of one address: a second, and at once.
    bad_tokens: float = 2.0
    bad_tokens_burst: float = 20.0


class Gate:
    """Asks `Reviews` and remembers the answer; the same question is never under way twice."""

    def __init__(self, reviews: Reviews, clock: Clock, settings: AccessSettings | None = None) -> None:
        self._reviews = reviews
        self._clock = clock
        self._settings = settings or AccessSettings()
        kept = self._settings
        self._callers: _Answers[Caller | None] = _Answers(clock, kept, lambda caller: caller is not None)
        self._rights: _Answers[bool] = _Answers(clock, kept, bool)
        self._bad = Buckets(kept.bad_tokens, kept.bad_tokens_burst)
        self._places = asyncio.Semaphore(kept.reviews_at_once)

    async def caller(self, token: str, peer: str) -> Caller:
        """Whose token it is. Raises `Fault`."""
        if not token:
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "token-missing",
                "authorization: is missing; send `authorization: Bearer TOKEN` with a Kubernetes token",
                "authorization",
            )
        # The token itself is not kept.
        key = sha256(token.encode(errors="replace")).hexdigest()
        # Others behind the same address may send what they like: who is known stays known.
        if self._callers.kept(key) is None and self._bad.left(peer, self._clock.monotonic()) < 1:
            raise Fault(
                FaultCode.EXHAUSTED,
                "too-many-bad-tokens",
                "too many tokens that are nobody's; try again in a second",
            )
        found = await self._answer(self._callers, key, lambda: self._reviews.identify(token))
        if found is None:
            self._bad.take(peer, self._clock.monotonic())
            raise Fault(
                FaultCode.UNAUTHENTICATED,
                "token-refused",
                "authorization: the API server does not take this token; renew "
                "it, and see that it is made for this "
                "cluster and audience",
                "authorization",
            )
        return found

    async def require(self, caller: Caller, verb: str, namespace: str, name: str = "") -> None:
        """Raises `Fault` unless the caller may do `verb`."""
        # All that the API server judges by: tokens of one user may differ in what they are good for.
        extra = sorted((kind, sorted(values)) for kind, values in caller.extra.items())
        key = repr((caller.username, caller.uid, sorted(caller.groups), extra, verb, namespace, name))
        allowed = await self._answer(
            self._rights, key, lambda: self._reviews.allowed(caller, verb, namespace, name)
        )
        if not allowed:
            where = f"in namespace {namespace}" if namespace else "in all namespaces"
            raise Fault(
                FaultCode.DENIED,
                "forbidden",
                f"{caller.username!r} may not {verb} voicesessions {where}; bind a role with this verb on "
                "voicesessions.parley.dev",
            )

    async def _answer(self, answers: _Answers[T], key: str, ask: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with self._places:
                return await ask()

        try:
            return await answers.get(key, bounded)
        except StoreError as error:
            log.warning("a caller cannot be judged: %s", error)
            hint = "; the operator may not ask it" if error.code == 403 else "; try again"
            raise Fault(
                FaultCode.UNAVAILABLE,
                "api-server",
                f"the API server cannot be asked who may do this: HTTP {error.code or 'error'}{hint}",
            ) from None


class _Answers(Generic[T]):
    """Answers by question, for a while; of too many the least recently used is forgotten."""

    def __init__(self, clock: Clock, settings: AccessSettings, good: Callable[[T], bool]) -> None:
        self._clock = clock
        self._settings = settings
        self._good = good
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()
        self._asking: dict[str, asyncio.Event] = {}

    def kept(self, key: str) -> T | None:
        """The answer as far as it is known and still holds."""
        kept = self._kept.get(key)
        return kept[1] if kept is not None and self._clock.monotonic() < kept[0] else None

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            kept = self._kept.get(key)
            if kept is not None and self._clock.monotonic() < kept[0]:
                self._kept.move_to_end(key)
                return kept[1]
            other = self._asking.get(key)
            if other is None:
                return await self._ask(key, ask)
            # Whoever asks already may fail or be cancelled: then it is our turn.
            await other.wait()

    async def _ask(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        done = self._asking[key] = asyncio.Event()
        try:
            answer = await ask()
        finally:
            del self._asking[key]
            done.set()
        keep = self._settings.keep_good if self._good(answer) else self._settings.keep_bad
        self._kept[key] = (self._clock.monotonic() + keep, answer)
        self._kept.move_to_end(key)
        while len(self._kept) > self._settings.entries:
            self._kept.popitem(last=False)
        return answer
