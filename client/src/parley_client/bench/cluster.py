"""A cluster under test: each call is a VoiceSession, made as a copy of the user's and deleted at its end.

The pool must allow the provider's host, and the load program must reach the workers' endpoints.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError

from parley_client.bench.given import Given
from parley_client.bench.loadgen import CallFailed, Loadgen
from parley_client.bench.systems import Place, System, Variant
from parley_client.embedded.manifests import Manifest, read_manifests
from parley_client.errors import ParleyError, UsageError
from parley_client.resolve import VoiceSession, api_errors, kube_client, resolve_cluster
from parley_client.target import Target

READY_S: Final = 60.0
NAME_ROOM: Final = 40
DELETIONS: Final = 32


def copy_of(session: Mapping[str, Any], run: str, sid: int, provider_url: str) -> Manifest:
    """The VoiceSession of call `sid`: the user's, with a name of its own, our provider and the call's number.

    The number goes into the instructions, which the load program's provider reads.
    """
    made: Manifest = copy.deepcopy(dict(session))
    name = str(session["metadata"]["name"])[:NAME_ROOM].rstrip("-.")
    labels = {**(session["metadata"].get("labels") or {}), "parley.dev/bench": run}
    made["metadata"] = {"name": f"{name}-{run}-{sid}", "labels": labels}
    made.pop("status", None)
    spec = made.setdefault("spec", {})
    spec["provider"] = {**(spec.get("provider") or {}), "type": "custom", "url": provider_url}
    told = (spec.get("session") or {}).get("instructions", "You are a helpful phone agent.")
    spec["session"] = {**(spec.get("session") or {}), "instructions": f"{told} sid={sid}"}
    return made


class ClusterSystem(System):
    """Sessions of a cluster. CPU time is not known: the cluster's monitoring tells it."""

    def __init__(self, variant: Variant, place: Place, given: Given) -> None:
        super().__init__(variant, place)
        assert given.session is not None
        self._given = given
        self._session = read_manifests(given.session).session
        self._namespace = str(self._session["metadata"].get("namespace") or "") or None
        self._run = secrets.token_hex(3)
        self._load: Loadgen | None = None
        self._client: AsyncClient | None = None
        self._names: dict[int, str] = {}

    @property
    def callers(self) -> Loadgen:
        assert self._load is not None
        return self._load

    def worker_pids(self) -> Sequence[int]:
        return []

    async def start(self) -> None:
        if self.variant.transport == "twilio":
            raise UsageError("--transport twilio: a cluster is called by converse or conversemany")
        given = self._given
        self._load = await self.load_program()
        client = kube_client(given.kubeconfig, given.context, self._namespace)
        self._client = await self._stack.enter_async_context(client)
        self._stack.push_async_callback(self._delete_all)

    async def command(self, sid: int) -> dict[str, Any]:
        assert self._client is not None
        made = copy_of(self._session, self._run, sid, self.place.provider_url)
        name = made["metadata"]["name"]
        made["metadata"]["namespace"] = self._namespace or self._client.namespace
        with api_errors(f"VoiceSession {name}"):
            await self._client.create(VoiceSession.from_dict(made))
        self._names[sid] = name
        try:
            target = await resolve_cluster(
                name,
                namespace=self._namespace,
                kubeconfig=self._given.kubeconfig,
                context=self._given.context,
                wait=READY_S,
            )
        except ParleyError as error:
            await self._delete(sid)
            raise CallFailed(sid, type(error).__name__, str(error)) from error
        shared = int(hashlib.sha256(target.address.encode()).hexdigest()[:6], 16)
        return self.call_command(target.address, ticket=target.ticket, stream=shared) | self._trust(target)

    def _trust(self, target: Target) -> dict[str, Any]:
        """How the load program verifies the worker: its authority as a file."""
        if not target.tls:
            return {"tls_ca": "", "tls_name": ""}
        digest = hashlib.sha256(target.ca_pem.encode()).hexdigest()[:12]
        file = self.place.folder / f"ca-{digest}.crt"
        file.write_text(target.ca_pem)
        return {"tls_ca": str(file), "tls_name": target.tls_server_name}

    async def end_call(self, sid: int) -> dict[str, Any]:
        ended = await super().end_call(sid)
        await self._delete(sid)
        return ended

    async def _delete(self, sid: int) -> None:
        assert self._client is not None
        name = self._names.pop(sid, None)
        if name is None:
            return
        try:
            await self._client.delete(VoiceSession, name, namespace=self._namespace)
        except ApiError as error:
            if error.status.code != 404:
                raise ParleyError(f"VoiceSession {name} cannot be deleted: {error.status.message}") from error

    async def _delete_all(self) -> None:
        left = list(self._names)
        for begin in range(0, len(left), DELETIONS):
            await asyncio.gather(*(self._delete(sid) for sid in left[begin : begin + DELETIONS]))
