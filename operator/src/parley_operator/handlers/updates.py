"""Telling the worker of a live session that its spec changed."""

from __future__ import annotations

from parley_operator.domain.checks import Problem
from parley_operator.domain.live import CHECK_AGAIN, not_updated
from parley_operator.domain.model import Placement, UpdateRequest
from parley_operator.domain.observation import Observation, Plan

from .context import Context
from .plans import gather_plan


async def tell_update(
    context: Context, seen: Observation, placement: Placement
) -> tuple[dict[str, object], float | None]:
    """Check the new spec as if the session were to be placed, and tell the worker. Its report says what came
    of it.

    Returns a status patch and seconds until the next look. Raises `StoreError`.
    """
    view = context.links.view(placement.worker)
    pool = (view.namespace, view.pool) if view else None
    plan = await gather_plan(context, seen.subject, pool)
    if isinstance(plan, Problem):
        return not_updated(seen, plan), CHECK_AGAIN
    request = update_request(seen, plan, placement)
    await context.links.update(placement.worker, request)
    return {}, None


def update_request(seen: Observation, plan: Plan, placement: Placement) -> UpdateRequest:
    subject = seen.subject
    return UpdateRequest(
        namespace=subject.namespace,
        name=subject.name,
        uid=subject.uid,
        attempt=placement.attempt,
        instance_id=placement.instance_id,
        generation=subject.generation,
        session_json=plan.session_json,
        limits=plan.spec.limits,
        conduct=plan.conduct,
    )
