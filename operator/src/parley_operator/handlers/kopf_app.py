"""kopf's part: watches, and nothing else. Level-triggered: no finalizers, no annotations, no Events."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

import kopf

from parley_operator.api.constants import (
    AGENT,
    GROUP,
    LABEL_POOL,
    POD,
    POOL,
    RESOURCES,
    SESSION,
    VERSION,
    Body,
)
from parley_operator.kube.login import Login

Observe = Callable[[str, Body, bool], None]


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: there are no change handlers that would need it."""

    def build(self, *, body: Any, extra_fields: Iterable[Any] | None = None) -> Any:
        return {}

    def fetch(self, *, body: Any) -> Any:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None


def build_registry(observe: Observe, login: Login) -> kopf.OperatorRegistry:
    """A registry of our own with one event handler a kind."""
    registry = kopf.OperatorRegistry()

    def watch(kind: str) -> Callable[..., None]:
        def seen(event: Any, **_: Any) -> None:
            observe(kind, plain(event["object"]), event["type"] == "DELETED")

        seen.__name__ = f"{kind.lower()}_seen"
        return seen

    for kind in (SESSION, AGENT, POOL):
        kopf.on.event(GROUP, VERSION, RESOURCES[kind][1], registry=registry)(watch(kind))
    kopf.on.event("", "v1", "pods", labels={LABEL_POOL: kopf.PRESENT}, registry=registry)(watch(POD))

    def connect(**_: Any) -> kopf.ConnectionInfo:
        return connection(login)

    kopf.on.login(registry=registry)(connect)

    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        tune(settings)

    kopf.on.startup(registry=registry)(configure)
    return registry


def plain(value: Any) -> Any:
    """A plain copy of kopf's views."""
    if hasattr(value, "items"):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def tune(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 360
    settings.networking.request_timeout = 30
    settings.queueing.idle_timeout = 0.1
    # Only what is watched is asked for: no look at definitions or namespaces beyond kopf's first one.
    settings.scanning.disabled = False


def connection(login: Login) -> kopf.ConnectionInfo:
    def encoded(data: bytes) -> bytes | None:
        return base64.b64encode(data) if data else None

    return kopf.ConnectionInfo(
        server=login.server,
        ca_data=encoded(login.ca),
        insecure=login.insecure,
        token=login.token() or None,
        certificate_data=encoded(login.certificate),
        private_key_data=encoded(login.key),
    )


async def run_kopf(
    registry: kopf.OperatorRegistry,
    stop: asyncio.Event,
    ready: asyncio.Event,
    namespaces: Collection[str] = (),
) -> None:
    """Watch until `stop` is set. kopf takes over signal handlers: set your own after `ready`."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(
        registry=registry,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        standalone=True,
        stop_flag=stop,
        ready_flag=ready,
    )
