"""A stepped clock for the chaos suite: the wall clock of workers and operator, shifted while they run.

A `sitecustomize` on PYTHONPATH shifts what their clock modules read (each program reads the time in one
place only); the offset is read, once a second, from a file that `kubectl exec` writes. So no clock of the
machine is touched, and any cluster will do. `time.time` stays: gRPC compares it with the clock of its C core.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from chaos_ground import Ground, off
from cluster_fixture import ClusterError
from e2e_release import RELEASE

NAME = "chaos-clock"
FOLDER = "/etc/chaos-clock"
OFFSET = "/tmp/chaos-clock-offset"
SOURCE = f'''
import time

_state = [0.0, 0.0]


def _stepped():
    now = time.time()
    if now >= _state[1]:
        _state[1] = now + 1.0
        try:
            with open("{OFFSET}") as file:
                _state[0] = float(file.read() or 0)
        except (OSError, ValueError):
            pass
    return now + _state[0]


try:
    from parley_worker.clock import SystemClock
    SystemClock.wall = staticmethod(_stepped)
    said = SystemClock().wall
except ImportError:
    from parley_operator.clock import SystemClock
    SystemClock.now = staticmethod(_stepped)
    said = SystemClock().now
'''
POOL = "clock"
VOLUME = {"name": "clock", "configMap": {"name": NAME}}
MOUNT = {"name": "clock", "mountPath": FOLDER, "readOnly": True}
ENV = {"name": "PYTHONPATH", "value": FOLDER}


@dataclass
class Stepper:
    """Steps the clocks of the pool `pool` and of the operator."""

    ground: Ground
    pool: str

    async def step(self, offset: int) -> None:
        """To so many seconds beside the machine's clock, from the next second on."""
        release = self.ground.release
        pods = [p["metadata"]["name"] for p in await off(self.ground.workers, self.pool)]
        operators = await off(release.items, "pods", "app.kubernetes.io/component=operator")
        for name in [*pods, *(p["metadata"]["name"] for p in operators)]:
            await off(release.kubectl, "exec", name, "--", "sh", "-c", f"echo {offset} >{OFFSET}")
            code = "import sitecustomize as s, time; print(round(s.said() - time.time()))"
            found = await off(release.kubectl, "exec", name, "--", "python", "-c", code)
            assert found.strip() == str(offset), f"{name} has no clock to step: {found}"


def operator_patch(remove: bool = False) -> str:
    """A strategic patch of the operator's Deployment that puts the clock in, or takes it out."""
    gone: dict[str, Any] = {"$patch": "delete"} if remove else {}
    container = {
        "name": "operator",
        "env": [{**ENV, **gone}],
        "volumeMounts": [{**MOUNT, **gone}],
    }
    volumes = [{"name": "clock", **gone}] if remove else [VOLUME]
    return json.dumps({"spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}}})


@contextlib.asynccontextmanager
async def stepping(ground: Ground) -> AsyncIterator[Stepper]:
    """A pool and an operator whose clocks can be stepped; afterwards both are as before."""
    release = ground.release
    source = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME},
        "data": {"sitecustomize.py": SOURCE},
    }
    await off(release.apply, source)
    deployment = f"deployment/{RELEASE}-operator"
    rollout = ("rollout", "status", deployment, "--timeout=120s")
    try:
        await off(release.kubectl, "patch", deployment, "-p", operator_patch())
        await off(release.kubectl, *rollout, timeout=130)
        await off(ground.apply_pool, POOL, podTemplate=await off(_template, ground))
        await off(release.wait_workers, POOL, 2)
        yield Stepper(ground, POOL)
    finally:
        with contextlib.suppress(ClusterError):
            await off(release.kubectl, "delete", "voiceworkerpool", POOL, "--wait=false")
        await off(release.kubectl, "patch", deployment, "-p", operator_patch(remove=True))
        await off(release.kubectl, *rollout, timeout=130)


def _template(ground: Ground) -> dict[str, Any]:
    """The default pool's template with the clock in it."""
    given = ground.release.get("voiceworkerpool", "default")["spec"]["podTemplate"]
    spec = dict(given.get("spec", {}))
    containers = [dict(c) for c in spec.get("containers", [{"name": "worker"}])]
    for container in containers:
        if container["name"] == "worker":
            container["env"] = [*container.get("env", []), ENV]
            container["volumeMounts"] = [*container.get("volumeMounts", []), MOUNT]
    spec["containers"] = containers
    spec["volumes"] = [*spec.get("volumes", []), VOLUME]
    spec["terminationGracePeriodSeconds"] = 180
    return {**given, "spec": spec}
