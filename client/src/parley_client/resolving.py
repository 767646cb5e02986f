"""Where a session lives now: asked whenever a call has lost its worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .errors import SessionNotFound


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A session's place.

    Args:
        address: `host:port` of its worker for callers.
        tls_server_name: name to verify in the worker's certificate; empty to keep the one that is known.
        attempt: which placement this is, 1 or more; 0 when that is not known.
    """

    address: str
    tls_server_name: str = ""
    attempt: int = 0


class Resolver(Protocol):
    """Knows where sessions live."""

    async def resolve(self, uid: str, ticket: str) -> Endpoint:
        """Return the place of the session with that uid; `ticket` shows that it may be told.

        Raises:
            SessionNotFound: there is no such session: a call that looks for it is lost.
            SessionNotReady: it has no place now; where its phase says that it is over, a call is lost, too.
            ParleyError: anything else; it is asked again.
        """
        ...


class StaticResolver:
    """Places that the program sets itself: for tests, and where they are known by other means.

    Args:
        endpoints: places by session uid; `set` changes them.
    """

    def __init__(self, endpoints: dict[str, Endpoint] | None = None) -> None:
        self._endpoints = dict(endpoints or {})

    def set(self, uid: str, endpoint: Endpoint) -> None:
        """The session lives there from now on."""
        self._endpoints[uid] = endpoint

    async def resolve(self, uid: str, ticket: str) -> Endpoint:
        """See Resolver."""
        try:
            return self._endpoints[uid]
        except KeyError:
            raise SessionNotFound(f"session {uid}: no endpoint was set; call set() first") from None
