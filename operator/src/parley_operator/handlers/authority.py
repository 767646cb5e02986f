"""The control CA over a `Store`: loaded or made by each leader, which leaves its epoch on the same Secret,
so that a Lease that was deleted does not count anew."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from parley_operator import pki
from parley_operator.api.constants import GROUP, SECRET, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.clock import Clock
from parley_operator.domain.manifests import server_name, tls_secret
from parley_operator.domain.subjects import PoolView, owned_by, secret_view
from parley_operator.ports import Conflict, Store, StoreError, WorkerTls

CA_SECRET = "parley-control-ca"  # noqa: S105 - the name of a Secret
ANNOTATION_EPOCH = f"{GROUP}/leader-epoch"


@dataclass(slots=True)
class Authority:
    """Issues certificates; `epoch` is higher than that of every operator before."""

    ca: pki.KeyPair
    epoch: int
    client: pki.KeyPair
    clock: Clock

    def tls_for(self, pool: str, namespace: str) -> WorkerTls:
        """The operator's side of mutual TLS with a pool; a new client certificate when the old one is due."""
        now = self.clock.now()
        if pki.due(self.client.certificate, now):
            self.client = pki.issue_client(self.ca, now)
        name = server_name(pool, namespace)
        return WorkerTls(self.ca.certificate, self.client.certificate, self.client.key, name)

    async def ensure_pool_secret(self, store: Store, pool: PoolView, owner: Body) -> None:
        """Make or renew the Secret with the certificate of the pool's workers.

        Raises `Conflict` while a Secret of that name belongs to somebody else.
        """
        name = tls_secret(pool.name)
        body = await store.get(SECRET, pool.namespace, name)
        now = self.clock.now()
        if body is not None and not owned_by(body, text_at(owner, "uid")):
            raise Conflict(f"Secret {name} exists and is not of this pool; delete it or rename the pool")
        if body is not None:
            values = secret_view(body).values
            present = values["tls.crt"].reveal().encode() if "tls.crt" in values else b""
            ca = values["ca.crt"].reveal().encode() if "ca.crt" in values else b""
            fine = ca == self.ca.certificate and pki.issued_by(present, self.ca)
            if fine and not pki.due(present, now):
                return
        pair = pki.issue_server(self.ca, server_name(pool.name, pool.namespace), now)
        data = encoded({"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": self.ca.certificate})
        if body is not None:
            await store.patch(SECRET, pool.namespace, name, {"data": data})
            return
        await store.create(
            SECRET,
            {
                "apiVersion": "v1",
                "kind": SECRET,
                "type": "kubernetes.io/tls",
                "metadata": {
                    "name": name,
                    "namespace": pool.namespace,
                    "labels": {"app.kubernetes.io/managed-by": "parley-operator"},
                    "ownerReferences": [owner],
                },
                "data": data,
            },
        )


class StaleEpoch(StoreError):
    """A leader of a higher or of the same epoch was here: this one must not go on."""


async def epoch_floor(store: Store, namespace: str) -> int:
    """The highest epoch that any leader left on the CA; 0 where none ever led. Raises `StoreError`."""
    return _epoch(await store.get(SECRET, namespace, CA_SECRET))


def _epoch(body: Body | None) -> int:
    text = "" if body is None else text_at(body, "metadata", "annotations", ANNOTATION_EPOCH)
    return int(text) if text.isdigit() else 0


async def load_ca(store: Store, namespace: str) -> pki.KeyPair | None:
    """The CA, for one who does not lead; `None` before the first leader made it. Raises `StoreError`."""
    body = await store.get(SECRET, namespace, CA_SECRET)
    return None if body is None else _pair(body, namespace)


def _pair(body: Body, namespace: str) -> pki.KeyPair:
    values = secret_view(body).values
    if "tls.crt" not in values or "tls.key" not in values:
        raise StoreError(
            f"Secret {namespace}/{CA_SECRET} lacks tls.crt or tls.key; delete it to have it made anew"
        )
    return pki.KeyPair(values["tls.crt"].reveal().encode(), values["tls.key"].reveal().encode())


async def load_authority(store: Store, namespace: str, clock: Clock, epoch: int) -> Authority:
    """Read or make the CA and leave `epoch` on it. Raises `StoreError`, `StaleEpoch` for an old one."""
    for _ in range(5):
        body = await store.get(SECRET, namespace, CA_SECRET)
        if body is None:
            pair = pki.make_ca(clock.now())
            try:
                body = await store.create(SECRET, _ca_secret(namespace, pair))
            except Conflict:
                continue
        pair = _pair(body, namespace)
        if _epoch(body) >= epoch:
            raise StaleEpoch(
                f"Secret {namespace}/{CA_SECRET} knows epoch {_epoch(body)}, this leader has {epoch}"
            )
        version = map_at(body, "metadata").get("resourceVersion")
        patch = {"metadata": {"annotations": {ANNOTATION_EPOCH: str(epoch)}, "resourceVersion": version}}
        try:
            await store.patch(SECRET, namespace, CA_SECRET, patch)
        except Conflict:
            continue
        return Authority(pair, epoch, pki.issue_client(pair, clock.now()), clock)
    raise StoreError(f"Secret {namespace}/{CA_SECRET} changes all the time")


def _ca_secret(namespace: str, pair: pki.KeyPair) -> Body:
    return {
        "apiVersion": "v1",
        "kind": SECRET,
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": CA_SECRET,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "parley-operator"},
            "annotations": {ANNOTATION_EPOCH: "0"},
        },
        "data": encoded({"tls.crt": pair.certificate, "tls.key": pair.key}),
    }


def encoded(data: dict[str, bytes]) -> dict[str, str]:
    return {key: base64.b64encode(value).decode() for key, value in data.items()}
