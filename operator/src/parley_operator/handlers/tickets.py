"""The ticket Secret of a session: made before Admit, it also remembers who was asked."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256

from parley_operator.api.constants import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_PLACED_ON,
    API_VERSION,
    CA_KEY,
    ENDPOINT_KEY,
    LABEL_SESSION,
    SECRET,
    SESSION,
    TELEPHONY_ENDPOINT_KEY,
    TICKET_KEY,
    TLS_SERVER_NAME_KEY,
    Body,
)
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import text_at
from parley_operator.domain.model import Placement
from parley_operator.domain.observation import Subject
from parley_operator.domain.subjects import owned_by, secret_view
from parley_operator.ports import Conflict, Store

_TRIES = 4


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket with the Secret that holds it, and the placement written on it."""

    secret_name: str
    text: SecretText = field(repr=False)
    placement: Placement | None = None
    endpoint: str = ""
    telephony_endpoint: str = ""
    version: str = ""
    """Resource version of the Secret, where it was read."""

    @property
    def digest(self) -> bytes:
        return sha256(self.text.reveal().encode()).digest()


def secret_name(session: str) -> str:
    return f"{session}-ticket"


async def read_ticket(store: Store, subject: Subject) -> Ticket | None:
    """The ticket of this very session; one of an older session of the same name does not count."""
    name = secret_name(subject.name)
    body = await store.get(SECRET, subject.namespace, name)
    return None if body is None or not owned_by(body, subject.uid) else _ticket(name, body)


async def ensure_ticket(
    store: Store, subject: Subject, placement: Placement, ca: bytes, new_ticket: Callable[[], str]
) -> Ticket:
    """Make the Secret, or note the new placement on the one that is there.

    Raises `Conflict` while a Secret of that name belongs to somebody else, or when it changed just now.
    """
    name = secret_name(subject.name)
    text = new_ticket()
    try:
        await store.create(SECRET, _secret(subject, placement, ca, text))
        return Ticket(name, SecretText(text), placement, placement.endpoint, placement.telephony_endpoint)
    except Conflict:
        body = await store.get(SECRET, subject.namespace, name)
        ticket = None if body is None or not owned_by(body, subject.uid) else _ticket(name, body)
        if body is None or ticket is None:
            raise
    if _written(ticket.placement) != _written(placement):
        version = text_at(body, "metadata", "resourceVersion")
        patch: Body = {"metadata": {"annotations": _notes(placement), "resourceVersion": version}}
        await store.patch(SECRET, subject.namespace, name, patch)
    return replace(ticket, placement=placement)


async def write_endpoint(store: Store, subject: Subject, ticket: Ticket, placement: Placement) -> None:
    """Tell callers where the worker is, when it was not foreseen; a later attempt's word is left alone.

    Raises `Conflict` when others keep writing.
    """
    seen: Ticket | None = ticket
    for _ in range(_TRIES):
        if seen is None or not _tells(seen, placement):
            return
        patch: Body = {
            "metadata": {"annotations": _notes(placement), "resourceVersion": seen.version},
            "data": {
                ENDPOINT_KEY: _encoded(placement.endpoint),
                TLS_SERVER_NAME_KEY: _encoded(placement.tls_server_name),
                TELEPHONY_ENDPOINT_KEY: _encoded(placement.telephony_endpoint),
            },
        }
        try:
            await store.patch(SECRET, subject.namespace, seen.secret_name, patch)
            return
        except Conflict:
            seen = await read_ticket(store, subject)
    raise Conflict(f"Secret {ticket.secret_name} is written by others again and again")


def _tells(ticket: Ticket, placement: Placement) -> bool:
    """Whether the placement is news for the Secret."""
    if ticket.placement is not None and ticket.placement.attempt > placement.attempt:
        return False
    known = (ticket.endpoint, ticket.telephony_endpoint)
    return (placement.endpoint, placement.telephony_endpoint) != known


def _secret(subject: Subject, placement: Placement, ca: bytes, ticket: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": SECRET,
        "type": "Opaque",
        "metadata": {
            "name": secret_name(subject.name),
            "namespace": subject.namespace,
            "labels": {LABEL_SESSION: subject.uid, "app.kubernetes.io/managed-by": "parley-operator"},
            "annotations": _notes(placement),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": SESSION,
                    "name": subject.name,
                    "uid": subject.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "data": {
            TICKET_KEY: _encoded(ticket),
            ENDPOINT_KEY: _encoded(placement.endpoint),
            TLS_SERVER_NAME_KEY: _encoded(placement.tls_server_name),
            TELEPHONY_ENDPOINT_KEY: _encoded(placement.telephony_endpoint),
            CA_KEY: base64.b64encode(ca).decode(),
        },
    }


def _notes(placement: Placement) -> dict[str, object]:
    return {
        ANNOTATION_PLACED_ON: f"{placement.worker}/{placement.instance_id}",
        ANNOTATION_ATTEMPT: str(placement.attempt),
    }


def _written(placement: Placement | None) -> tuple[str, str, int] | None:
    return None if placement is None else (placement.worker, placement.instance_id, placement.attempt)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _ticket(name: str, body: Body) -> Ticket | None:
    values = secret_view(body).values
    if TICKET_KEY not in values:
        return None
    endpoint, server_name, telephony = (
        values[key].reveal() if key in values else ""
        for key in (ENDPOINT_KEY, TLS_SERVER_NAME_KEY, TELEPHONY_ENDPOINT_KEY)
    )
    worker, _, instance = text_at(body, "metadata", "annotations", ANNOTATION_PLACED_ON).rpartition("/")
    attempt = text_at(body, "metadata", "annotations", ANNOTATION_ATTEMPT)
    placement = None
    if worker and instance and attempt.isdigit():
        placement = Placement(
            worker,
            instance,
            int(attempt),
            endpoint=endpoint,
            tls_server_name=server_name,
            telephony_endpoint=telephony,
        )
    version = text_at(body, "metadata", "resourceVersion")
    return Ticket(name, values[TICKET_KEY], placement, endpoint, telephony, version)
