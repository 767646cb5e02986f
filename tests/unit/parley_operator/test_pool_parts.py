"""What is read from pods and nodes and written of them: troubles, taints, marks, recycling, status."""

from __future__ import annotations

from typing import Any

import pytest
from parley_operator.api.fleet import AutoscalingSpec, RecycleSpec
from parley_operator.api.v1alpha1 import PoolSpec
from parley_operator.domain.model import WorkerState, WorkerView
from parley_operator.domain.pools.aging import why_replace
from parley_operator.domain.pools.nodes import leaving, node_of, slim_node
from parley_operator.domain.pools.pauses import Hold, next_hold, refuse
from parley_operator.domain.pools.pods import WorkerPod, read_pod, with_worker
from parley_operator.domain.pools.shield import IDLE_AFTER, Marks, build_budget, marks_due
from parley_operator.domain.pools.status import Fleet, pool_status
from parley_operator.domain.pools.troubles import Trouble, trouble_of
from parley_operator.domain.subjects import PoolView

NOW = 1_800_000_000.0
STAMP = "2027-01-15T08:00:00Z"  # NOW


def pod(name: str = "a", **facts: Any) -> WorkerPod:
    return WorkerPod(name, name, **{"ready": True, "revision": "new", **facts})


# -- troubles


def body(state: dict[str, Any], restarts: int = 0, **more: Any) -> dict[str, Any]:
    status = {"name": "worker", "image": "voice:9", "state": state, "restartCount": restarts, **more}
    return {"status": {"phase": "Pending", "containerStatuses": [status]}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "the last words: sk-secret"}}


