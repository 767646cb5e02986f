"""Everything is deleted: sessions, pools, the release. Last, because nothing is left to test afterwards."""

from __future__ import annotations

import pytest
from cluster_fixture import ClusterError, wait_for
from e2e_release import ADMIN, CRDS, OPERATOR_PORT, RELEASE, Release, session

# What every namespace has, what belongs to this test, and what only tells of the past.
NOT_OURS = {
    "configmaps": {"kube-root-ca.crt"},
    "serviceaccounts": {"default"},
    "persistentvolumeclaims": {"nats-data", f"data-{RELEASE}-nats-0"},
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


def test_uninstalling_leaves_only_the_definitions(busy: Release) -> None:
    cluster, namespace = busy.cluster, busy.namespace
    busy.uninstall()
    kinds = cluster.kubectl("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()

    def leftovers() -> list[str]:
        found = []
        for kind in kinds:
            if kind in PAST:
                continue
            names = cluster.kubectl("-n", namespace, "get", kind, "-o", "name").split()
            short = {name.partition("/")[2] for name in names}
            found += [f"{kind}/{name}" for name in short - NOT_OURS.get(kind, set())]
        return found

    try:
        wait_for(lambda: not leftovers(), "an empty namespace", timeout=90, every=2)
    except AssertionError as error:
        raise AssertionError(f"left behind: {leftovers()}") from error
    everywhere = cluster.kubectl(
        "get", "clusterroles,clusterrolebindings", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name"
    )
    assert everywhere == ""
    for crd in CRDS:
        assert cluster.get("crd", crd)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    cluster.kubectl("delete", "crd", *CRDS, timeout=120)
    with pytest.raises(ClusterError):
        cluster.kubectl("get", "voicesessions", "-A")
