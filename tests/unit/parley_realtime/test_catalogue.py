"""The table of VoxEngine's surface, what is made from it, and that it leaves out nothing of ours."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import parley_realtime
import pytest
from parley_realtime import beta, catalogue, names
from parley_realtime.payloads import beta as beta_payloads
from parley_realtime.payloads import ga as ga_payloads
from payload_samples import client_events, server_events

ROOT = Path(__file__).resolve().parents[3]
SHAPES = pytest.mark.parametrize("shape", ["ga", "beta"])
PAYLOADS: dict[str, Any] = {"ga": ga_payloads, "beta": beta_payloads}
CLIENTS: dict[str, Any] = {"ga": parley_realtime.RealtimeAPIClient, "beta": beta.RealtimeAPIClient}
ENUMS: dict[str, Any] = {"ga": names.RealtimeAPIEvents, "beta": names.BetaRealtimeAPIEvents}


@SHAPES
def test_the_enum_is_the_table(shape: str) -> None:
    rows = list(catalogue.rows(shape))
    prefix = catalogue.name_prefix(shape)
    assert [(e.name, e.value) for e in ENUMS[shape]] == [(row.name, prefix + row.name) for row in rows]
    assert len(rows) == {"ga": 43, "beta": 30}[shape]


@SHAPES
def test_every_event_has_a_payload_of_its_own_type(shape: str) -> None:
    types = dict(server_events(shape))
    for row in catalogue.rows(shape):
        assert hasattr(PAYLOADS[shape], row.name), row.name
        for wire in row.types(shape):
            assert types[wire].__name__.removeprefix("Transcription") == row.name


@SHAPES
def test_every_typed_event_is_named_nameless_or_audio(shape: str) -> None:
    named = set(catalogue.names_by_type(shape))
    nameless = {wire for wire, shapes in catalogue.NAMELESS if shapes.has(shape)}
    audio = {wire for wire, shapes in catalogue.AUDIO_DELTAS if shapes.has(shape)}
    assert {wire for wire, _ in server_events(shape)} == named | nameless | audio


@SHAPES
def test_every_client_event_has_a_method_or_is_the_connectors_own(shape: str) -> None:
    offered = {row.wire for row in catalogue.METHODS if row.wire and getattr(row, shape)}
    others = {
        "input_audio_buffer.append",
        "output_audio_buffer.clear",
        *(
            ["transcription_session.update", "input_audio_buffer.commit", "input_audio_buffer.clear"]
            * (shape == "beta")
        ),
    }
    assert {wire for wire, _ in client_events(shape)} == offered | others


@SHAPES
def test_methods_are_what_the_table_says(shape: str) -> None:
    for row in catalogue.METHODS:
        owner: Any = CLIENTS[shape]
        if not hasattr(owner, row.ours):
            owner = {"ga": parley_realtime, "beta": beta}[shape]
        if not getattr(row, shape):
            assert not hasattr(owner, row.ours), f"VoxEngine has no {row.voxengine} in {shape}"
            continue
        assert callable(getattr(owner, row.ours, None) or getattr(parley_realtime, row.ours)), row.ours


def test_beta_methods_take_what_the_table_says() -> None:
    for row in catalogue.METHODS:
        if row.wire is None or not row.beta:
            continue
        told = [part.split("=")[0].strip() for part in row.beta.strip("()").split(",")]
        takes = list(inspect.signature(getattr(CLIENTS["beta"], row.ours)).parameters)[1:]
        assert takes == told, row.ours


def test_parameters_exist() -> None:
    for row in (*catalogue.PARAMETERS, *catalogue.MEDIA_PARAMETERS):
        owner, _, name = row.ours.rpartition(".")
        fields = getattr(parley_realtime, owner or "RealtimeAPIClientParameters").__dataclass_fields__
        assert name in fields, row.ours


MEMBERS = [(row.ours, name, value) for row in catalogue.ENUMS for name, value in row.members]


@pytest.mark.parametrize(
    ("enum", "name", "value"), MEMBERS, ids=[f"{enum}.{name}" for enum, name, _ in MEMBERS]
)
def test_enum(enum: str, name: str, value: str | int) -> None:
    members = getattr(parley_realtime, enum).__members__
    assert members[name].value == value
    assert len(members) == sum(row == enum for row, _, _ in MEMBERS)


def test_python_made_from_the_table_is_current() -> None:
    """The very check of `make verify-docs`, for the Python text alone."""
    run = subprocess.run(
        [sys.executable, "docs/generate.py", "--check", "--python"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