@pytest.mark.parametrize(
    ("pod_body", "reason", "words"),
    [
        (body(waits("ErrImagePull", "not found")), "ImagePull", "image voice:9: ErrImagePull: not found"),
        (body(waits("ImagePullBackOff")), "ImagePull", "voice:9"),
        (body(waits("InvalidImageName")), "ImagePull", "InvalidImageName"),
        (
            body(waits("CrashLoopBackOff", "back-off 5m0s"), 7, lastState=KILLED),
            "CrashLoop",
            "container worker ended with exit code 137 (OOMKilled) again and again",
        ),
        (body(KILLED, 2), "CrashLoop", "exit code 137 (OOMKilled)"),
        (
            body(waits("CreateContainerConfigError", 'secret "nats" not found')),
            "SecretsMissing",
            'secret "nats" not found',
        ),
        (body(waits("CreateContainerConfigError", "runAsNonRoot and no user")), "ContainerConfig", "user"),
        (body(waits("RunContainerError")), "RunContainerError", "RunContainerError"),
        (
            {
                "status": {
                    "phase": "Pending",
                    "conditions": [
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "reason": "Unschedulable",
                            "message": "0/3 nodes are available: 3 Insufficient cpu.",
                        }
                    ],
                }
            },
            "Unschedulable",
            "0/3 nodes are available: 3 Insufficient cpu.",
        ),
        (
            {"status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}},
            "Evicted",
            "low on memory",
        ),
        (
            {"status": {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": KILLED}]}},
            "PodFailed",
            "ended with exit code 137 (OOMKilled)",
        ),
    ],
)
def test_a_trouble_has_a_name_and_the_words_of_the_one_who_knows(
    pod_body: dict[str, Any], reason: str, words: str
) -> None:
    found = trouble_of(pod_body)
    assert found is not None
    assert found.reason == reason
    assert words in found.words
    assert "sk-secret" not in found.words


def test_a_pod_that_begins_is_in_no_trouble() -> None:
    assert trouble_of(body(waits("ContainerCreating"))) is None
    assert trouble_of(body({"running": {}})) is None
    assert trouble_of(body({"terminated": {"exitCode": 0, "reason": "Completed"}})) is None
    assert trouble_of({}) is None


def test_long_words_are_cut() -> None:
    found = trouble_of(body(waits("ErrImagePull", "x" * 5000)))
    assert found is not None
    assert len(found.words) == 240


# -- nodes


def node(*taints: tuple[str, str], **spec: Any) -> dict[str, Any]:
    given = [{"key": key, "effect": effect} for key, effect in taints]
    labels = {"topology.kubernetes.io/zone": "z1"}
    return {
        "metadata": {"name": "n", "uid": "u", "labels": labels, "managedFields": [{}]},
        "spec": {"taints": given, **spec},
        "status": {"images": [{"names": ["x"]}] * 100},
    }


def tolerant(*tolerations: dict[str, str]) -> dict[str, Any]:
    return {"spec": {"tolerations": list(tolerations)}}


@pytest.mark.parametrize(
    ("found", "pod_body", "why"),
    [
        (node(), tolerant(), ""),
        (node(unschedulable=True), tolerant(), "node.kubernetes.io/unschedulable"),
        (node(unschedulable=True), tolerant({"operator": "Exists"}), ""),
        (node(("gpu", "NoSchedule")), tolerant(), "gpu"),
        (node(("gpu", "NoSchedule")), tolerant({"key": "gpu", "operator": "Exists"}), ""),
        (node(("gpu", "NoSchedule")), tolerant({"key": "gpu", "effect": "NoExecute"}), "gpu"),
        (node(("gpu", "NoSchedule")), tolerant({"key": "gpu", "operator": "Equal", "value": "yes"}), "gpu"),
        (
            node(("ToBeDeletedByClusterAutoscaler", "NoSchedule")),
            tolerant(),
            "ToBeDeletedByClusterAutoscaler",
        ),
        (node(("spot-itn", "NoExecute")), tolerant(), "spot-itn"),
        (node(("soft", "PreferNoSchedule")), tolerant(), ""),
        (node(("node.kubernetes.io/not-ready", "NoExecute")), tolerant(), ""),
        (node(("node.kubernetes.io/memory-pressure", "NoSchedule")), tolerant(), ""),
    ],
)
def test_a_node_is_left_when_a_new_pod_could_not_come_to_it(
    found: dict[str, Any], pod_body: dict[str, Any], why: str
) -> None:
    assert leaving(node_of(slim_node(found)), pod_body) == why


def test_a_node_that_may_go_is_known() -> None:
    view = node_of(node(("DeletionCandidateOfClusterAutoscaler", "PreferNoSchedule")))
    assert (view.parting, view.zone) == (True, "z1")
    assert leaving(view, tolerant()) == ""
    assert leaving(None, tolerant()) == ""


def test_a_node_is_kept_small() -> None:
    slim = slim_node(node())
    assert "status" not in slim
    assert node_of(slim) == node_of(node())


# -- replacing


@pytest.mark.parametrize(
    ("facts", "node_leaves", "why"),
    [
        ({}, False, ""),
        ({"revision": "old"}, False, "Revision"),
        ({"revision": "old"}, True, "Node"),
        ({"started": NOW - 3600}, False, "MaxAge"),
        ({"started": NOW - 3599}, False, ""),
        ({"started": 0.0}, False, ""),
        ({"sessions_total": 100}, False, "MaxSessions"),
        ({"memory": 1 << 30, "sessions_total": 1}, False, "MaxMemory"),
        ({"memory": 1 << 30, "sessions_total": 0}, False, ""),
    ],
)
def test_why_a_pod_is_replaced(facts: dict[str, Any], node_leaves: bool, why: str) -> None:
    rules = RecycleSpec(max_age=3600.0, max_sessions=100, max_memory=1 << 30)
    found = pod(**{"started": NOW, **facts})
    assert why_replace(found, "new", rules, node_leaves, NOW) == why
    if not node_leaves and facts.get("revision", "new") == "new":
        assert why_replace(found, "new", RecycleSpec(), False, NOW) == ""


# -- marks


@pytest.mark.parametrize(
    ("facts", "idle_for", "due"),
    [
        ({"sessions": 1, "busy": False, "evictable": True}, 0, Marks(True)),
        ({"sessions": 1, "busy": True, "evictable": False}, 0, None),
        ({"sessions": 1, "busy": True, "evictable": True}, 0, Marks(True)),
        ({"busy": True, "evictable": False}, IDLE_AFTER - 1, None),
        ({"busy": True, "evictable": False}, IDLE_AFTER, Marks(False)),
        ({"busy": False, "evictable": True}, 0, None),
        ({}, 0, Marks(False)),
        ({"sessions": 1, "certain": False, "busy": False, "evictable": True}, 0, None),
        ({"certain": False, "busy": True, "evictable": False}, 99, None),
        ({"running": False, "certain": False, "busy": True, "evictable": False}, 0, Marks(False)),
        ({"sessions": 1, "draining": True, "deadline": NOW + 1, "busy": True, "evictable": False}, 0, None),
        ({"sessions": 1, "draining": True, "deadline": NOW, "busy": True}, 0, Marks(False)),
        ({"sessions": 1, "terminating": True}, 0, None),
    ],
)  # fmt: skip
def test_marks_are_true_or_left_alone(facts: dict[str, Any], idle_for: float, due: Marks | None) -> None:
    assert marks_due(pod(**facts), idle_for, NOW) == due


def test_the_budget_covers_busy_pods_whatever_the_scale_is() -> None:
    budget: Any = build_budget("default", "media", {"uid": "u"})
    assert budget["apiVersion"] == "policy/v1"
    assert budget["spec"]["selector"]["matchLabels"] == {
        "parley.dev/pool": "default",
        "parley.dev/busy": "true",
    }
    # A number of pods, no share of a scale, and more than there can be.
    assert budget["spec"]["minAvailable"] > 1000
    assert "maxUnavailable" not in budget["spec"]


# -- a pod and its worker


def test_a_pod_and_what_its_worker_says() -> None:
    annotations = {"parley.dev/drain-deadline": STAMP, "parley.dev/spec-hash": "h"}
    found = read_pod(
        {
            "metadata": {
                "name": "a",
                "uid": "u",
                "labels": {"parley.dev/busy": "true"},
                "annotations": annotations,
                "deletionTimestamp": STAMP,
                "deletionGracePeriodSeconds": 75,
            },
            "spec": {"nodeName": "n"},
            "status": {"containerStatuses": [{"name": "worker", "state": {"running": {}}}]},
        }
    )  # fmt: skip
    assert (found.marked, found.draining, found.deadline, found.busy) == (True, True, NOW, True)
    assert (found.revision, found.killed_at, found.grace, found.certain) == ("h", NOW, 75.0, False)
    view = WorkerView("a", "m", "p", instance_id="i", connected=True, occupied=3, state=WorkerState.DRAINING)
    told = with_worker(found, view)
    assert (told.certain, told.told, told.sessions) == (True, True, 3)
    silent = with_worker(found, WorkerView("a", "m", "p", occupied=3))
    assert (silent.certain, silent.told, silent.sessions) == (False, False, 0)


def test_a_worker_that_was_told_to_end_serves_no_more() -> None:
    view = WorkerView(
        "a", "m", "p", instance_id="i", connected=True, state=WorkerState.DRAINING, drain_deadline=NOW
    )
    found = with_worker(pod(), view)
    assert (found.serves, found.marked, found.deadline) == (False, False, NOW)


# -- holding back


def test_failures_are_answered_ever_more_slowly() -> None:
    hold, now, pauses = Hold(), 100.0, []
    for _ in range(9):
        hold = next_hold(hold, whole=False, failed="it broke", now=now)
        pauses.append(max(0.0, hold.until - now))
        now = max(now, hold.until)
    assert pauses == [0, 2, 4, 8, 16, 32, 60, 60, 60]
    assert next_hold(hold, whole=True, failed=None, now=now) == Hold()


def test_a_refusal_is_told_until_the_next_try() -> None:
    hold = refuse(Hold(), "exceeded quota", 100.0)
    assert next_hold(hold, whole=False, failed=None, now=105.0).refused == "exceeded quota"
    assert next_hold(hold, whole=False, failed=None, now=110.0).refused == ""


# -- status


def conditions(fleet: Fleet) -> dict[str, tuple[str, str, str]]:
    status: Any = pool_status(fleet, 3, {}, NOW)
    return {c["type"]: (c["status"], c["reason"], c["message"]) for c in status["conditions"]}


def fleet(pods: list[WorkerPod], wanted: int = 2, **facts: Any) -> Fleet:
    spec = facts.pop("spec", PoolSpec(replicas=wanted))
    return Fleet(PoolView("media", "default", spec), "new", wanted, pods, **facts)


def test_the_status_counts() -> None:
    pods = [
        pod("a", sessions=2, capacity=5),
        pod("b", ready=False),
        pod("c", revision="old", outdated="Revision", capacity=5),
        pod("d", sessions=1, draining=True, deadline=NOW, capacity=5),
        pod("e", terminating=True),
    ]
    status: Any = pool_status(fleet(pods, queued=4), 3, {}, NOW)
    counted = {key: value for key, value in status.items() if isinstance(value, int)}
    assert counted == {
        "observedGeneration": 3, "desiredReplicas": 2, "replicas": 3, "readyReplicas": 2,
        "updatedReplicas": 2, "drainingReplicas": 1, "sessions": 3, "capacity": 10, "queued": 4,
    }  # fmt: skip
    assert status["selector"] == "parley.dev/pool=default,parley.dev/draining notin (true)"
    assert pool_status(fleet(pods, queued=4), 3, status, NOW + 9) == {}


def test_conditions_of_a_fleet_that_is_whole() -> None:
    found = conditions(fleet([pod("a"), pod("b")]))
    assert {kind: value[:2] for kind, value in found.items()} == {
        "Available": ("True", "Ready"),
        "Progressing": ("False", "Settled"),
        "Degraded": ("False", "AsExpected"),
    }


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([pod("a"), pod("b", outdated="Revision")], "Replacing"),
        ([pod("a"), pod("b", ready=False)], "Starting"),
        ([pod("a"), pod("b"), pod("c", draining=True)], "Draining"),
    ],
)
def test_what_is_under_way(pods: list[WorkerPod], reason: str) -> None:
    assert conditions(fleet(pods))["Progressing"][:2] == ("True", reason)


