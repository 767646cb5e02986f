"""The peers under test: the bare floor, pipecat and livekit-agents, each in an environment of its own.

Their programs and pins are in a checkout of the project (tests/load/peers, requirements/bench-*.txt); `make
bench-peers` makes the environments.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from parley_client.bench import correlate
from parley_client.bench.loadgen import LinePeer, Loadgen
from parley_client.bench.systems import Place, System, Variant, pinned
from parley_client.bench.windows import Traffic
from parley_client.embedded.processes import Child, ChildSpec
from parley_client.embedded.programs import find_program
from parley_client.errors import MissingProgram, ParleyError, UsageError

PROGRAMS: Final = Path("tests/load/peers")
REMEDY: Final = "make bench-peers  (in a checkout of the project; the bench is then run from its folder)"
SHOWN: Final = {
    "floor": ("aiofastnet", "grpcio", "picows", "protobuf", "uvloop", "websockets"),
    "pipecat": ("pipecat-ai", "fastapi", "uvicorn", "uvloop", "websockets"),
    "livekit": ("livekit-agents", "livekit-plugins-openai", "livekit", "livekit-api"),
}
WEBRTC_ADDRESS: Final = "10.77.0.1/24"
NAMESPACE: Final = (
    'ip link set lo up && ip link add b0 type veth peer name b1 && ip addr add "$1" dev b0'
    " && ip link set b0 up && ip link set b1 up && echo '{\"ready\": true}' && exec sleep 86400"
)
REGISTER_S: Final = 90.0
SPAWN_S: Final = 6.0
LIVEKIT: Final = {
    "LIVEKIT_URL": "ws://127.0.0.1:7880",
    "LIVEKIT_API_KEY": "devkey",
    "LIVEKIT_API_SECRET": "devsecretdevsecretdevsecretdevsecret",
}


def environment(system: str) -> Path:
    """The Python of a peer's environment.

    Raises:
        MissingProgram: nobody has made it.
    """
    folder = Path(os.environ.get("PARLEY_BENCH_PEERS") or Path.cwd())
    python = folder / f".venv-bench-{system}" / "bin" / "python"
    if not python.exists():
        raise MissingProgram(f"the environment of {system}", REMEDY)
    return python.absolute()


def program(name: str) -> str:
    """A peer's program in the checkout."""
    path = PROGRAMS / name
    if not path.is_file():
        raise MissingProgram(str(path), REMEDY)
    return str(path.absolute())


