"""The default pool, applied from a file by every leader."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import yaml

from parley_operator.api.constants import ANNOTATION_CHART_REPLICAS, API_VERSION, CONFIG_MAP, POOL, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.ports import Store, StoreError

log = logging.getLogger(__name__)
_RETRY = 5.0


async def apply_default_pool(store: Store, file: Path | None, namespace: str, owner: str) -> None:
    """Apply the file's VoiceWorkerPool until it is done; the ConfigMap `owner`, where named, owns it."""
    while file is not None:
        try:
            pool = _read_pool(file, namespace)
            await _own(store, pool, namespace, owner)
            await store.apply(POOL, scaled(pool, await _present(store, pool)))
        except (StoreError, ValueError) as error:
            log.error("default pool: %s", error)
            await asyncio.sleep(_RETRY)
        else:
            log.info("default pool %s applied", text_at(pool, "metadata", "name"))
            return


def scaled(pool: Body, present: Body | None) -> Body:
    """What to apply: whoever scaled the pool since is overruled only by another number in the file."""
    spec, metadata = map_at(pool, "spec"), map_at(pool, "metadata")
    if "replicas" not in spec:
        return pool
    told = str(spec["replicas"])
    metadata["annotations"] = {**map_at(metadata, "annotations"), ANNOTATION_CHART_REPLICAS: told}
    if present is not None and text_at(present, "metadata", "annotations", ANNOTATION_CHART_REPLICAS) == told:
        now = map_at(present, "spec").get("replicas")
        spec = {key: value for key, value in spec.items() if key != "replicas"}
        if now is not None:
            spec["replicas"] = now
            # Scaled once more meanwhile: the API server refuses, and all is read again.
            metadata["resourceVersion"] = text_at(present, "metadata", "resourceVersion")
    return {**pool, "metadata": metadata, "spec": spec}


async def _present(store: Store, pool: Body) -> Body | None:
    return await store.get(POOL, text_at(pool, "metadata", "namespace"), text_at(pool, "metadata", "name"))


async def _own(store: Store, pool: Body, namespace: str, name: str) -> None:
    if not name:
        return
    owner = await store.get(CONFIG_MAP, namespace, name)
    if owner is None:
        raise ValueError(f"its owner, ConfigMap {name}, is not there")
    metadata = map_at(pool, "metadata")
    reference = {"apiVersion": "v1", "kind": CONFIG_MAP, "name": name}
    metadata["ownerReferences"] = [{**reference, "uid": text_at(owner, "metadata", "uid")}]
    pool["metadata"] = metadata


def _read_pool(file: Path, namespace: str) -> Body:
    try:
        body = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(body, dict) or body.get("kind") != POOL or body.get("apiVersion") != API_VERSION:
        raise ValueError(f"{file}: holds no VoiceWorkerPool of {API_VERSION}")
    metadata = map_at(body, "metadata")
    metadata.setdefault("namespace", namespace)
    return {**body, "metadata": metadata}
