"""Calls to sessions of an installed release."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from e2e_release import MEDIA, Release, session
from parley_client import Target, resolve_cluster
from spoken import Caller


@contextlib.contextmanager
def reach(release: Release, target: Target, *, outside: bool = False) -> Iterator[Target]:
    """The target as this process reaches it: pods of a foreign cluster by a forwarded port."""
    if outside or release.cluster.own:
        yield target
        return
    with release.address(target.worker, MEDIA) as address:
        yield replace(target, address=address)


async def resolve(release: Release, name: str) -> Target:
    """Where a session that is Ready can be attached to, read from the cluster as users do."""
    await asyncio.to_thread(release.wait_phase, name, "Ready")
    kubeconfig = release.cluster.kubeconfig
    return await resolve_cluster(name, namespace=release.namespace, kubeconfig=kubeconfig, wait=10)


@contextlib.asynccontextmanager
async def calling(
    release: Release, name: str, folder: Path, *, format: str = "g711_ulaw", resume: bool = True, **spec: Any
) -> AsyncIterator[Caller]:
    """A session applied and a caller attached to it."""
    await asyncio.to_thread(release.apply, session(name, **spec))
    target = await resolve(release, name)
    with reach(release, target) as reached:
        async with Caller(reached, format, folder / f"{name}.wav", resume=resume) as caller:
            yield caller