def test_what_is_wrong_is_said() -> None:
    image = Trouble("ImagePull", "image voice:9: ErrImagePull")
    crash = Trouble("CrashLoop", "container worker ended with exit code 1 again and again: see its log")
    waiting = [pod("a", ready=False, trouble=image), pod("b", ready=False, trouble=image)]
    status, reason, words = conditions(fleet([*waiting, pod("c", ready=False, trouble=crash)]))["Degraded"]
    assert (status, reason) == ("True", "ImagePull")
    assert words == f"CrashLoop: {crash.words}; ImagePull: {image.words}"
    refused = conditions(fleet([], hold=Hold(refused="exceeded quota: cpu")))["Degraded"]
    assert refused == ("True", "PodsRefused", "exceeded quota: cpu")
    failing = conditions(fleet([], hold=Hold(failures=3, failed="low on memory")))["Degraded"]
    assert failing == ("True", "PodsFail", "pods failed: low on memory")
    # A pod that became ready all the same is in no trouble any more.
    assert conditions(fleet([pod("a", trouble=image), pod("b")]))["Degraded"][0] == "False"


def test_a_fleet_at_its_maximum_says_so() -> None:
    spec = PoolSpec(autoscaling=AutoscalingSpec(1, 2))
    words = conditions(fleet([pod("a"), pod("b")], spec=spec, queued=3))["Available"][2]
    assert "spec.autoscaling.max is reached" in words
