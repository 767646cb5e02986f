"""The embedded stack: nats-server, local provider, worker and control plane, up and down together."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import urlsplit

from parley_client.errors import ParleyError, SessionNotReady, UsageError
from parley_client.target import Target

from .certificates import WORKER_NAME, write_server_files
from .manifests import (
    Manifests,
    below,
    loopback_url,
    point_at,
    provider_urls,
    store_hosts,
    volume_path,
    webhook_hosts,
)
from .processes import Child, ChildSpec
from .programs import find_program

if TYPE_CHECKING:
    from parley_operator.embedded import EmbeddedControlPlane, WorkerTarget
    from parley_operator.pki import KeyPair

T = TypeVar("T")
Step = Callable[[str], AbstractContextManager[None]]

WORKER_POD: Final = "worker"
LOCAL_HOSTS: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class StackOptions:
    """How to run the stack.

    Attributes:
        local_provider: `auto` starts it when a provider URL is on loopback and nobody listens there; `always`
            sends every loopback URL to it; `never` leaves URLs alone.
        voice, recognizer, detector, brain: of the local provider.
        keep: True to keep the run directory with its logs.
        run_directory: where to keep state; a temporary folder when not given.
        volumes: the folder below which volumes of the cluster stand (a recording to `/recordings` goes to
            `<volumes>/recordings`); the current directory when not given.
        allowed_hosts: hosts, beside this machine's, that players and requests of scenarios may use.
        nats_port: where NATS listens on 127.0.0.1, for tools that were started before; 0 for any free port.
        scenario_paths: folders, beside the current one, with modules that entry points of scenarios name.
        ready_timeout: seconds for each part to become ready.
        session_timeout: seconds for the session to become Ready.
    """

    local_provider: str = "auto"
    voice: str = "flite"
    recognizer: str = "whisper"
    detector: str = "silero"
    brain: str = "echo"
    keep: bool = False
    run_directory: Path | None = None
    volumes: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    nats_port: int = 0
    scenario_paths: tuple[Path, ...] = ()
    ready_timeout: float = 60.0
    session_timeout: float = 30.0


class EmbeddedStack:
    """Use as `async with EmbeddedStack(options, step) as stack`; inside, `open_session` runs a session.

    Args:
        options: how.
        step: shows progress: `with step("what is being done"): ...`.
        environ: what `$(NAME)` in a Secret's stringData refers to; this process's variables when not given.

    Raises (on entering):
        MissingProgram, ProcessDied, ParleyError.
    """

    def __init__(self, options: StackOptions, step: Step, environ: Mapping[str, str] | None = None) -> None:
        self.options = options
        self.nats_url = ""
        self.telephony_endpoint = ""
        self.recordings: Path | None = None
        self.admin_address = ""
        self.run_directory = Path()
        self.children: list[Child] = []
        self._step = step
        self._environ = dict(os.environ if environ is None else environ)
        self._cleanup = AsyncExitStack()
        self._ca: KeyPair | None = None
        self._worker: Child | None = None
        self._provider_url = ""

    async def __aenter__(self) -> Self:
        nats_server = find_program("nats-server")
        self.run_directory = self._make_directory()
        try:
            with self._step("start nats-server"):
                await self._start_nats(nats_server)
            with self._step("start the media worker"):
                await self._start_worker()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            await self._cleanup.aclose()
        finally:
            for child in reversed(self.children):
                await child.stop()

    async def open_session(self, manifests: Manifests) -> Target:
        """Apply the objects, wait until the session is Ready, return where to attach.

        Raises:
            UsageError: an object is refused; the message names the field.
            SessionNotReady: the session failed or was not ready in time.
        """
        manifests = await self._with_provider(self._with_volumes(manifests))
        from parley_operator.embedded import EmbeddedControlPlane, InvalidObject, SessionEnded

        hosts = {urlsplit(url).hostname or "" for url in provider_urls(manifests)}
        plane = EmbeddedControlPlane(
            Path(tempfile.mkdtemp(prefix="objects-", dir=self.run_directory)),
            workers=[self._worker_target()],
            namespace=manifests.namespace,
            allowed_hosts=sorted({*LOCAL_HOSTS, "api.openai.com", *hosts} - {""}),
            rules=self._rules(manifests),
            environ=self._environ,
        )
        with self._step("start the control plane"):
            await self._cleanup.enter_async_context(plane)
        name = manifests.session_name
        with self._step(f"apply VoiceSession {name} and wait until it is Ready"):
            try:
                await plane.apply([*manifests.objects, manifests.session])
                body = await self._until_ready(plane, name)
            except InvalidObject as error:
                raise UsageError(str(error)) from error
            except SessionEnded as error:
                raise SessionNotReady(str(error), phase="Failed") from error
            except TimeoutError as error:
                why = refusal(plane.get("VoiceSession", name)) or "the time is up"
                raise SessionNotReady(f"VoiceSession {name} is not Ready: {why}") from error
        ticket = plane.ticket(name)
        if ticket is None:
            raise ParleyError(f"VoiceSession {name} is Ready and has no ticket Secret")
        self.telephony_endpoint = ticket.telephony_endpoint
        metadata = body["metadata"]
        uid = str(metadata.get("uid", "")) if isinstance(metadata, dict) else ""
        return Target(
            address=ticket.endpoint,
            ticket=ticket.ticket.reveal(),
            tls=bool(ticket.tls_server_name),
            tls_server_name=ticket.tls_server_name,
            ca_pem=ticket.ca.decode(),
            namespace=manifests.namespace,
            session=name,
            session_uid=uid,
            worker=WORKER_POD,
        )

    async def guard(self, work: Coroutine[object, object, T]) -> T:
        """Run `work`; a child that dies meanwhile ends it with `ProcessDied`."""
        task = asyncio.ensure_future(work)
        watchers = [asyncio.ensure_future(child.died()) for child in self.children]
        try:
            done, _ = await asyncio.wait([task, *watchers], return_when=asyncio.FIRST_COMPLETED)
            if task not in done:
                raise next(watcher for watcher in watchers if watcher in done).result()
            return task.result()
        finally:
            for part in (task, *watchers):
                part.cancel()
            await asyncio.wait([task, *watchers])

    async def scrape(self) -> str:
        """Return the worker's metrics as text."""
        host, _, port = self.admin_address.rpartition(":")

        def get() -> str:
            connection = HTTPConnection(host, int(port), timeout=5)
            try:
                connection.request("GET", "/metrics")
                return connection.getresponse().read(4 << 20).decode()
            finally:
                connection.close()

        try:
            return await asyncio.to_thread(get)
        except (OSError, HTTPException) as error:
            raise ParleyError(
                f"the worker's metrics at {self.admin_address} cannot be read: {error}"
            ) from error

    def _make_directory(self) -> Path:
        chosen = self.options.run_directory
        if chosen is None:
            directory = Path(tempfile.mkdtemp(prefix="parley-"))
        else:
            directory = chosen.absolute()
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (directory / "logs").mkdir(exist_ok=True)
        if chosen is None and not self.options.keep:
            self._cleanup.callback(shutil.rmtree, directory, ignore_errors=True)
        return directory

    async def _start(self, spec: ChildSpec) -> Child:
        child = await Child.start(spec, self.run_directory / "logs")
        self.children.append(child)
        self._cleanup.push_async_callback(child.stop)
        return child

    async def _start_nats(self, program: str) -> None:
        data, ports = self.run_directory / "nats", self.run_directory / "ports"
        ports.mkdir(exist_ok=True)
        port = str(self.options.nats_port or -1)
        arguments = ["-a", "127.0.0.1", "-p", port, "-js", "-sd", str(data), "--ports_file_dir", str(ports)]
        child = await self._start(ChildSpec("nats-server", [program, *arguments], json_ready=False))

        async def read_ports() -> str:
            file = ports / f"nats-server_{child.pid}.ports"
            while True:
                try:
                    urls = json.loads(file.read_text()).get("nats") or []
                    if urls:
                        return str(urls[0])
                except (OSError, ValueError):
                    pass
                await asyncio.sleep(0.05)

        try:
            async with asyncio.timeout(15):
                self.nats_url = await self.guard(read_ports())
        except TimeoutError:
            raise ParleyError(f"nats-server was not ready within 15 s:\n{child.tail()}") from None

    async def _start_worker(self) -> None:
        from parley_operator.clock import SystemClock
        from parley_operator.pki import make_ca

        tls, now = self.run_directory / "worker-tls", SystemClock().now()
        self._ca = make_ca(now)
        write_server_files(tls, self._ca, WORKER_NAME, now)
        prefix = "PARLEY_WORKER_"
        env = {
            "NAME": WORKER_POD,
            "CAPACITY": "4",
            "MEDIA_ADDRESS": "127.0.0.1:0",
            "CONTROL_ADDRESS": "127.0.0.1:0",
            "ADMIN_ADDRESS": "127.0.0.1:0",
            "TELEPHONY_ADDRESS": "127.0.0.1:0",
            "CONTROL_TLS_DIR": str(tls),
            "MEDIA_TLS_DIR": str(tls),
            "TLS_SERVER_NAME": WORKER_NAME,
            "NATS_URL": self.nats_url,
            "DRAIN_TIMEOUT": "1",
            "FLUSH_TIMEOUT": "3",
            "LOG_FORMAT": "plain",
            "SCENARIO_PATHS": ":".join(self._scenario_paths()),
        }
        spec = ChildSpec(
            "media worker",
            [sys.executable, "-m", "parley_worker"],
            {prefix + name: value for name, value in env.items()},
            ready_timeout=self.options.ready_timeout,
            stop_timeout=8,
        )
        self._worker = await self._start(spec)
        self.admin_address = str(self._worker.ready["admin"])

    def _scenario_paths(self) -> list[str]:
        paths = [path.absolute() for path in (*self.options.scenario_paths, Path())]
        if missing := [path for path in paths if not path.is_dir()]:
            raise UsageError(f"scenario path {missing[0]}: there is no such folder")
        return [str(path) for path in dict.fromkeys(paths)]

    def _worker_target(self) -> WorkerTarget:
        from parley_operator.clock import SystemClock
        from parley_operator.embedded import WorkerTarget, WorkerTls
        from parley_operator.pki import issue_client

        assert self._worker is not None
        assert self._ca is not None
        pair = issue_client(self._ca, SystemClock().now())
        ready = self._worker.ready
        return WorkerTarget(
            name=WORKER_POD,
            control_address=str(ready["control"]),
            tls=WorkerTls(self._ca.certificate, pair.certificate, pair.key, WORKER_NAME),
            media_endpoint=str(ready["endpoint"]),
        )

    def _volumes(self) -> Path:
        return (self.options.volumes or Path()).absolute()

    def _with_volumes(self, manifests: Manifests) -> Manifests:
        """Let a recording go below the folder for volumes, and make its folder."""
        if not volume_path(manifests):
            return manifests
        moved = below(manifests, self._volumes())
        folder = Path(volume_path(moved))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"spec.recording.volume.path: {folder}: {error.strerror}") from error
        self.recordings = folder
        return moved

    def _rules(self, manifests: Manifests) -> dict[str, object]:
        """What the pool made here allows: the user's programs, and the hosts that the file names."""
        here = str(Path().absolute())
        return {
            "scenarios": {"allowSource": True, "entryPoints": ["*"]},
            "tools": {"allowedHosts": [*LOCAL_HOSTS, *webhook_hosts(manifests)]},
            "media": {"allowedHosts": [*LOCAL_HOSTS, *self.options.allowed_hosts], "directories": [here]},
            "recordings": {
                "allowedHosts": [*LOCAL_HOSTS, *store_hosts(manifests)],
                "directories": [str(self._volumes())],
            },
        }

    async def _with_provider(self, manifests: Manifests) -> Manifests:
        """Start the local provider where it is meant, and point the objects at it."""
        mode = self.options.local_provider
        for url in dict.fromkeys(provider_urls(manifests)):
            if mode == "never" or not loopback_url(url):
                continue
            if mode == "auto" and await _listens(url):
                continue
            manifests = point_at(manifests, url, await self._local_provider())
        return manifests

    async def _local_provider(self) -> str:
        if self._provider_url:
            return self._provider_url
        options = self.options
        if options.voice == "flite":
            find_program("flite")
        arguments = ["--host", "127.0.0.1", "--port", "0", "--voice", options.voice]
        arguments += ["--recognizer", options.recognizer, "--vad", options.detector, "--brain", options.brain]
        spec = ChildSpec(
            "local provider",
            [sys.executable, "-m", "parley_local", *arguments],
            env=brain_environ(self._environ),
            ready_timeout=options.ready_timeout,
        )
        with self._step("start the local provider (loads the speech models)"):
            child = await self._start(spec)
        self._provider_url = str(child.ready["listening"])
        return self._provider_url

    async def _until_ready(self, plane: EmbeddedControlPlane, name: str) -> Mapping[str, object]:
        """Wait for Ready; nobody will mend a session that is not accepted, so that ends the wait early."""
        ready = asyncio.ensure_future(plane.wait_phase(name, {"Ready"}, timeout=self.options.session_timeout))
        refused_for = 0.0
        try:
            while not ready.done():
                await asyncio.wait([ready], timeout=0.25)
                accepted = condition(plane.get("VoiceSession", name), "Accepted")
                refused_for = refused_for + 0.25 if accepted.get("status") == "False" else 0.0
                if refused_for > 1.5 and not ready.done():
                    raise TimeoutError
            return ready.result()
        finally:
            ready.cancel()
            await asyncio.wait([ready])


def brain_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of the local provider's brains: where a chat service is, and where modules are found."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith("PARLEY_LOCAL_CHAT_") or name == "PYTHONPATH"
    }


def condition(body: Mapping[str, object] | None, type: str) -> Mapping[str, object]:
    """Return a condition of a status, empty when it is not there."""
    status = (body or {}).get("status")
    found = status.get("conditions") if isinstance(status, dict) else None
    return next((c for c in found or [] if c.get("type") == type), {})


def refusal(body: Mapping[str, object] | None) -> str:
    """Return reason and message of the condition that keeps a session from being Ready."""
    for type in ("Accepted", "Placed"):
        found = condition(body, type)
        if found.get("status") == "False" and found.get("message"):
            return f"{found.get('reason')}: {found['message']}"
    return ""


async def _listens(url: str) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme in ("wss", "https") else 80)
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
