"""Names that are part of the public interface: group, kinds, labels, annotations, Secret keys."""

from __future__ import annotations

from typing import Final

GROUP: Final = "parley.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

SESSION: Final = "VoiceSession"
AGENT: Final = "VoiceAgent"
POOL: Final = "VoiceWorkerPool"
SECRET: Final = "Secret"  # noqa: S105 - the name of a kind
POD: Final = "Pod"
CONFIG_MAP: Final = "ConfigMap"
LEASE: Final = "Lease"
NODE: Final = "Node"
BUDGET: Final = "PodDisruptionBudget"
REVISION: Final = "ControllerRevision"
EVENT: Final = "Event"
REVISION_API: Final = "apps/v1"
EVENT_API: Final = "events.k8s.io/v1"

# kind -> (API prefix, plural)
RESOURCES: Final = {
    SESSION: (f"apis/{API_VERSION}", "voicesessions"),
    AGENT: (f"apis/{API_VERSION}", "voiceagents"),
    POOL: (f"apis/{API_VERSION}", "voiceworkerpools"),
    SECRET: ("api/v1", "secrets"),
    POD: ("api/v1", "pods"),
    CONFIG_MAP: ("api/v1", "configmaps"),
    LEASE: ("apis/coordination.k8s.io/v1", "leases"),
    NODE: ("api/v1", "nodes"),
    BUDGET: ("apis/policy/v1", "poddisruptionbudgets"),
    REVISION: (f"apis/{REVISION_API}", "controllerrevisions"),
    EVENT: (f"apis/{EVENT_API}", "events"),
}

LABEL_CREDENTIALS: Final = f"{GROUP}/provider-credentials"
ANNOTATION_PROVIDER_HOSTS: Final = f"{GROUP}/provider-hosts"
LABEL_TOOL_CREDENTIALS: Final = f"{GROUP}/tool-credentials"
ANNOTATION_TOOL_HOSTS: Final = f"{GROUP}/tool-hosts"
LABEL_RECORDING_CREDENTIALS: Final = f"{GROUP}/recording-credentials"
ANNOTATION_RECORDING_HOSTS: Final = f"{GROUP}/recording-hosts"
LABEL_POOL: Final = f"{GROUP}/pool"
LABEL_REVISION: Final = f"{GROUP}/revision"
LABEL_BUSY: Final = f"{GROUP}/busy"
LABEL_DRAINING: Final = f"{GROUP}/draining"
LABEL_SESSION: Final = f"{GROUP}/session"
LABEL_AGENT: Final = f"{GROUP}/agent-uid"
ANNOTATION_SPEC_HASH: Final = f"{GROUP}/spec-hash"
ANNOTATION_MEDIA_PORT: Final = f"{GROUP}/media-port"
# On a pod that is to go: when its sessions must be over, and why it goes.
ANNOTATION_DRAIN_DEADLINE: Final = f"{GROUP}/drain-deadline"
ANNOTATION_DRAIN_REASON: Final = f"{GROUP}/drain-reason"
# On the default pool: the number of workers that the file it is applied from asks for.
ANNOTATION_CHART_REPLICAS: Final = f"{GROUP}/chart-replicas"
# Of the cluster autoscaler.
ANNOTATION_SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
# On the ticket Secret: which worker instance was asked, so that a restarted operator asks the same one again.
ANNOTATION_PLACED_ON: Final = f"{GROUP}/placed-on"
# On the pod of the operator that leads, for Services that are to reach it.
LABEL_LEADER: Final = f"{GROUP}/leader"
ANNOTATION_LEADER_ADDRESS: Final = f"{GROUP}/leader-address"
ANNOTATION_ATTEMPT: Final = f"{GROUP}/attempt"

TICKET_KEY: Final = "ticket"
ENDPOINT_KEY: Final = "endpoint"
TELEPHONY_ENDPOINT_KEY: Final = "telephonyEndpoint"
TLS_SERVER_NAME_KEY: Final = "tlsServerName"
CA_KEY: Final = "ca.crt"

CONTROL_PORT: Final = 50052
# Those of a worker's first shard; shard N has port + N.
MEDIA_PORT: Final = 50100
TELEPHONY_PORT: Final = 50200
MAX_SHARDS: Final = 64
ADMIN_PORT: Final = 9090

Body = dict[str, object]
