"""What a worker is asked to run, in one place for first placements, recoveries and moves."""

from __future__ import annotations

from parley_operator.domain.model import AdmitRequest, Placement, Restore
from parley_operator.domain.observation import Plan, Subject


def admit_request(
    subject: Subject, plan: Plan, placement: Placement, ticket_sha256: bytes, restore: Restore | None
) -> AdmitRequest:
    """The same for the same arguments: an Admit may be repeated."""
    return AdmitRequest(
        namespace=subject.namespace,
        name=subject.name,
        uid=subject.uid,
        attempt=placement.attempt,
        instance_id=placement.instance_id,
        provider=plan.provider,
        session_json=plan.session_json,
        greet=plan.greet,
        limits=plan.spec.limits,
        ticket_sha256=ticket_sha256,
        privacy=plan.spec.privacy,
        provider_audio=plan.spec.provider_format,
        conduct=plan.conduct,
        origin=plan.origin,
        restore=restore,
    )
