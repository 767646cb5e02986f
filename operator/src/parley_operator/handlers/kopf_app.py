"""kopf's part: watches, and nothing else. Level-triggered: no finalizers, no annotations, no Events."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, cast

import kopf
import msgspec

from parley_operator.api.constants import (
    AGENT,
    GROUP,
    LABEL_POOL,
    NODE,
    POD,
    POOL,
    RESOURCES,
    SESSION,
    VERSION,
    Body,
)
from parley_operator.api.v1alpha1 import text_at
from parley_operator.kube.login import Login
from parley_operator.kube.tap import tapped_session

log = logging.getLogger(__name__)
_decode: Callable[[bytes], dict[str, Any]] = msgspec.json.Decoder(dict[str, Any]).decode

# Kind, object, whether it is gone, and whether it may be what is known already: kopf lists at its start what
# was listed just before, and most changes of sessions are our own writes.
Observe = Callable[[str, Body, bool, bool], None]
# Events that are taken in one turn of the loop.
_TURN = 50


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: there are no change handlers that would need it."""

    def build(self, *, body: Any, extra_fields: Iterable[Any] | None = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None


class NoProgress(kopf.ProgressStorage):
    """Nor is there any progress of handlers to be kept."""

    def fetch(self, *, key: Any, body: Any) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        return None

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        return None

    def touch(self, *, body: Any, patch: Any, value: str | None) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


class Relay:
    """From kopf's thread to the loop: what comes while the loop is busy is taken in one turn, in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, observe: Observe) -> None:
        self._loop = loop
        self._observe = observe
        self._events: deque[tuple[str, Body, bool, bool]] = deque()
        self._called = False

    def tell(self, kind: str, body: Body, deleted: bool, repeated: bool) -> None:
        """Called on kopf's thread."""
        self._events.append((kind, body, deleted, repeated))
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        # First: whoever tells from here on has it called again.
        self._called = False
        try:
            for _ in range(min(_TURN, len(self._events))):
                self._observe(*self._events.popleft())
        finally:
            if self._events and not self._called:
                self._called = True
                self._loop.call_soon(self._take)


def taken_line(observe: Observe, line: bytes) -> str:
    """Tell of a line of the watch of VoiceSessions, and return its resource version; an empty one leaves it
    to kopf. Deletions end what kopf remembers of an object, and it alone knows what bookmarks and errors mean
    to it."""
    try:
        event = _decode(line)
    except msgspec.DecodeError:
        return ""
    deed, found = event.get("type"), event.get("object")
    if deed not in ("ADDED", "MODIFIED") or not isinstance(found, dict):
        return ""
    version = text_at(found, "metadata", "resourceVersion")
    if version:
        observe(SESSION, found, False, deed == "MODIFIED")
    return version


def build_registry(observe: Observe, login: Login, *, nodes: bool = False) -> kopf.OperatorRegistry:
    """A registry of our own with one event handler a kind, and a session that takes the news of
    VoiceSessions out of their watch before kopf sees it.

    What is to be done with an event is done by the handler's filter, which lets nothing pass. kopf calls
    filters as they are; a handler costs it as much again as everything else about an event, for what we have
    no use: progress, results, time limits, threads.
    """
    registry = kopf.OperatorRegistry()

    def watch(kind: str) -> Any:
        def taken(event: Any, **_: Any) -> bool:
            observe(kind, event["object"], event["type"] == "DELETED", event["type"] is None)
            return False

        return taken

    async def never(**_: Any) -> None:
        """kopf wants a handler for its filter."""

    for kind in (SESSION, AGENT, POOL):
        kopf.on.event(GROUP, VERSION, RESOURCES[kind][1], registry=registry, when=watch(kind))(never)
    pooled = {LABEL_POOL: kopf.PRESENT}
    kopf.on.event("", "v1", "pods", labels=pooled, registry=registry, when=watch(POD))(never)
    if nodes:
        kopf.on.event("", "v1", "nodes", registry=registry, when=watch(NODE))(never)

    async def connect(**_: Any) -> kopf.AiohttpSession:
        path = f"/{RESOURCES[SESSION][0]}/{RESOURCES[SESSION][1]}"
        session = tapped_session(login, path, partial(taken_line, observe))
        return kopf.AiohttpSession(server=login.server, aiohttp_session=session)

    kopf.on.login(registry=registry)(connect)

    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        tune(settings)

    kopf.on.startup(registry=registry)(configure)
    return registry


class KopfStuck(RuntimeError):
    """kopf did not stop when told to: what it holds cannot be had back in this process."""


class _Patience:
    """Seconds between attempts of one request, without end: kopf is not to give up in an outage of the API
    server, nor to be blind for long after one."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.2, 0.5, 1.0, 2.0), itertools.repeat(3.0))


def tune(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 360
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Patience()
    settings.queueing.idle_timeout = 2.0
    # Only what is watched is asked for: no look at definitions or namespaces beyond kopf's first one.
    settings.scanning.disabled = False


class _Ready(threading.Event):
    """Passes the news on to another thread's loop."""

    def __init__(self, tell: Callable[[], object]) -> None:
        super().__init__()
        self._tell = tell

    def set(self) -> None:
        super().set()
        self._tell()


async def run_kopf(
    observe: Observe,
    login: Login,
    stop: asyncio.Event,
    ready: asyncio.Event,
    *,
    patience: float = 15.0,
    nodes: bool = False,
) -> None:
    """Watch until `stop` is set; `observe` is called on the calling loop. `nodes`: watched too.

    kopf gets a thread and a loop of its own: on its way out it cancels every task of its loop that began
    after it, and in a thread it leaves the process's signals alone. Raises what kopf raised, and `KopfStuck`.
    """
    loop = asyncio.get_running_loop()
    logging.getLogger("kopf").setLevel(logging.WARNING)
    halt = threading.Event()

    async def operate() -> None:
        registry = build_registry(Relay(loop, observe).tell, login, nodes=nodes)
        flag = _Ready(lambda: loop.call_soon_threadsafe(ready.set))
        await kopf.operator(
            registry=registry,
            clusterwide=True,
            standalone=True,
            # kopf would name itself after the user, and the image's user id has no name.
            identity=cast("Any", "parley-operator"),
            stop_flag=halt,
            ready_flag=flag,
        )
        # kopf does not wait for the connections that it closes.
        await asyncio.sleep(0.25)

    def in_thread() -> None:
        with asyncio.Runner(loop_factory=type(loop)) as runner:
            runner.run(operate())

    watching = asyncio.ensure_future(asyncio.to_thread(in_thread))
    stopping = asyncio.create_task(stop.wait(), name="stop kopf")
    try:
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        halt.set()
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        done, _ = await asyncio.wait({watching}, timeout=patience)
    if not done:
        raise KopfStuck(f"kopf did not stop within {patience:.0f} s")
    watching.result()
