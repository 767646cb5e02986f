"""Options and steps of the commands that speak to the session service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from parley_client.errors import UsageError
from parley_client.resolve import kubeconfig_token
from parley_client.sessions import CreatedSession, SessionsClient
from parley_client.target import Target

ServerOption = Annotated[
    str,
    typer.Option(
        "--server", help="host:port of the session service.", envvar="PARLEY_SESSIONS", show_envvar=True
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        help="File with a Kubernetes token for --server; PARLEY_TOKEN or the kubeconfig's when not given."
    ),
]
ServerCaOption = Annotated[
    Path | None, typer.Option("--server-ca", help="CA file of the session service's certificate.")
]
ServerNameOption = Annotated[
    str, typer.Option("--server-name", help="Name in the session service's certificate.")
]


@dataclass(frozen=True, slots=True)
class Service:
    """Where the session service is, and as whom it is asked."""

    server: str
    token_file: Path | None
    ca: Path | None
    name: str
    insecure: bool
    kubeconfig: Path | None
    context: str | None

    def client(self) -> SessionsClient:
        """Raises `UsageError` without a server or a token."""
        if not self.server:
            raise UsageError("--server: give host:port of the session service, or set PARLEY_SESSIONS")
        token = os.environ.get("PARLEY_TOKEN", "")
        if not token and self.token_file is None:
            token = kubeconfig_token(self.kubeconfig, self.context)
        return SessionsClient(
            self.server,
            token=token,
            token_file=self.token_file,
            ca_pem=_text(self.ca),
            tls_server_name=self.name,
            insecure=self.insecure,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """A VoiceSession of a file."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    async def create(
        self, client: SessionsClient, *, request_id: str = "", wait: float = 10.0, ready: bool = False
    ) -> CreatedSession:
        """As `SessionsClient.create`."""
        return await client.create(
            self.namespace,
            self.spec,
            name=self.name,
            labels=self.labels,
            request_id=request_id,
            wait=wait,
            ready=ready,
        )


def read_session(file: Path, namespace: str | None, *, named: bool = True) -> Wanted:
    """The one VoiceSession of a YAML file; without `named` under a name that the service makes.

    Raises:
        UsageError: the file cannot be read, or holds none or several, or other kinds beside.
    """
    try:
        found = [item for item in yaml.safe_load_all(file.read_text(encoding="utf-8")) if item is not None]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from error
    sessions = [item for item in found if isinstance(item, dict) and item.get("kind") == "VoiceSession"]
    if len(sessions) != 1 or not isinstance(sessions[0].get("spec"), dict):
        raise UsageError(f"{file}: holds {len(sessions)} VoiceSessions; give a file with one, with a spec")
    if len(found) > 1:
        raise UsageError(
            f"{file}: holds more than a VoiceSession; apply agents and Secrets with kubectl first"
        )
    metadata = sessions[0].get("metadata") or {}
    return Wanted(
        namespace or str(metadata.get("namespace") or "default"),
        str(metadata.get("name") or "") if named else "",
        {str(key): str(value) for key, value in (metadata.get("labels") or {}).items()},
        sessions[0]["spec"],
    )


@asynccontextmanager
async def called_session(
    service: Service, file: Path, namespace: str | None, *, wait: float, insecure: bool
) -> AsyncIterator[tuple[Target, SessionsClient]]:
    """Make the file's session under a name of its own, and end it afterwards; with who knows where it is.

    Raises:
        SessionNotReady: it has no place within `wait` seconds, or ended at once.
    """
    wanted = read_session(file, namespace, named=False)
    async with service.client() as client:
        made = await wanted.create(client, wait=min(wait, 60.0))
        seen = made.session
        try:
            yield made.target(insecure=insecure), client
        finally:
            await client.end(seen.namespace, seen.name, seen.uid)


def _text(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
