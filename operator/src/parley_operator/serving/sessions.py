"""The session service of one replica, put together: its certificate, its server, and what it answers with."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256

from parley_operator import pki
from parley_operator.api.constants import CONFIG_MAP, Body
from parley_operator.clock import Clock
from parley_operator.config import SessionsSettings
from parley_operator.handlers.access import Gate
from parley_operator.handlers.context import Context
from parley_operator.handlers.reconciler import Reconciler
from parley_operator.handlers.session_desk import SessionDesk
from parley_operator.handlers.session_finding import SessionFinder
from parley_operator.handlers.session_views import SessionViews
from parley_operator.handlers.whereabouts import Whereabouts
from parley_operator.ports import Leadership, Reviews, Store, StoreError
from parley_operator.telemetry.metrics import Metrics

from .session_server import Desks, SessionServer
from .session_tls import ServerCertificate, from_folder, issued

log = logging.getLogger(__name__)
DEFAULT_NAME = "parley-sessions"


def certificate(settings: SessionsSettings, ca: Callable[[], pki.KeyPair], clock: Clock) -> ServerCertificate:
    """Raises `OSError` or `ValueError` for files that cannot be used."""
    if settings.tls_dir is not None:
        return from_folder(settings.tls_dir)
    return issued(ca, settings.names or (DEFAULT_NAME,), clock)


def make_desks(
    context: Context, reconciler: Reconciler, reviews: Reviews, ca: pki.KeyPair, new_id: Callable[[], str]
) -> Desks:
    """What a replica answers with while it leads."""
    gate = Gate(reviews, context.clock)
    where = Whereabouts(context, reconciler.sessions.book.get, reconciler.sessions.book.digest)
    # All replicas of an installation have the CA's key, and nobody else does.
    key = hmac.new(ca.key, b"parley.sessions.v1 requests", sha256).digest()
    return Desks(
        gate,
        SessionDesk(context, gate, where, lambda kind, body: reconciler.observe(kind, body), key, new_id),
        SessionViews(context, gate),
        SessionFinder(context, gate, where),
    )


@asynccontextmanager
async def serving(
    settings: SessionsSettings, certificate: ServerCertificate, leadership: Leadership, metrics: Metrics
) -> AsyncIterator[SessionServer]:
    """A server that listens; it answers once it was told to `lead`. Raises `OSError`."""
    server = SessionServer(leadership, metrics.session_call)
    await server.serve(settings.address, certificate.credentials())
    log.info("the session service listens on port %d", server.port)
    try:
        yield server
    finally:
        await server.close()


async def publish(store: Store, settings: SessionsSettings, namespace: str, ca: bytes) -> None:
    """Tell clients, in a ConfigMap, where the service is and whom to trust. A failure is logged only: the
    service
    works without it."""
    if not settings.config_map:
        return
    if settings.tls_dir is not None:
        own = settings.tls_dir / "ca.crt"
        ca = own.read_bytes() if own.is_file() else b""
    name = (settings.names or (DEFAULT_NAME,))[0]
    body: Body = {
        "apiVersion": "v1",
        "kind": CONFIG_MAP,
        "metadata": {
            "name": settings.config_map,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "parley-operator",
                "app.kubernetes.io/part-of": "parley",
            },
        },
        "data": {
            "address": f"{name}:{settings.address.rpartition(':')[2]}",
            "tlsServerName": name,
            "ca.crt": ca.decode(),
        },
    }
    try:
        await store.apply(CONFIG_MAP, body)
    except StoreError as error:
        log.error("clients are not told of the session service: %s", error)
