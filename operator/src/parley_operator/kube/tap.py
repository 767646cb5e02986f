"""Takes lines out of watch streams before whoever reads them does.

kopf makes a task, three loggers and some dozen other objects of every event; of the events that come by the
thousand only their object is wanted. kopf keeps the streams: it lists, follows bookmarks, and begins anew
where a stream breaks or is too old.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Self, cast

import aiohttp

from .login import Login

# A line of a watch stream; returns its resource version when it is dealt with and nobody else needs to see
# it, else nothing.
Take = Callable[[bytes], str]
# Lines taken in a row after which the reader is told how far the stream is.
_MARK_EVERY = 64


def tapped_session(login: Login, path: str, take: Take) -> aiohttp.ClientSession:
    """A session whose watches of `path` give their lines to `take` first; called on the session's loop."""

    class Response(aiohttp.ClientResponse):
        async def start(self, connection: Any) -> Self:
            await super().start(connection)
            if self.status == 200 and self.url.path == path and self.url.query.get("watch") == "true":
                self.content = cast("aiohttp.StreamReader", Sieve(self.content, take))
            return self

    token = login.token()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=login.ssl_context() or True),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        trust_env=False,
        response_class=Response,
    )


class Sieve:
    """A stream whose chunks lack the lines that were taken; for all else it is the stream itself.

    A bookmark says now and then, and where the stream ends, how far the lines went that were taken: whoever
    begins it anew begins there.
    """

    def __init__(self, content: aiohttp.StreamReader, take: Take) -> None:
        self._content = content
        self._take = take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        rest, owed, version = b"", 0, ""
        try:
            async for data in self._content.iter_chunked(n):
                *lines, rest = (rest + data).split(b"\n")
                left = []
                for line in lines:
                    if not line:
                        continue
                    taken = self._take(line)
                    if taken:
                        owed, version = owed + 1, taken
                    else:
                        left.append(line)
                        owed = 0
                if owed >= _MARK_EVERY:
                    left.append(_bookmark(version))
                    owed = 0
                if left:
                    yield b"\n".join(left) + b"\n"
        except Exception:
            if owed:
                yield _bookmark(version) + b"\n"
            raise
        if owed:
            yield _bookmark(version) + b"\n"
        if rest:
            yield rest


def _bookmark(version: str) -> bytes:
    return b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%s"}}}' % version.encode()
