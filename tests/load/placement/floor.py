"""The floor of the bench: a plain watch that makes the writes of a placement, and decides nothing.

usage: floor.py KUBECONFIG      Prints `ready` when it watches; ends with its stdin.

For each object that is added: POST a ticket Secret, PATCH the status, both of the size that the operator
writes. It watches a kind of its own with the definition of VoiceSession, so that it and the operator can
take turns without being started anew.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
from parley_operator.domain.rate import Buckets
from parley_operator.handlers.event_posting import NORMAL_BURST, NORMAL_RATE
from parley_operator.kube.login import from_kubeconfig

GROUP, PLURAL, KIND = "floor.parley.dev", "floorsessions", "FloorSession"
PATH = f"/apis/{GROUP}/v1alpha1"
SERVER_NAME = "default.bench.parley.internal"
AT_ONCE = 32


def secret(meta: dict[str, Any], ticket: str) -> dict[str, Any]:
    values = {"ticket": ticket, "endpoint": "127.0.0.1:50100", "tlsServerName": SERVER_NAME,
              "telephonyEndpoint": "", "ca.crt": "x" * 650}  # fmt: skip
    owner = {"apiVersion": f"{GROUP}/v1alpha1", "kind": KIND, "name": meta["name"], "uid": meta["uid"],
             "controller": True, "blockOwnerDeletion": False}  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": f"{meta['name']}-ticket",
            "namespace": meta["namespace"],
            "labels": {"parley.dev/session": meta["uid"], "app.kubernetes.io/managed-by": "floor"},
            "annotations": {"parley.dev/placed-on": f"bench/worker/{'0' * 32}", "parley.dev/attempt": "1"},
            "ownerReferences": [owner],
        },
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()},
    }


def status(meta: dict[str, Any], ticket: str) -> dict[str, Any]:
    def condition(kind: str, reason: str, message: str = "") -> dict[str, Any]:
        return {"type": kind, "status": "True", "reason": reason, "message": message, "observedGeneration": 1,
                "lastTransitionTime": "2026-11-26T12:00:00Z"}  # fmt: skip

    return {
        "phase": "Ready",
        "observedGeneration": 1,
        "attempt": 1,
        "conditions": [
            condition("Accepted", "Accepted"),
            condition("Placed", "Admitted", "on worker bench/default-aaaaaa"),
            condition("Ready", "ProviderConnected"),
        ],
        "worker": {"name": "default-aaaaaa", "namespace": "bench", "instanceId": "0" * 32, "shard": 0,
                   "endpoint": "127.0.0.1:50100", "tlsServerName": SERVER_NAME, "node": "n"},
        "ticketHash": sha256(ticket.encode()).hexdigest(),
        "ticketSecretRef": {"name": f"{meta['name']}-ticket"},
        "clientId": f"client-{meta['uid']}",
        "webSocketId": f"ws-{meta['uid']}",
    }  # fmt: skip


def event(meta: dict[str, Any]) -> dict[str, Any]:
    regarding = {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": KIND,
        **{key: meta[key] for key in ("namespace", "name", "uid", "resourceVersion")},
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{secrets.token_hex(8)}", "namespace": meta["namespace"]},
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": "floor",
        "reportingInstance": "floor",
        "action": "Placing",
        "reason": "Placed",
        "type": "Normal",
        "note": "on worker bench/default-aaaaaa",
        "regarding": regarding,
    }


class Floor:
    def __init__(self, http: aiohttp.ClientSession, server: str, token: str) -> None:
        self._http, self._server = http, server
        self._headers = {"Authorization": f"Bearer {token}"}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._taken: set[str] = set()
        self._told = Buckets(NORMAL_RATE, NORMAL_BURST)
        self._telling = asyncio.Semaphore(1)

    async def watch(self) -> None:
        """For ever: the API server ends watches whenever it makes the storage of a definition anew."""
        url, told = f"{self._server}{PATH}/{PLURAL}", False
        while True:
            async with self._http.get(url, headers=self._headers) as answer:
                listed = await answer.json()
            for item in listed["items"]:
                self._seen(item)
            version = listed["metadata"]["resourceVersion"]
            query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "7200"}
            limit = aiohttp.ClientTimeout(total=None)
            async with self._http.get(url, params=query, headers=self._headers, timeout=limit) as answer:
                if not told:
                    print("ready", flush=True)
                told = True
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ADDED":
                        self._seen(event["object"])

    def _seen(self, body: dict[str, Any]) -> None:
        uid = body["metadata"]["uid"]
        if "status" not in body and uid not in self._taken:
            self._taken.add(uid)
            task = asyncio.create_task(self._place(body["metadata"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _place(self, meta: dict[str, Any]) -> None:
        ticket = secrets.token_urlsafe(32)
        async with self._places:
            space = f"/api/v1/namespaces/{meta['namespace']}/secrets"
            await self._send("POST", space, secret(meta, ticket), "application/json")
            path = f"{PATH}/namespaces/{meta['namespace']}/{PLURAL}/{meta['name']}/status"
            version = {"resourceVersion": meta["resourceVersion"]}
            patch = {"metadata": version, "status": status(meta, ticket)}
            await self._send("PATCH", path, patch, "application/merge-patch+json")
        if self._told.take("", time.monotonic()):
            # One after the other, as nothing waits for them.
            async with self._telling:
                events = f"/apis/events.k8s.io/v1/namespaces/{meta['namespace']}/events"
                await self._send("POST", events, event(meta), "application/json")

    async def _send(self, verb: str, path: str, body: dict[str, Any], media: str) -> None:
        headers = {**self._headers, "Content-Type": media}
        data = json.dumps(body).encode()
        async with self._http.request(verb, self._server + path, data=data, headers=headers) as answer:
            text = await answer.read()
            if answer.status >= 300:
                print(f"floor: {verb} {path}: {answer.status} {text[:300]!r}", file=sys.stderr, flush=True)


async def main(kubeconfig: str) -> None:
    login = from_kubeconfig(Path(kubeconfig))
    connector = aiohttp.TCPConnector(ssl=login.ssl_context() or True, limit=64)
    async with aiohttp.ClientSession(connector=connector) as http:
        watching = asyncio.create_task(Floor(http, login.server, login.token()).watch())
        await asyncio.to_thread(sys.stdin.read)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
