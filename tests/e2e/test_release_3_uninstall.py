"""Everything is deleted: sessions, pools, the release. Last, because nothing is left to test afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cluster_fixture import ClusterError, wait_for
from e2e_calls import calling
from e2e_release import ADMIN, CRDS, OPERATOR_PORT, RELEASE, Release, session
from parley_client import Draining

# What every namespace has, what belongs to this test, and what only tells of the past.
NOT_OURS = {
    "configmap/kube-root-ca.crt",
    "serviceaccount/default",
    "persistentvolumeclaim/nats-data",
    f"persistentvolumeclaim/data-{RELEASE}-nats-0",
}
PAST = {"events", "events.events.k8s.io"}


@pytest.fixture(scope="module")
def busy(release: Release) -> Release:
    """Two sessions that wait for their callers."""
    release.apply(session("leftover-1"), session("leftover-2"))
    for name in ("leftover-1", "leftover-2"):
        release.wait_phase(name, "Ready")
    return release


def test_deleting_every_session_leaves_nothing_of_them(busy: Release) -> None:
    worker = busy.workers("default")[0]["metadata"]["name"]
    assert busy.metrics(worker, ADMIN)['parley_worker_sessions{state="ready"}'] >= 2
    busy.kubectl("delete", "voicesessions", "--all")

    def clean() -> bool:
        counters = busy.metrics(worker, ADMIN)
        live = sum(v for k, v in counters.items() if k.startswith("parley_worker_sessions{"))
        secrets = [s for s in busy.items("secrets") if s["metadata"]["name"].endswith("-ticket")]
        strays = busy.metrics(busy.operator(), OPERATOR_PORT)["parley_operator_stray_sessions"]
        return not live and not secrets and not strays

    assert wait_for(clean, "no session on workers, no ticket", timeout=30)
    assert busy.items("voicesessions") == []


def test_deleting_a_pool_removes_its_workers(busy: Release) -> None:
    others = [
        item["metadata"]["name"]
        for item in busy.items("voiceworkerpools")
        if item["metadata"]["name"] != "default"
    ]
    if others:
        busy.kubectl("delete", "voiceworkerpool", *others)

    def gone() -> bool:
        return all(not busy.workers(name) for name in others)

    assert wait_for(gone, "no worker of a deleted pool", timeout=60)
    assert busy.wait_workers("default")


async def test_uninstalling_ends_calls_first_and_leaves_only_the_definitions(
    busy: Release, tmp_path: Path
) -> None:
    """The pool drains while the operator is there to record it; then everything of the release goes."""
    cluster = busy.cluster
    async with calling(busy, "last-call", tmp_path) as caller:
        uninstalling = asyncio.create_task(asyncio.to_thread(busy.uninstall))
        ended = await caller.wait_ended(timeout=60)
        await uninstalling
    assert ended.reason == "DrainDeadline"
    assert any(isinstance(event, Draining) for event in caller.others)
    record = busy.session("last-call")["status"]
    assert (record["phase"], record["endReason"]) == ("Failed", "DrainDeadline"), record
    busy.kubectl("delete", "voicesessions,voiceagents", "--all")

    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    looked_at = ",".join(sorted(set(kinds) - PAST))

    def leftovers() -> list[str]:
        names = busy.kubectl("get", looked_at, "-o", "name").split()
        return [name for name in names if name not in NOT_OURS]

    try:
        await asyncio.to_thread(wait_for, lambda: not leftovers(), "an empty namespace", timeout=60, every=1)
    except AssertionError as error:
        raise AssertionError(f"left behind: {leftovers()}") from error
    label = f"app.kubernetes.io/instance={RELEASE}"
    assert cluster.kubectl("get", "clusterroles,clusterrolebindings", "-l", label, "-o", "name") == ""
    for crd in CRDS:
        assert cluster.get("crd", crd)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    cluster.kubectl("delete", "crd", *CRDS, timeout=120)
    with pytest.raises(ClusterError):
        cluster.kubectl("get", "voicesessions", "-A")
