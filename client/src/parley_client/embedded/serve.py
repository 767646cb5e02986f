"""`parley run` without a caller of its own: the session waits for whoever attaches, until it has ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parley_client.session_events import read_events
from parley_client.target import Target

from .demo import RECORDING_TIMEOUT, Presenter, announce, scenario_log_shown
from .manifests import Manifests, is_recorded
from .stack import EmbeddedStack

TICKET_FILE: Final = "ticket"
CA_FILE: Final = "ca.crt"


@dataclass(frozen=True, slots=True)
class Served:
    """How the session ended. `reason` is a word of VoiceSession.status.endReason."""

    reason: str
    message: str


async def serve_session(stack: EmbeddedStack, manifests: Manifests, presenter: Presenter) -> Served:
    """Run the session for callers and telephony streams from outside; shows its events until it has ended.

    The ticket is never shown: it lies in a file of the run directory that only the user can read.
    """
    target = await stack.guard(stack.open_session(manifests))
    announce(stack, presenter)
    ticket, ca = _write_access(stack.run_directory, target)
    command = f"parley call --address {target.address} --ticket-file {ticket}"
    if target.tls:
        command += f" --ca {ca} --tls-name {target.tls_server_name}"
    presenter.note(
        f"callers attach with: {command} --audio IN.wav --out OUT.wav",
        address=target.address,
        ticket_file=str(ticket),
        ca_file=str(ca),
        tls_server_name=target.tls_server_name,
    )

    async def follow() -> Served:
        presenter.heading("Events of the session, from NATS")
        served = Served("", "its events ended without a last one")
        wait = RECORDING_TIMEOUT if is_recorded(manifests) else 0.0
        events = read_events(stack.nats_url, target.namespace, target.session_uid, recorded=wait)
        async for event in events:
            presenter.session_event(event)
            if event.type == "ended":
                served = Served(str(event.fields.get("reason", "")), str(event.fields.get("message", "")))
        return served

    async with scenario_log_shown(stack, target, presenter):
        return await stack.guard(follow())


def _write_access(folder: Path, target: Target) -> tuple[Path, Path]:
    ticket, ca = folder / TICKET_FILE, folder / CA_FILE
    for path, text in ((ticket, target.ticket), (ca, target.ca_pem)):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
    return ticket, ca
