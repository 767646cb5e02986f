"""Compile the worker's hot modules: python mediaworker/compile.py FOLDER

Makes FOLDER a copy of the sources beside this script, with an extension module beside each of MODULES. A
Python that has FOLDER first on its path runs those; the sources stay as they are and are the reference. What
was compiled is kept in PARLEY_CACHE by the digest of all that it was made of: the same is compiled once.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ROOT / "mediaworker/src"
CONTRACTS: Final = ROOT / "proto/gen/python"
PINS: Final = (ROOT / "requirements/compile.txt", ROOT / "requirements/worker.txt")
GROUP: Final = "parley_hot"
OPTIMIZE: Final = "1"
KEPT: Final = 12
"""So many results stay in the cache: of a few checkouts, and of the commit that an upgrade begins at."""

# No coroutine may be in them: a compiled one does not end as Python's does when it is cancelled. No class of
# theirs is emptied by `unravel`, is referred to weakly, or is a generic dataclass with slots.
MODULES: Final = (
    "parley_realtime.client.following",
    "parley_realtime.client.intake",
    "parley_realtime.client.media",
    "parley_realtime.client.outgoing",
    "parley_realtime.client.turns",
    "parley_realtime.client.uplink",
    "parley_realtime.formats",
    "parley_realtime.protocol.alignment",
    "parley_realtime.protocol.core",
    "parley_realtime.protocol.history",
    "parley_realtime.protocol.keeper",
    "parley_realtime.protocol.outstanding",
    "parley_realtime.protocol.tape",
    "parley_realtime.protocol.vigil",
    "parley_worker.codec.events_json",
    "parley_worker.codec.events_pb",
    "parley_worker.codec.many_pb",
    "parley_worker.codec.media_pb",
    "parley_worker.core.backlog",
    "parley_worker.core.budget",
    "parley_worker.core.conversation",
    "parley_worker.core.deadlines",
    "parley_worker.core.event_filter",
    "parley_worker.core.interruption",
    "parley_worker.core.media_path",
    "parley_worker.core.outbox",
    "parley_worker.core.playout",
    "parley_worker.core.replay",
    "parley_worker.core.response_watch",
    "parley_worker.core.session",
    "parley_worker.core.session_budget",
    "parley_worker.core.spoken",
    "parley_worker.core.underruns",
    "parley_worker.core.usage",
    "parley_worker.runtime.pacer",
    "parley_worker.runtime.session_driver",
    "parley_worker.runtime.session_effects",
    "parley_worker.runtime.session_guard",
    "parley_worker.runtime.session_media",
    "parley_worker.runtime.units",
    "parley_worker.telemetry.frames",
    "parley_worker.transport.leg_lanes",
    "parley_worker.transport.many_leg",
    "parley_worker.transport.many_reader",
    "parley_worker.transport.many_turns",
)


def path_of(module: str) -> Path:
    """Of its source, below the sources."""
    return Path(*module.split(".")).with_suffix(".py")


def digest() -> str:
    """Of all that decides about the result. Types of modules that are not compiled do, too.

    Of Python and the C library only what says where a native module can be loaded: a patch release is as good
    as another, so that an image takes what was made on the machine that builds it.
    """
    from mypy.version import __version__ as mypy

    runs_on = (sysconfig.get_config_var("SOABI"), *platform.libc_ver())
    said = hashlib.sha256(f"{mypy} {runs_on}".encode())
    sources = [*SOURCES.rglob("*.py"), *CONTRACTS.rglob("*.pyi")]
    for source in (Path(__file__).resolve(), *PINS, *sorted(sources)):
        said.update(f"{source.relative_to(ROOT)}\0".encode())
        said.update(source.read_bytes())
    return said.hexdigest()[:16]


def copy_sources(folder: Path) -> None:
    """Make `folder` a copy of the sources and of nothing else."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__"))


def build(folder: Path) -> None:
    """Compile the modules within a copy of the sources; takes a minute or two of CPU."""
    from mypyc.build import mypycify
    from setuptools import setup

    with tempfile.TemporaryDirectory() as made:
        config = Path(made, "mypy.ini")
        config.write_text(
            "[mypy]\nnamespace_packages = true\nexplicit_package_bases = true\n"
            f"mypy_path = {folder}:{CONTRACTS}\ncache_dir = {made}/cache\nignore_missing_imports = true\n"
            "[mypy-parley.*]\nignore_errors = true\n"
        )
        before = Path.cwd()
        os.chdir(folder)
        try:
            extensions = mypycify(
                ["--config-file", str(config), *(str(folder / path_of(module)) for module in MODULES)],
                opt_level=OPTIMIZE,
                debug_level="0",
                target_dir=f"{made}/c",
                group_name=GROUP,
            )
            places = ["--build-temp", f"{made}/objects", "--build-lib", f"{made}/lib"]
            arguments = ["--quiet", "build_ext", "--inplace", *places]
            setup(name=GROUP, ext_modules=extensions, script_args=arguments)
        finally:
            os.chdir(before)


def natives(folder: Path) -> list[Path]:
    """Extension modules below it."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*.so"))


def keep(folder: Path, kept: Path) -> None:
    """Put what was compiled in `folder` into the cache, all or nothing."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as made:
        fresh = Path(made, kept.name)
        for native in natives(folder):
            (fresh / native).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / native, fresh / native)
        if not kept.exists():
            fresh.rename(kept)
    others = sorted(
        (path for path in kept.parent.iterdir() if path != kept), key=lambda path: path.stat().st_mtime
    )
    for old in others[: 1 - KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    """See the module."""
    if len(sys.argv) != 2:
        sys.exit("usage: python mediaworker/compile.py FOLDER")
    folder = Path(sys.argv[1]).absolute()
    cache = Path(os.environ.get("PARLEY_CACHE") or Path.home() / ".cache/parley")
    kept = cache / "compiled" / digest()
    copy_sources(folder)
    if not kept.is_dir():
        sys.stdout.write(f"compiling {len(MODULES)} modules: a minute or two\n")
        sys.stdout.flush()
        build(folder)
        keep(folder, kept)
    else:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
    sys.stdout.write(f"{len(natives(folder))} native modules in {folder}\n")


if __name__ == "__main__":
    main()