async def installed(python: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages in an environment."""
    code = (
        "import json, platform, sys; from importlib.metadata import version\n"
        "found = {'python': platform.python_version()}\n"
        "found |= {name: version(name) for name in sys.argv[1:]}\nprint(json.dumps(found))"
    )
    process = await asyncio.create_subprocess_exec(
        str(python), "-c", code, *packages, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    found: dict[str, str] = json.loads(said or b"{}")
    return found


class Peer(System):
    """A peer with one worker process, driven by the load program's callers."""

    def __init__(self, variant: Variant, place: Place) -> None:
        super().__init__(variant, place)
        self._load: Loadgen | None = None
        self._worker: Child | None = None
        self._versions: dict[str, str] = {}

    @property
    def callers(self) -> LinePeer:
        assert self._load is not None
        return self._load

    def worker_pids(self) -> Sequence[int]:
        return [self._worker.pid] if self._worker else []

    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    async def start(self) -> None:
        python = environment(self.variant.system)
        self._versions = await installed(python, SHOWN[self.variant.system])
        self._load = await self.load_program()
        tls = ["--tls", str(self.place.certificates.folder)] if self.variant.tls else []
        argv = [str(python), program(f"{self.variant.system}_worker.py"), *self._arguments(), *tls]
        spec = ChildSpec(
            f"{self.variant.system} worker",
            pinned(argv, self.scenario.pinning.worker),
            {"SSL_CERT_FILE": str(self.place.certificates.ca)} if self.variant.tls else {},
            ready_timeout=60,
        )
        self._worker = await self.child(spec)

    def _arguments(self) -> list[str]:
        assert self._load is not None
        return ["--provider", self.provider_url(self._load)]


class Floor(Peer):
    """The bare floor: a gRPC stream a call, or one for all, bridged to the provider and nothing else."""

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--websocket", self.variant.flavour]

    async def command(self, sid: int) -> dict[str, Any]:
        assert self._worker is not None
        transport = "floor" if self.variant.transport == "converse" else "floor-many"
        return self.call_command(str(self._worker.ready["endpoint"]), transport=transport)


class Pipecat(Peer):
    """pipecat's telephony pipeline over Twilio media streams."""

    async def command(self, sid: int) -> dict[str, Any]:
        assert self._worker is not None
        return self.call_command(str(self._worker.ready["endpoint"]), transport="twilio", format="ulaw8")


class LiveKit(System):
    """livekit-agents with a livekit-server, and callers of livekit's own SDK, in a network namespace.

    Media is always encrypted (SRTP); signalling and the provider are plain here.
    """

    stretch = 2.5

    def __init__(self, variant: Variant, place: Place) -> None:
        super().__init__(variant, place)
        self._load: Loadgen | None = None
        self._callers: LinePeer | None = None
        self._worker: Child | None = None
        self._server: Child | None = None
        self._versions: dict[str, str] = {}

    @property
    def callers(self) -> LinePeer:
        assert self._callers is not None
        return self._callers

    def worker_pids(self) -> Sequence[int]:
        return [self._worker.pid] if self._worker else []

    def helper_pids(self) -> Sequence[int]:
        return [self._server.pid] if self._server else []

    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    async def start(self) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("nsenter") is None:
            raise UsageError(
                "livekit is run in a network namespace: be root and have ip (iproute2) and nsenter"
                " (util-linux), or leave livekit out of --systems"
            )
        python = environment("livekit")
        self._versions = await installed(python, SHOWN["livekit"])
        server = find_program("livekit-server")
        space = await self.child(
            ChildSpec("network namespace", ["unshare", "-n", "bash", "-c", NAMESPACE, "_", WEBRTC_ADDRESS])
        )
        inside = ["nsenter", "-t", str(space.pid), "-n", "--"]
        pins = self.scenario.pinning
        self._load = await self.load_program(inside, "-raw")
        argv = [server, "--config", program("livekit.yaml")]
        self._server = await self.child(
            ChildSpec("livekit-server", [*inside, *pinned(argv, pins.others)], json_ready=False)
        )
        await asyncio.sleep(1.5)
        argv = [str(python), program("livekit_worker.py"), "start"]
        settings = {**LIVEKIT, "BENCH_PROVIDER": f"http://{self._load.provider}/v1"}
        spec = ChildSpec(
            "livekit worker",
            [*inside, *pinned(argv, pins.worker)],
            settings,
            json_ready=False,
            stop_timeout=15,
        )
        self._worker = await self.child(spec)
        await self._registered(self._worker)
        argv = [*inside, *pinned([str(python), program("livekit_callers.py")], pins.others)]
        log = self.place.folder / "livekit-callers.log"
        self._callers = await LinePeer.spawn("the livekit callers", argv, log, LIVEKIT)
        self._stack.push_async_callback(self._callers.close)
        await self._callers.wait_event("listening", REGISTER_S)

    async def _registered(self, worker: Child) -> None:
        """Wait until the server knows the worker, and its spare processes have started."""
        for _ in range(round(REGISTER_S / 0.25)):
            await asyncio.sleep(0.25)
            if b"registered worker" in worker.log.read_bytes():
                await asyncio.sleep(SPAWN_S)
                return
        raise ParleyError(
            f"livekit-agents did not register within {REGISTER_S:g} s; its last words:\n{worker.tail()}"
        )

    async def command(self, sid: int) -> dict[str, Any]:
        return {}

    async def grow_to(self, sessions: int) -> None:
        # A room at a time: each starts a process of about a second of CPU.
        while len(self.sids) > sessions:
            await self.end_call(self.sids[-1])
        while len(self.sids) < sessions:
            await self.begin_call()

    async def window(self, seconds: float) -> Traffic:
        begin = time.monotonic()
        await asyncio.sleep(seconds)
        end = time.monotonic()
        callers, provider = self.place.folder / "callers.json", self.place.folder / "provider"
        provider.mkdir(exist_ok=True)
        await self.callers.request({"op": "dump", "path": str(callers)}, "dumped", 30)
        assert self._load is not None
        await self._load.request({"op": "provider_log", "path": str(provider)}, "provider_log", 30)
        answer_s = self.scenario.workload.answer_s
        return await asyncio.to_thread(_correlated, callers, provider, begin, end, answer_s)


def _correlated(callers: Path, provider: Path, begin: float, end: float, answer_s: float) -> Traffic:
    connections = [json.loads(file.read_text()) for file in sorted(provider.glob("*.json"))]
    return correlate.traffic(json.loads(callers.read_text()), connections, begin, end, answer_s)
