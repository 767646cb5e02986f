"""Between reconcilers and desk: what is heard of workers and pools goes in, who got a place is woken."""

from __future__ import annotations

from collections import Counter

from parley_operator.api.constants import SESSION, Body
from parley_operator.api.fields import FieldError
from parley_operator.api.v1alpha1 import map_at, metadata_of, parse_pool_spec, spec_of, text_at
from parley_operator.domain.model import SessionReport
from parley_operator.domain.placement.demand import Choices, PoolName, PoolRules, Request
from parley_operator.domain.placement.notes import wait_words
from parley_operator.domain.status import condition, merge_conditions

from .context import Context
from .queue import SERVE, Key

_SERVE = Key(SERVE, "", "")


class WaitingLine:
    """`serve` after everything that may have made room; it costs next to nothing when nothing did."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._generations: dict[PoolName, object] = {}

    def worker_seen(self, worker: str, report: SessionReport | None = None) -> None:
        """A worker said something about a session, or changed itself."""
        desk = self._context.desk
        if report is not None and desk.ledger.row(worker) is not None:
            desk.ledger.hear(worker, report)
        else:
            desk.see(self._context.links.view(worker), worker)
        self.serve()

    def look_again(self) -> None:
        """Every worker anew: whatever was missed is mended."""
        views = self._context.links.views()
        for worker in self._context.ledger.workers() - {view.name for view in views}:
            self._context.desk.see(None, worker)
        for view in views:
            self._context.desk.see(view, view.name)
        self.serve()

    def pool_seen(self, key: Key, body: Body, deleted: bool) -> None:
        pool, desk = (key.namespace, key.name), self._context.desk
        if deleted:
            self._generations.pop(pool, None)
            desk.forget_rules(pool)
            return
        generation = metadata_of(body).get("generation")
        if generation is not None and self._generations.get(pool) == generation:
            return
        self._generations[pool] = generation
        try:
            spec = parse_pool_spec(spec_of(body))
        except FieldError:
            # Its status says what is wrong; the rules before stay.
            return
        quotas = {quota.namespace: quota for quota in spec.quotas}
        desk.set_rules(pool, PoolRules(spec.placement, quotas))
        self.serve()

    def refused(self, uid: str, worker: str, instance_id: str, seconds: float) -> None:
        """The worker takes nobody, for so long at least; afterwards it is looked at again."""
        now = self._context.clock.monotonic()
        until = self._context.desk.refused(uid, worker, instance_id, now, seconds)
        self._context.queue.add_after(_SERVE, until - now + 0.01)

    def serve(self, besides: str = "") -> None:
        """Hand out what is free and wake who got it, `besides` one that is being looked at."""
        for request in self._context.desk.serve(self._context.clock.monotonic()):
            if request.uid != besides:
                self._context.queue.add(Key(SESSION, request.namespace, request.name))

    async def served(self, key: Key) -> float | None:
        """The handler of the key `SERVE`."""
        self.serve()
        return None

    def gauges(self) -> None:
        """How many wait, by pool and reason, and since when."""
        context = self._context
        alike: Counter[tuple[str, bool, Choices]] = Counter()
        some: dict[tuple[str, bool, Choices], Request] = {}
        oldest = 0.0
        for request in context.desk.waiters():
            kind = (request.namespace, request.urgent, request.choices)
            alike[kind] += 1
            some[kind] = request
            oldest = max(oldest, context.clock.now() - request.created)
        found: Counter[tuple[str, str]] = Counter()
        for kind, count in alike.items():
            request = some[kind]
            found["/".join(request.pools[0]), context.desk.why(request).value] += count
        context.metrics.waiting(found, oldest)


def with_standing(context: Context, body: Body) -> Body:
    """The VoiceSession with its place in the queue as it is now; the status is written only now and then."""
    standing = context.desk.standing(text_at(body, "metadata", "uid"), context.clock.monotonic())
    if standing is None:
        return body
    status = map_at(body, "status")
    status["queue"] = {
        "position": standing.position,
        "length": standing.length,
        "reason": standing.reason.value,
    }
    words = wait_words(standing, "")
    generation = metadata_of(body).get("generation")
    placed = condition(
        "Placed", False, standing.reason.value, words, generation if isinstance(generation, int) else 1
    )
    status["conditions"] = merge_conditions(status.get("conditions"), [placed], context.clock.now())
    return {**body, "status": status}
