"""The borders of the handlers: `Store` (objects), `WorkerLinks` (media workers), `Reviews` (callers) and
`Leadership` (replicas); with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .api.constants import Body
from .domain.model import (
    AdmitOutcome,
    AdmitRequest,
    LastWord,
    MigrateOutcome,
    Placement,
    UpdateRequest,
    WorkerView,
)
from .domain.requests import Caller


class StoreError(Exception):
    """The store did not do it; `retryable` says whether the same call may succeed later.

    `code` is the HTTP status, 0 when there was no answer; `causes` are the fields at fault with what is
    wrong, and `words` the API server's own.
    """

    retryable = True

    def __init__(
        self, message: str = "", *, code: int = 0, words: str = "", causes: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.words = words
        self.causes = tuple(causes)


class Conflict(StoreError):
    """The object changed, exists already, or is another object of the same name."""


class Refused(StoreError):
    """The store will not take this object, or not from us. Retried slowly: permissions and schemas can
    change."""


class NotLeading(StoreError):
    """Nothing was written: this process does not lead, or not any more."""


class Store(Protocol):
    """Objects by kind, namespace and name. Every call has a deadline of its own; errors are `StoreError`s."""

    async def get(self, kind: str, namespace: str, name: str) -> Body | None: ...

    async def list(self, kind: str, labels: str = "") -> list[Body]:
        """Every object of the kind in all namespaces: complete or an error."""
        ...

    async def create(self, kind: str, body: Mapping[str, object]) -> Body:
        """Raises `Conflict` when the name is taken."""
        ...

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, object]) -> Body | None:
        """JSON merge patch; `None` when the object is gone."""
        ...

    async def patch_status(
        self, kind: str, seen: Mapping[str, object], status: Mapping[str, object]
    ) -> Body | None:
        """Merge `status` into that of the object last seen as `seen`.

        `None` when it is gone, also when another object has its name. Raises `Conflict` when it changed
        since.
        """
        ...

    async def apply_status(
        self, kind: str, seen: Mapping[str, object], status: Mapping[str, object]
    ) -> Body | None:
        """Make `status` the whole of what the operator says of the object last seen as `seen`; what others
        say stays. Otherwise like `patch_status`."""
        ...

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Idempotent; another object of the same name is left alone."""
        ...

    async def apply(self, kind: str, body: Mapping[str, object]) -> Body:
        """Create or adjust, owning just the fields given (server-side apply)."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """Client side of mutual TLS, PEM. `server_name` is verified instead of the address."""

    ca: bytes
    certificate: bytes
    key: bytes
    server_name: str

    def __repr__(self) -> str:
        return f"WorkerTls(server_name={self.server_name!r})"


@dataclass(frozen=True, slots=True)
class WorkerTarget:
    """One worker to be connected with.

    `name` is its unique `worker_id`, `namespace`/`pool` say which pool it serves, `control_address` is
    host:port.
    `dead`, `restarts` and `vouched` (it runs, on a node that is ready) are what the kubelet says of its
    container, `unreachable` what the control plane says of its node; `labels` and `revision` are the pod's,
    `zone` is the node's; `draining` says that pod or node are to go, until `drain_deadline` (unix seconds,
    0 while unknown). Without `tls` the control channel is plaintext: only a loopback address is accepted
    then.
    """

    name: str
    control_address: str
    tls: WorkerTls | None = None
    pool: str = "default"
    namespace: str = "default"
    node: str = ""
    pod_uid: str = ""
    media_endpoint: str = ""
    dead: bool = False
    restarts: int = 0
    revision: str = ""
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False
    drain_deadline: float = 0.0
    parting: bool = False
    vouched: bool = False
    unreachable: bool = False


class Reviews(Protocol):
    """Who somebody is and what they may do, as the API server judges it. Raises `StoreError`."""

    async def identify(self, token: str) -> Caller | None:
        """Whose token it is; `None` when it is nobody's."""
        ...

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        """Whether the caller may do `verb` with VoiceSessions; empty `namespace`: in all of them, empty
        `name`:
        with any."""
        ...


class Leadership(Protocol):
    """Which replica leads. Both texts may be empty while nobody is known to."""

    @property
    def leading(self) -> bool: ...

    @property
    def holder(self) -> str: ...

    @property
    def address(self) -> str: ...


class WorkerLinks(Protocol):
    """The media workers. Calls never raise for a worker's sake: a silent worker is an outcome."""

    def view(self, worker: str) -> WorkerView | None: ...

    def views(self) -> Sequence[WorkerView]: ...

    async def wait_snapshots(self, timeout: float) -> list[str]:
        """Wait for every worker's first snapshot; returns the names of those still missing after
        `timeout`."""
        ...

    def set_target(self, target: WorkerTarget) -> None: ...

    def remove(self, worker: str) -> None: ...

    async def admit(self, worker: str, request: AdmitRequest) -> AdmitOutcome: ...

    async def terminate(self, worker: str, uid: str, attempt: int, reason: str, message: str) -> bool | None:
        """True: found and told; False: not there; None: no answer."""
        ...

    async def update(self, worker: str, request: UpdateRequest) -> bool | None:
        """Tell a live session of another configuration. True: told; False: not there; None: no answer."""
        ...

    async def migrate(self, worker: str, uid: str, attempt: int, patience: float) -> MigrateOutcome:
        """Ask the session to hold still at a quiet moment within `patience` seconds, and to hand over."""
        ...

    async def moved(self, worker: str, uid: str, attempt: int, place: Placement) -> bool | None:
        """Tell an attempt that lives at `worker` where the session is now, so that its callers follow.

        True: told; False: not there, or it has gone on; None: no answer.
        """
        ...

    async def record_end(self, worker: str, word: LastWord) -> bool | None:
        """Have a worker write the end of a session that was lost to its events and its journal.

        True: it sees to it; False: it cannot; None: no answer.
        """
        ...

    async def drain(self, worker: str, timeout: float, *, exactly: bool = False) -> bool:
        """Have the worker end its sessions after `timeout` seconds; false when it did not answer.

        A later deadline than this one holds, unless this one is to hold `exactly`.
        """
        ...
