"""A worker's settings divided over its shards: how many there are, and what each of them is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parley_worker import cores
from parley_worker.config import AUTO, PREFIX, Address, ConfigError, Settings
from parley_worker.core.shards import share


def resolved(settings: Settings) -> Settings:
    """The settings with a number of shards that can be run: `auto` counted, never more than sessions."""
    count = settings.shards
    if count == AUTO:
        count = cores.usable(len(cores.affinity()), cores.quota())
    count = min(count, settings.capacity)
    if problems := _problems(settings, count):
        raise ConfigError(problems)
    return replace(settings, shards=count)


def core_of(settings: Settings, index: int, available: Sequence[int]) -> int | None:
    """The core that a shard is bound to; None for wherever the kernel puts it."""
    enough = len(available) >= settings.shards
    return available[index] if settings.pin_shards and enough else None


def settings_of(settings: Settings, index: int) -> Settings:
    """What shard `index` is told: ports of its own, and its part of what the worker may hold."""
    count = settings.shards
    telephony = settings.telephony_address
    return replace(
        settings,
        shards=0,
        pin_shards=False,
        capacity=share(settings.capacity, count, index),
        media_address=_at(settings.media_address, index),
        advertised_port=_moved(settings.advertised_port, index),
        telephony_address=None if telephony is None else _at(telephony, index),
        telephony_advertised_port=_moved(settings.telephony_advertised_port, index),
        event_buffer_count=max(1, settings.event_buffer_count // count),
        event_buffer_bytes=max(1024, settings.event_buffer_bytes // count),
        tool_calls=max(1, settings.tool_calls // count),
    )


def _at(address: Address, index: int) -> Address:
    return replace(address, port=_moved(address.port, index))


def _moved(port: int, index: int) -> int:
    """A shard's port; 0 (any free one, or as listened on) stays 0."""
    return port + index if port else 0


def _problems(settings: Settings, count: int) -> list[str]:
    problems = []
    used: dict[int, str] = {}
    wanted = (
        ("CONTROL_ADDRESS", settings.control_address.port, 1),
        ("ADMIN_ADDRESS", settings.admin_address.port, 1),
        ("MEDIA_ADDRESS", settings.media_address.port, count),
        ("TELEPHONY_ADDRESS", settings.telephony_address.port if settings.telephony_address else 0, count),
    )
    for name, port, ports in wanted:
        if not port:
            continue
        last = port + ports - 1
        if last > 65535:
            problems.append(f"{PREFIX}{name}: {ports} shards need ports {port} to {last}: give a lower port")
        taken = next((used[p] for p in range(port, last + 1) if p in used), None)
        if taken and ports > 1:
            problems.append(
                f"{PREFIX}{name}: {ports} shards need ports {port} to {last}; {PREFIX}{taken} has"
                " one of them: give ports that are apart"
            )
        used |= dict.fromkeys(range(port, last + 1), name)
    for name in ("advertised_port", "telephony_advertised_port"):
        port = getattr(settings, name)
        last = port + count - 1
        if port and last > 65535:
            problems.append(
                f"{PREFIX}{name.upper()}={port}: {count} shards need ports up to {last}: give a lower port"
            )
    return problems
