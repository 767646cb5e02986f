"""Finding a session: by the API server and its ticket Secret, or by an address that the user knows."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
from lightkube import AsyncClient, KubeConfig
from lightkube.core.exceptions import ApiError, ConfigError, LoadResourceError
from lightkube.generic_resource import GenericNamespacedResource, create_namespaced_resource
from lightkube.resources.core_v1 import Pod, Secret

from .errors import ConnectError, SessionNotFound, SessionNotReady, UsageError
from .target import Target, is_loopback

GROUP: Final = "parley.dev"
VERSION: Final = "v1alpha1"
ATTACHABLE: Final = frozenset({"Ready", "Active", "Recovering"})
FINISHED: Final = frozenset({"Completed", "Failed", "Cancelled"})
API_TIMEOUT: Final = 10.0

VoiceSession: type[GenericNamespacedResource] = create_namespaced_resource(
    GROUP, VERSION, "VoiceSession", "voicesessions"
)


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A VoiceSession as a person wants to see it; empty strings where its status says nothing yet."""

    namespace: str
    name: str
    uid: str
    phase: str
    worker: str
    endpoint: str
    tls_server_name: str
    attempt: int
    end_reason: str
    created: str
    message: str
    ticket_secret: str


def session_info(session: Mapping[str, Any]) -> SessionInfo:
    """Read an object of the API server."""
    metadata = session.get("metadata") or {}
    status = session.get("status") or {}
    worker = status.get("worker") or {}
    conditions = status.get("conditions") or []
    unhappy = [c for c in conditions if c.get("status") == "False" and c.get("message")]
    secret = status.get("ticketSecretRef") or {}
    name = str(metadata.get("name", ""))
    return SessionInfo(
        namespace=str(metadata.get("namespace", "")),
        name=name,
        uid=str(metadata.get("uid", "")),
        phase=str(status.get("phase", "")),
        worker=str(worker.get("name", "")),
        endpoint=str(worker.get("endpoint", "")),
        tls_server_name=str(worker.get("tlsServerName", "")),
        attempt=int(status.get("attempt") or 0),
        end_reason=str(status.get("endReason", "")),
        created=str(metadata.get("creationTimestamp", "")),
        message=str(status.get("endMessage") or (unhappy[0]["message"] if unhappy else "")),
        ticket_secret=str(secret.get("name") or f"{name}-ticket"),
    )


def resolve_address(
    address: str,
    ticket: str,
    *,
    ca_pem: str = "",
    tls_server_name: str = "",
    insecure: bool = False,
) -> Target:
    """Return the target of a session whose endpoint and ticket are known.

    TLS is spoken when a CA or a TLS name is given, and outside loopback always, unless `insecure` is True.

    Raises:
        UsageError: the address is no host:port or the ticket is empty.
    """
    if not ticket.strip():
        raise UsageError("the ticket is empty; read it from the session's Secret, key `ticket`")
    host = address.rpartition(":")[0]
    tls = bool(ca_pem or tls_server_name) or not (insecure or is_loopback(host))
    return Target(address, ticket.strip(), tls, tls_server_name, ca_pem, insecure=insecure)


async def resolve_cluster(
    session: str,
    *,
    namespace: str | None = None,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
    wait: float = 0.0,
    on_phase: Callable[[str], None] | None = None,
    insecure: bool = False,
) -> Target:
    """Read a VoiceSession's status and its ticket Secret.

    Args:
        session: name of the VoiceSession.
        namespace: its namespace; the kubeconfig's own when not given.
        kubeconfig: file; KUBECONFIG, then ~/.kube/config, then the pod's service account when not given.
        context: of the kubeconfig.
        wait: seconds to wait for a session that is not ready yet.
        on_phase: told the phase whenever it is read while waiting.
        insecure: True to allow plain text outside loopback, where the worker speaks no TLS.

    Raises:
        SessionNotFound: no such session, or its Secret is missing.
        SessionNotReady: it is over, or not ready in time.
        ConnectError: the API server cannot be reached or refuses.
    """
    async with kube_client(kubeconfig, context, namespace) as client:
        found = await _wait_attachable(client, session, wait, on_phase)
        with api_errors(f"Secret {found.ticket_secret}"):
            secret = await client.get(Secret, found.ticket_secret)
    values = decode_secret(found.ticket_secret, secret.data)
    ticket = values.get("ticket", "")
    if not ticket:
        raise SessionNotFound(f"Secret {found.namespace}/{found.ticket_secret} has no key `ticket`")
    name = values.get("tlsServerName") or found.tls_server_name
    return Target(
        address=values.get("endpoint") or found.endpoint,
        ticket=ticket,
        tls=bool(name or values.get("ca.crt")),
        tls_server_name=name,
        ca_pem=values.get("ca.crt", ""),
        namespace=found.namespace,
        session=found.name,
        session_uid=found.uid,
        worker=found.worker,
        insecure=insecure,
    )


async def get_session(
    session: str,
    *,
    namespace: str | None = None,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
) -> SessionInfo:
    """Read one VoiceSession. Raises as `resolve_cluster`."""
    async with kube_client(kubeconfig, context, namespace) as client:
        with api_errors(f"VoiceSession {session}"):
            return session_info(await client.get(VoiceSession, session))


