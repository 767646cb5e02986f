"""What a node says of its future: cordoned, tainted, about to be taken away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from parley_operator.api.constants import Body
from parley_operator.api.v1alpha1 import map_at, text_at

ZONE = "topology.kubernetes.io/zone"
CORDONED = "node.kubernetes.io/unschedulable"
# A node's own state of health, which may get better by itself: calls go on meanwhile, and if the node is lost
# the sessions are placed anew.
_HEALTH = frozenset(
    {
        *("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"),
        *("node.kubernetes.io/memory-pressure", "node.kubernetes.io/disk-pressure"),
        *("node.kubernetes.io/pid-pressure", "node.kubernetes.io/network-unavailable"),
        "node.cloudprovider.kubernetes.io/uninitialized",
    }
)
_CANDIDATE = "DeletionCandidateOfClusterAutoscaler"


@dataclass(frozen=True, slots=True)
class Taint:
    """As on a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """What matters of a node. `parting`: the autoscaler thinks of taking it away."""

    name: str
    zone: str = ""
    taints: tuple[Taint, ...] = ()
    parting: bool = False


def node_of(body: Body) -> NodeView:
    spec = map_at(body, "spec")
    taints = [
        Taint(str(t.get("key", "")), str(t.get("value", "")), str(t.get("effect", "")))
        for t in _maps(spec.get("taints"))
    ]
    if spec.get("unschedulable") is True and not any(t.key == CORDONED for t in taints):
        taints.append(Taint(CORDONED, "", "NoSchedule"))
    labels = map_at(body, "metadata", "labels")
    return NodeView(
        name=text_at(body, "metadata", "name"),
        zone=str(labels.get(ZONE, "")),
        taints=tuple(sorted(taints, key=lambda t: (t.key, t.value, t.effect))),
        parting=any(t.key == _CANDIDATE for t in taints),
    )


def slim_node(body: Body) -> Body:
    """What `node_of` reads: a node's list of images alone may have hundreds of entries."""
    metadata = map_at(body, "metadata")
    spec = map_at(body, "spec")
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {k: metadata[k] for k in ("name", "uid", "resourceVersion", "labels") if k in metadata},
        "spec": {k: spec[k] for k in ("taints", "unschedulable") if k in spec},
    }


def leaving(node: NodeView | None, pod: Body) -> str:
    """The taint that would keep a pod like this one off its node now; empty when there is none."""
    if node is None:
        return ""
    tolerations = list(_maps(map_at(pod, "spec").get("tolerations")))
    for taint in node.taints:
        hard = taint.effect in ("NoSchedule", "NoExecute") and taint.key not in _HEALTH
        if hard and not any(_tolerates(t, taint) for t in tolerations):
            return taint.key
    return ""


def _tolerates(toleration: Mapping[str, object], taint: Taint) -> bool:
    key, effect = toleration.get("key", ""), toleration.get("effect", "")
    if effect not in ("", None, taint.effect) or (key and key != taint.key):
        return False
    operator = toleration.get("operator") or "Equal"
    if operator == "Exists":
        return True
    return bool(key) and str(toleration.get("value", "")) == taint.value


def _maps(value: object) -> Iterator[Mapping[str, object]]:
    for item in cast("list[object]", value) if isinstance(value, list) else []:
        if isinstance(item, Mapping):
            yield item
