"""A help desk for the end-to-end tests: behaviour, a tool on NATS, a recording, a scenario from a ConfigMap.

Plain manifests, so that they can be judged without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

DESK, SCRIPTED, CODES = "desk", "scripted-provider", "codes"
TOOL = "turn_around"
GREETING = "Welcome to the desk."
FAREWELL = "Until next time."
RECORDINGS = "/recordings"
LABELS = {"app.kubernetes.io/name": SCRIPTED}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

DIALOGUE = {
    "default": "Please tell me a code.",
    "rules": [
        {"match": r"(?P<code>\d{6})", "call": {"name": TOOL, "arguments": {"code": "{code}"}}},
        {"tool": TOOL, "match": "error", "say": "The service does not answer."},
        {"tool": TOOL, "say": "Turned around it is {result.code}."},
    ],
}

SCENARIO = '''\
from parley_scenario import CallEvents, Context


async def main(ctx: Context) -> None:
    """Tell the caller the code of the parameters, then end the call."""

    async def tell() -> None:
        ctx.log.info("tells the code")
        await ctx.say(f"Your code is {' '.join(ctx.parameters['code'])}.")
        ctx.terminate("told")

    def connected(event: object) -> None:
        ctx.spawn(tell())

    ctx.caller.add_event_listener(CallEvents.Connected, connected)
'''


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def provider(image: str) -> list[dict[str, Any]]:
    """A local provider that follows the dialogue, and a way to it for workers."""
    container = {
        "name": "provider",
        "image": image,
        "args": ["--host=0.0.0.0", "--port=8765", "--brain=script:/etc/parley/dialogue.yaml"],
        "ports": [{"name": "realtime", "containerPort": 8765}],
        "readinessProbe": {"tcpSocket": {"port": "realtime"}, "periodSeconds": 1, "failureThreshold": 120},
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "dialogue", "mountPath": "/etc/parley", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    spec = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "dialogue", "configMap": {"name": SCRIPTED}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
        ],
    }
    workers = {"matchExpressions": [{"key": "parley.dev/pool", "operator": "Exists"}]}
    way = {
        "podSelector": workers,
        "policyTypes": ["Egress"],
        "egress": [{"ports": [{"port": 8765}], "to": [{"podSelector": {"matchLabels": LABELS}}]}],
    }
    return [
        config_map(SCRIPTED, **{"dialogue.yaml": yaml.safe_dump(DIALOGUE)}),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SCRIPTED},
            "spec": {"selector": LABELS, "ports": [{"port": 8765, "targetPort": "realtime"}]},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": SCRIPTED, "labels": LABELS},
            "spec": spec,
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": SCRIPTED},
            "spec": way,
        },
    ]


def pool_rules(template: Mapping[str, Any], provider_hosts: list[str]) -> dict[str, Any]:
    """What the desk's pool has beside the default one's fields: rules, and a volume for recordings."""
    given = dict(template.get("spec", {}))
    containers = [dict(c) for c in given.get("containers", [{"name": "worker"}])]
    for container in containers:
        if container["name"] == "worker":
            container["volumeMounts"] = [{"name": "recordings", "mountPath": RECORDINGS}]
    spec = {
        **given,
        "containers": containers,
        "volumes": [{"name": "recordings", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    return {
        "provider": {"allowedHosts": provider_hosts},
        "scenarios": {"allowSource": True, "entryPoints": []},
        "recordings": {"directories": [RECORDINGS]},
        "podTemplate": {**template, "spec": spec},
    }


def behaviour() -> dict[str, Any]:
    """What the desk's agent does by itself, and its tool."""
    parameters = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
    return {
        "tools": [
            {
                "type": "function",
                "name": TOOL,
                "description": "Turns a code around.",
                "parameters": parameters,
                "route": {"nats": {}, "timeout": "10s"},
            }
        ],
        "greeting": {"text": GREETING},
        "hangUp": {"phrases": ["goodbye", "good bye"], "farewell": {"text": FAREWELL}},
        "idle": {"after": "60s", "lines": [{"text": "Are you still there?"}]},
    }


def session_spec() -> dict[str, Any]:
    return {
        "agentRef": {"name": DESK},
        "poolRef": {"name": DESK},
        "recording": {"format": "wav", "volume": {"path": f"{RECORDINGS}/calls"}},
    }


def scenario_spec(code: str) -> dict[str, Any]:
    reference = {"name": CODES, "key": "codes.py"}
    return {
        "poolRef": {"name": DESK},
        "scenario": {
            "configMapRef": reference,
            "parameters": {"code": code},
            "limits": {"memory": "128Mi", "handlerTimeout": "2s"},
        },
    }
