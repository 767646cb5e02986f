"""The metrics of all processes of a worker on one page of the Prometheus text format, each number once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

SUPERVISOR = "supervisor"


@dataclass(slots=True)
class _Family:
    header: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def merge(own: str, pages: Mapping[str, str], worker_wide: Collection[str]) -> str:
    """One page of the supervisor's (`own`) and the shards' (by the value of their label `shard`).

    Families in `worker_wide` are taken from `own` alone and get no label; what else the supervisor shows has
    `shard="supervisor"`. Each family has HELP and TYPE once, whoever shows it. Families are named as in their
    TYPE lines.
    """
    merged: dict[str, _Family] = {}
    for name, family in _families(own):
        label = None if name in worker_wide else SUPERVISOR
        _add(merged, name, family, label)
    for shard, page in pages.items():
        for name, family in _families(page):
            if name not in worker_wide:
                _add(merged, name, family, shard)
    lines = [line for family in merged.values() for line in (*family.header, *family.samples)]
    return "".join(line + "\n" for line in lines)


def _add(merged: dict[str, _Family], name: str, family: _Family, shard: str | None) -> None:
    target = merged.setdefault(name, _Family(family.header))
    target.samples += family.samples if shard is None else [_labelled(s, shard) for s in family.samples]


def _families(page: str) -> Iterator[tuple[str, _Family]]:
    """The families of a page as the client library writes it: HELP, TYPE, then the samples."""
    name, family = "", _Family()
    for line in page.split("\n"):
        if line.startswith("# HELP "):
            if name:
                yield name, family
            name, family = line.split(" ", 3)[2], _Family()
        if line.startswith("#"):
            family.header.append(line)
        elif line:
            family.samples.append(line)
    if name:
        yield name, family


def _labelled(sample: str, shard: str) -> str:
    """A sample line with the label put first."""
    brace, space = sample.find("{"), sample.find(" ")
    if 0 <= brace < space:
        return f'{sample[: brace + 1]}shard="{shard}",{sample[brace + 1 :]}'
    return f'{sample[:space]}{{shard="{shard}"}}{sample[space:]}'
