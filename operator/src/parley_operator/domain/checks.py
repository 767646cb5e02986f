"""The trust rules and what else must hold before a session is placed.

A `Problem` becomes the condition `Accepted=False`: it names the field, what is wrong and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from parley_operator.api.constants import ANNOTATION_PROVIDER_HOSTS, LABEL_CREDENTIALS
from parley_operator.api.fields import FieldError
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import PoolSpec, SecretRef

from .hosts import Endpoint, covers, is_forbidden, is_loopback


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a session cannot be placed as it is. `reason` is CamelCase, for the condition."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SecretView:
    """A Secret as read; the values never show."""

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    values: Mapping[str, SecretText] = field(repr=False)


def check_namespace(pool: PoolSpec, pool_name: str, pool_namespace: str, namespace: str) -> Problem | None:
    """May sessions of `namespace` use the pool? Its own namespace always may."""
    allowed = pool.allowed_namespaces
    if namespace == pool_namespace or namespace in allowed or "*" in allowed:
        return None
    return Problem(
        "NamespaceNotAllowed",
        f"spec.poolRef: pool {pool_namespace}/{pool_name} does not admit sessions of namespace {namespace}; "
        f"add it to the pool's spec.allowedNamespaces or choose another pool",
    )


def check_host(endpoint: Endpoint, pool: PoolSpec, field_path: str) -> Problem | None:
    """May workers of the pool talk to the host?"""
    if is_forbidden(endpoint.host):
        return Problem(
            "HostForbidden",
            f"{field_path}: host {endpoint.host} is a link-local, metadata or otherwise reserved address; "
            "no provider may live there",
        )
    local = is_loopback(endpoint.host)
    if covers(pool.allowed_hosts, endpoint, exact=local):
        return None
    return Problem(
        "HostNotAllowed",
        f"{field_path}: host {endpoint.text} is not in the pool's spec.provider.allowedHosts; "
        "ask the pool's owner to add it or use another provider",
    )


def check_plaintext(endpoint: Endpoint, pool: PoolSpec, field_path: str) -> Problem | None:
    """A key goes over plaintext only to a host and port that the pool lists by name."""
    listed = [entry for entry in pool.allowed_hosts if ":" in entry]
    if not endpoint.plaintext or is_loopback(endpoint.host) or covers(listed, endpoint, exact=True):
        return None
    return Problem(
        "PlaintextCredentials",
        f"{field_path}: credentials would travel unencrypted to {endpoint.text}; use wss://, or "
        f"have the pool's "
        f"owner list {endpoint.text} with its port in spec.provider.allowedHosts",
    )


def check_credentials(
    reference: SecretRef, secret: SecretView | None, namespace: str, endpoint: Endpoint, field_path: str
) -> Problem | SecretText:
    """The key, where the Secret may be sent to the endpoint."""
    where = f"{field_path}.credentialsSecretRef"
    if secret is None:
        return Problem(
            "SecretNotFound",
            f"{where}.name: Secret {reference.name} does not exist in namespace {namespace}; create "
            f"it with the "
            f"label {LABEL_CREDENTIALS} and the annotation {ANNOTATION_PROVIDER_HOSTS}",
        )
    if LABEL_CREDENTIALS not in secret.labels:
        return Problem(
            "SecretNotLabelled",
            f"{where}.name: Secret {reference.name} is not meant for providers; label it "
            f"{LABEL_CREDENTIALS}=true "
            "if it is",
        )
    hosts = list_of(secret.annotations.get(ANNOTATION_PROVIDER_HOSTS, ""))
    if not covers(hosts, endpoint):
        return Problem(
            "SecretHostMismatch",
            f"{where}.name: Secret {reference.name} may not be sent to {endpoint.text}; its annotation "
            f"{ANNOTATION_PROVIDER_HOSTS} must name that host",
        )
    key = secret.values.get(reference.key)
    if key is None or not key.reveal().strip():
        return Problem(
            "SecretKeyMissing",
            f"{where}.key: Secret {reference.name} has no key {reference.key}; add it or name another key",
        )
    text = key.reveal().strip()
    if not text.isascii() or not text.isprintable():
        return Problem("SecretKeyInvalid", f"{where}.key: key {reference.key} of Secret {reference.name} "
                       "holds characters that no API key has")  # fmt: skip
    return SecretText(text)


def list_of(text: str) -> list[str]:
    """Entries of a list written with commas or white space."""
    return text.replace(",", " ").split()


def problem_of(error: FieldError, reason: str = "InvalidSpec", prefix: str = "") -> Problem:
    return Problem(reason, f"{prefix}{error}")


def first_problem(found: Iterable[Problem | None]) -> Problem | None:
    return next((problem for problem in found if problem is not None), None)
