"""Where a session is now: asked when its worker is lost and no `Moved` was heard."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from lightkube.resources.core_v1 import Secret

from .errors import SessionNotFound, SessionNotReady
from .resolve import FINISHED, VoiceSession, api_errors, decode_secret, kube_client, session_info

POLL: Final = 0.5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to attach.

    Attributes:
        address: `host:port` of the worker.
        tls_server_name: name to verify in its certificate; empty without TLS.
        attempt: which placement of the session this is.
        ca_pem: CA of the certificate; empty without TLS, and where it is not told.
    """

    address: str
    tls_server_name: str
    attempt: int
    ca_pem: str = field(default="", repr=False)


class SessionResolver(Protocol):
    """Finds a session by its uid; whoever holds its ticket may ask."""

    async def resolve(self, uid: str, ticket: str, *, after_attempt: int = 0, wait: float = 0.0) -> Endpoint:
        """Return where the session is.

        Args:
            uid: of the VoiceSession.
            ticket: of the session.
            after_attempt: only a placement newer than this one counts.
            wait: seconds to wait for one.

        Raises:
            SessionNotFound: there is no such session, or the ticket is not its own.
            SessionNotReady: it is over, or has no place yet.
            ConnectError: nobody could be asked.
        """
        ...


@dataclass(frozen=True, slots=True)
class KubernetesResolver:
    """Reads the VoiceSession and its ticket Secret, as whoever may read both.

    Args:
        session: name of the VoiceSession.
        namespace, kubeconfig, context: as for `resolve_cluster`.
    """

    session: str
    namespace: str | None = None
    kubeconfig: Path | str | None = None
    context: str | None = None

    async def resolve(self, uid: str, ticket: str, *, after_attempt: int = 0, wait: float = 0.0) -> Endpoint:
        """As `SessionResolver.resolve`."""
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        async with kube_client(self.kubeconfig, self.context, self.namespace) as client:
            while True:
                with api_errors(f"VoiceSession {self.session}"):
                    found = session_info(await client.get(VoiceSession, self.session))
                if found.uid != uid:
                    raise SessionNotFound(
                        f"VoiceSession {found.namespace}/{found.name} is another session now; {uid} is gone"
                    )
                if found.phase in FINISHED:
                    words = f"VoiceSession {found.namespace}/{found.name} is over: {found.end_reason}"
                    raise SessionNotReady(words, phase=found.phase)
                if found.endpoint and found.attempt > after_attempt and found.phase != "Recovering":
                    break
                if now() >= deadline:
                    words = f"VoiceSession {found.namespace}/{found.name} has no new place yet"
                    raise SessionNotReady(words, phase=found.phase)
                await asyncio.sleep(POLL)
            with api_errors(f"Secret {found.ticket_secret}"):
                secret = await client.get(Secret, found.ticket_secret)
        values = decode_secret(found.ticket_secret, secret.data)
        if values.get("ticket", "") != ticket:
            raise SessionNotFound(f"Secret {found.ticket_secret} holds another ticket")
        return Endpoint(found.endpoint, found.tls_server_name, found.attempt, values.get("ca.crt", ""))
