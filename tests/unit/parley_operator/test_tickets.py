"""Where callers are told that the worker is: the latest word stays, however late another one comes."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from parley_operator.domain.model import Placement
from parley_operator.domain.subjects import subject_of
from parley_operator.handlers.tickets import Ticket, ensure_ticket, read_ticket, write_endpoint
from parley_operator.ports import Conflict
from reconcile_plane import SECRET, Plane

FIRST = Placement("w1", "i1", 1, endpoint="w1:1", tls_server_name="w1.test")
SHARD = replace(FIRST, endpoint="w1:2")
SECOND = Placement("w2", "i2", 2, endpoint="w2:1", tls_server_name="w2.test")


async def begun(plane: Plane) -> tuple[Any, Ticket]:
    """A session whose ticket names where its first attempt is, as one operator reads it."""
    subject, _ = subject_of(await plane.session())
    await ensure_ticket(plane.store, subject, FIRST, b"", lambda: "text")
    ticket = await read_ticket(plane.store, subject)
    assert ticket is not None
    return subject, ticket


def told(plane: Plane) -> tuple[str, str, str]:
    """Endpoint and TLS name, and the attempt that the Secret is of."""
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    words = (base64.b64decode(body["data"][key]).decode() for key in ("endpoint", "tlsServerName"))
    return (*words, body["metadata"]["annotations"]["parley.dev/attempt"])


async def test_a_leader_of_old_does_not_send_callers_back() -> None:
    plane = Plane()
    subject, stale = await begun(plane)
    fresh = await read_ticket(plane.store, subject)
    assert fresh is not None
    await write_endpoint(plane.store, subject, fresh, SECOND)
    assert told(plane) == ("w2:1", "w2.test", "2")
    await write_endpoint(plane.store, subject, stale, SHARD)
    assert told(plane) == ("w2:1", "w2.test", "2")


async def test_a_write_that_was_overtaken_is_made_again_over_what_is_there() -> None:
    plane = Plane()
    subject, ticket = await begun(plane)
    await plane.store.patch(SECRET, "default", "call-ticket", {"metadata": {"labels": {"by": "somebody"}}})
    await write_endpoint(plane.store, subject, ticket, SHARD)
    assert told(plane) == ("w1:2", "w1.test", "1")
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    assert body["metadata"]["labels"]["by"] == "somebody"


async def test_a_secret_that_somebody_keeps_writing_is_left_for_later() -> None:
    plane = Plane()
    subject, ticket = await begun(plane)

    def busy(verb: str, kind: str) -> None:
        raise Conflict("changed meanwhile")

    plane.store.before = busy
    with pytest.raises(Conflict, match="again and again"):
        await write_endpoint(plane.store, subject, ticket, SHARD)


async def test_a_secret_that_is_gone_is_not_written() -> None:
    plane = Plane()
    subject, ticket = await begun(plane)
    body: Any = plane.store.peek(SECRET, "default", "call-ticket")
    await plane.store.delete(SECRET, "default", "call-ticket", body["metadata"]["uid"])
    await write_endpoint(plane.store, subject, ticket, SHARD)
    assert plane.store.peek(SECRET, "default", "call-ticket") is None
