"""Where a session is now, read from the API server."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lightkube.resources.core_v1 import Secret

from .errors import SessionNotFound, SessionNotReady
from .resolve import FINISHED, VoiceSession, api_errors, decode_secret, kube_client, session_info
from .resolving import Endpoint

POLL: Final = 0.5


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
        """See `Resolver`.

        Args:
            uid: of the VoiceSession.
            ticket: of the session.
            after_attempt: only a placement newer than this one counts.
            wait: seconds to wait for one.
        """
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
        if not hmac.compare_digest(values.get("ticket", "").encode(), ticket.encode()):
            raise SessionNotFound(f"Secret {found.ticket_secret} holds another ticket")
        return Endpoint(found.endpoint, found.tls_server_name, found.attempt)
