"""A worker pod as the API server shows it, with what its worker reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from parley_operator.api.constants import (
    ANNOTATION_DRAIN_DEADLINE,
    ANNOTATION_SAFE_TO_EVICT,
    ANNOTATION_SPEC_HASH,
    LABEL_BUSY,
    LABEL_REVISION,
    POOL,
    Body,
)
from parley_operator.api.v1alpha1 import map_at, metadata_of, text_at
from parley_operator.domain.model import WorkerState, WorkerView
from parley_operator.domain.shards import CONTAINER
from parley_operator.domain.status import parse_timestamp

from .troubles import Trouble, trouble_of


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """One pod. Times are unix seconds, 0 when not known.

    `over` is a pod that will never run again; `running` says that its worker container does. `sessions` is
    the worker's word while it is `certain`, else what was heard last. `draining`: it takes no session any
    more and goes at `deadline` at the latest; `marked`: it was told so by an operator; `told`: the worker
    itself says that it drains, until `reported_deadline`. `outdated` is why it is to be replaced, `parting`
    that its node may soon be taken away. `busy` and `evictable` are its marks as they are (`None`: none).
    `killed_at` is when the kubelet kills a pod that is `terminating`, `grace` seconds after it was asked to.
    """

    name: str
    uid: str
    revision: str = ""
    ready: bool = False
    terminating: bool = False
    over: bool = False
    running: bool = True
    sessions: int = 0
    capacity: int = 0
    certain: bool = True
    draining: bool = False
    marked: bool = False
    told: bool = False
    deadline: float = 0.0
    reported_deadline: float = 0.0
    outdated: str = ""
    parting: bool = False
    host_ports: tuple[int, ...] = ()
    trouble: Trouble | None = None
    node: str = ""
    busy: bool | None = None
    evictable: bool | None = None
    killed_at: float = 0.0
    grace: float = 0.0
    created: float = 0.0
    started: float = 0.0
    sessions_total: int = 0
    memory: int = 0

    @property
    def serves(self) -> bool:
        """It counts as one of the pool's workers."""
        return not (self.over or self.terminating or self.draining)


def read_pod(body: Body) -> WorkerPod:
    """What the API server shows, without the worker's word: nothing is certain then."""
    metadata = metadata_of(body)
    container, phase = worker_container(body), text_at(body, "status", "phase")
    grace = metadata.get("deletionGracePeriodSeconds")
    deadline = parse_timestamp(text_at(body, "metadata", "annotations", ANNOTATION_DRAIN_DEADLINE))
    return WorkerPod(
        name=str(metadata.get("name", "")),
        uid=str(metadata.get("uid", "")),
        revision=revision_of(body),
        ready=_ready(body),
        terminating="deletionTimestamp" in metadata,
        over=phase in ("Failed", "Succeeded"),
        running="running" in map_at(container, "state") if container else phase == "Running",
        certain=False,
        draining=deadline > 0,
        marked=deadline > 0,
        deadline=deadline,
        host_ports=tuple(_host_ports(body)),
        trouble=trouble_of(body),
        node=text_at(body, "spec", "nodeName"),
        busy=_mark(body, "labels", LABEL_BUSY),
        evictable=_mark(body, "annotations", ANNOTATION_SAFE_TO_EVICT),
        killed_at=parse_timestamp(str(metadata.get("deletionTimestamp", ""))),
        grace=float(grace) if isinstance(grace, int) else 0.0,
        created=parse_timestamp(text_at(body, "metadata", "creationTimestamp")),
    )


def with_worker(pod: WorkerPod, view: WorkerView | None) -> WorkerPod:
    """Add what the worker of the pod says, as far as it says anything."""
    if view is None:
        return pod
    certain = view.answers and pod.running
    told = certain and view.state in (WorkerState.DRAINING, WorkerState.STOPPED)
    sessions = max(len(view.live_uids), view.occupied) if certain else len(view.live_uids)
    # A worker that drains without having been asked was told to end: its machine goes.
    return replace(
        pod,
        sessions=sessions if pod.running else 0,
        capacity=view.capacity if certain else 0,
        certain=certain,
        told=told,
        draining=pod.draining or told,
        deadline=pod.deadline or (view.drain_deadline if told else 0.0),
        reported_deadline=view.drain_deadline if told else 0.0,
        started=view.started or pod.created,
        sessions_total=view.sessions_total,
        memory=view.memory_bytes,
    )


def controller_of(body: Body, pool: str) -> str:
    """Uid of the pool of this name that owns the pod; empty for a pod that only looks like a worker."""
    for owner in _maps(metadata_of(body).get("ownerReferences")):
        if (owner.get("kind"), owner.get("name")) == (POOL, pool):
            return str(owner.get("uid", "")) if owner.get("controller") else ""
    return ""


def revision_of(body: Body) -> str:
    """Of the pool's spec that the pod was made after."""
    label = text_at(body, "metadata", "labels", LABEL_REVISION)
    return label or text_at(body, "metadata", "annotations", ANNOTATION_SPEC_HASH)


def worker_container(body: Body) -> dict[str, object]:
    """The status of the worker's container, empty before it has one."""
    statuses = _maps(map_at(body, "status").get("containerStatuses"))
    return next((dict(status) for status in statuses if status.get("name") == CONTAINER), {})


def container_down(body: Body) -> bool:
    """The worker's container is known not to run: terminated, or waiting after it ran before."""
    status = worker_container(body)
    state = map_at(status, "state")
    return bool(state) and "running" not in state and ("terminated" in state or restarts_of(body) > 0)


def vouched(body: Body) -> bool:
    """The kubelet says that the worker's container runs, and there is no reason to doubt the kubelet."""
    return "running" in map_at(worker_container(body), "state") and not node_lost(body)


def node_lost(body: Body) -> bool:
    """The control plane hears nothing of the node: it declares pods unready whose containers are not, before
    it evicts any."""
    conditions = _maps(map_at(body, "status").get("conditions"))
    said = {str(c.get("type")): c.get("status") for c in conditions}
    return said.get("Ready") == "False" and said.get("ContainersReady") == "True"


def restarts_of(body: Body) -> int:
    count = worker_container(body).get("restartCount")
    return count if isinstance(count, int) else 0


def _ready(body: Body) -> bool:
    conditions = _maps(map_at(body, "status").get("conditions"))
    return any((c.get("type"), c.get("status")) == ("Ready", "True") for c in conditions)


def _host_ports(body: Body) -> Iterator[int]:
    for container in _maps(map_at(body, "spec").get("containers")):
        for port in _maps(container.get("ports")):
            number = port.get("hostPort")
            if isinstance(number, int):
                yield number


def _mark(body: Body, where: str, key: str) -> bool | None:
    text = str(map_at(body, "metadata", where).get(key, ""))
    return {"true": True, "false": False}.get(text)


def _maps(value: object) -> Iterator[Mapping[str, object]]:
    for item in cast("list[object]", value) if isinstance(value, list) else []:
        if isinstance(item, Mapping):
            yield item
