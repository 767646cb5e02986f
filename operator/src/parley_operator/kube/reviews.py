"""KubeReviews: `ports.Reviews` by TokenReview and SubjectAccessReview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from parley_operator.api.constants import GROUP, RESOURCES, SESSION, Body
from parley_operator.api.v1alpha1 import map_at, text_at
from parley_operator.domain.requests import Caller

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Reviewer(Protocol):
    async def review(self, path: str, body: Mapping[str, object]) -> Body: ...


class KubeReviews:
    """`audiences` are those that a token must be meant for; empty: the API server's own."""

    def __init__(self, api: Reviewer, audiences: Sequence[str] = ()) -> None:
        self._api = api
        self._audiences = list(audiences)

    async def identify(self, token: str) -> Caller | None:
        spec: Body = {"token": token}
        if self._audiences:
            spec["audiences"] = self._audiences
        body: Body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status = map_at(await self._api.review(TOKEN_REVIEWS, body), "status")
        if status.get("authenticated") is not True:
            return None
        if self._audiences and not set(_texts(status.get("audiences"))) & set(self._audiences):
            # An authenticator that knows no audiences answers without them.
            return None
        user = map_at(status, "user")
        extra = {key: _texts(values) for key, values in map_at(user, "extra").items()}
        name = text_at(user, "username")
        return Caller(name, text_at(user, "uid"), _texts(user.get("groups")), extra) if name else None

    async def allowed(self, caller: Caller, verb: str, namespace: str, name: str) -> bool:
        resource = {"verb": verb, "group": GROUP, "resource": RESOURCES[SESSION][1], "namespace": namespace}
        if name:
            resource["name"] = name
        spec: Body = {"user": caller.username, "groups": list(caller.groups), "resourceAttributes": resource}
        if caller.uid:
            spec["uid"] = caller.uid
        if caller.extra:
            spec["extra"] = {key: list(values) for key, values in caller.extra.items()}
        body: Body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        status = map_at(await self._api.review(ACCESS_REVIEWS, body), "status")
        return status.get("allowed") is True and status.get("denied") is not True


def _texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
