"""What a bench is aimed at when it does not start a worker of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from parley_client.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A worker, or a cluster, that runs already.

    Attributes:
        control: host:port of a worker's control service; `tls`, `tls_name`: folder with ca.crt, tls.crt and
            tls.key of a client that it trusts, and the name in its certificate.
        media_ca: authority of its media certificate; that of `tls` when not given.
        admin: host:port of its metrics, for CPU time.
        session: YAML file with a VoiceSession to copy, for a cluster.
        provider_listen: where the provider half of the load program listens.
        provider_url: how workers reach it.
    """

    control: str = ""
    tls: Path | None = None
    tls_name: str = ""
    media_ca: Path | None = None
    admin: str = ""
    session: Path | None = None
    kubeconfig: Path | None = None
    context: str | None = None
    provider_listen: str = "127.0.0.1:0"
    provider_url: str = ""

    def check(self) -> None:
        """Raises UsageError when options do not go together."""
        if self.control and self.session:
            raise UsageError("--worker and --session are given together: aim at a worker or at a cluster")
        if self.session and not self.provider_url:
            raise UsageError("--session needs --provider-url: how the cluster's workers reach this machine")
        if (self.admin or self.tls or self.media_ca) and not self.control:
            raise UsageError("--worker-admin, --worker-tls and --media-ca belong to --worker HOST:PORT")