async def pod_namespace(
    pod: str, session_namespace: str, *, kubeconfig: Path | str | None = None, context: str | None = None
) -> str:
    """Return the namespace of a worker's pod: the session's own, or the only other one that has such a pod.

    Raises:
        SessionNotFound: there is no such pod, or several.
        ConnectError: as `resolve_cluster`; listing pods of all namespaces may be forbidden.
    """
    async with kube_client(kubeconfig, context, session_namespace) as client:
        with api_errors(f"pod {pod}"):
            pods = client.list(Pod, namespace="*", fields={"metadata.name": pod})
            found = [item.metadata.namespace or "" async for item in pods if item.metadata]
    if session_namespace in found:
        return session_namespace
    if len(found) != 1:
        raise SessionNotFound(f"{len(found)} pods are called {pod}; give --worker-namespace")
    return found[0]


async def list_sessions(
    *,
    namespace: str | None = None,
    all_namespaces: bool = False,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
) -> list[SessionInfo]:
    """Read all VoiceSessions, oldest first."""
    where = "*" if all_namespaces else None
    async with kube_client(kubeconfig, context, namespace) as client:
        with api_errors("VoiceSessions"):
            found = [session_info(item) async for item in client.list(VoiceSession, namespace=where)]
    return sorted(found, key=lambda info: (info.created, info.namespace, info.name))


async def _wait_attachable(
    client: AsyncClient, session: str, wait: float, on_phase: Callable[[str], None] | None
) -> SessionInfo:
    now = asyncio.get_running_loop().time
    deadline = now() + wait
    while True:
        with api_errors(f"VoiceSession {session}"):
            found = session_info(await client.get(VoiceSession, session))
        if on_phase is not None:
            on_phase(found.phase)
        if found.phase in ATTACHABLE and found.endpoint:
            return found
        if found.phase in FINISHED or now() >= deadline:
            raise SessionNotReady(_not_ready(found), phase=found.phase)
        await asyncio.sleep(0.5)


@asynccontextmanager
async def kube_client(
    kubeconfig: Path | str | None = None, context: str | None = None, namespace: str | None = None
) -> AsyncIterator[AsyncClient]:
    """Open an API client.

    Raises:
        UsageError: the kubeconfig is missing or has no such context.
        ConnectError: there is no cluster configuration at all.
    """
    try:
        config = _read_config(kubeconfig)
        chosen = config.get(context_name=context)
    except ConfigError as error:
        if kubeconfig or context:
            raise UsageError(f"kubeconfig {kubeconfig or ''}: {error}") from error
        raise ConnectError(
            "no cluster is configured: there is no kubeconfig; set KUBECONFIG or give --kubeconfig"
        ) from error
    if chosen is None:
        raise UsageError(f"kubeconfig has no context {context or 'that is current'!r}")
    timeout = httpx2.Timeout(API_TIMEOUT)
    client = AsyncClient(config=chosen, namespace=namespace, timeout=timeout, trust_env=False)
    try:
        yield client
    finally:
        await client.close()


def kubeconfig_token(kubeconfig: Path | str | None = None, context: str | None = None) -> str:
    """Return the token of the kubeconfig's user, or of the pod's service account.

    Raises:
        UsageError: there is none; certificates and exec plugins give no token that can be passed on.
    """
    remedy = "give --token-file, or set PARLEY_TOKEN=$(kubectl create token ACCOUNT)"
    try:
        chosen = _read_config(kubeconfig).get(context_name=context)
        user = chosen.user if chosen else None
        token = (user.token if user else "") or ""
        if user and user.token_file and not token:
            token = Path(user.token_file).read_text(encoding="utf-8").strip()
    except (ConfigError, OSError) as error:
        raise UsageError(f"no Kubernetes token was found ({error}); {remedy}") from error
    if not token:
        raise UsageError(f"the kubeconfig's user has no token; {remedy}")
    return token


def _read_config(kubeconfig: Path | str | None) -> KubeConfig:
    default = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    chosen = Path(kubeconfig) if kubeconfig else default
    if kubeconfig or default.exists():
        return KubeConfig.from_file(str(chosen))
    return KubeConfig.from_service_account()


@contextmanager
def api_errors(what: str) -> Iterator[None]:
    """Turn the API client's failures into this package's errors; `what` names the object."""
    try:
        yield
    except ApiError as error:
        raise _refused(what, error.status.code or 0, error.status.message or str(error)) from error
    except httpx2.HTTPStatusError as error:
        code = error.response.status_code
        raise _refused(what, code, f"HTTP {code} {error.response.reason_phrase}") from error
    except (httpx2.HTTPError, LoadResourceError, OSError) as error:
        raise ConnectError(
            f"{what}: the API server cannot be reached: {error or type(error).__name__}"
        ) from error


def _refused(what: str, code: int, message: str) -> SessionNotFound | ConnectError:
    if code == 404:
        missing_crd = "could not find the requested resource" in message
        return SessionNotFound(
            f"{what}: {message}{'; Parley is not installed in this cluster' if missing_crd else ''}"
        )
    return ConnectError(f"{what}: the API server refused: {message}")


def _not_ready(found: SessionInfo) -> str:
    where = f"VoiceSession {found.namespace}/{found.name}"
    if found.phase in FINISHED:
        return f"{where} is over: {found.phase}, {found.end_reason or 'no reason given'}"
    detail = f": {found.message}" if found.message else ""
    return f"{where} is not ready (phase {found.phase or 'not set yet'}){detail}"


def decode_secret(secret: str, data: Mapping[str, str] | None) -> dict[str, str]:
    """Decode what a Secret holds.

    Raises:
        SessionNotFound: a value is no base64 text.
    """
    return {key: _decode(secret, key, value) for key, value in (data or {}).items()}


def _decode(secret: str, key: str, value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise SessionNotFound(f"Secret {secret}: key {key} is no base64 text") from error
