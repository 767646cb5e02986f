"""The trust rules and what else must hold before a session is placed.

A `Problem` becomes the condition `Accepted=False`: it names the field, what is wrong and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from parley_operator.api.constants import (
    ANNOTATION_PROVIDER_HOSTS,
    ANNOTATION_RECORDING_HOSTS,
    ANNOTATION_TOOL_HOSTS,
    LABEL_CREDENTIALS,
    LABEL_RECORDING_CREDENTIALS,
    LABEL_TOOL_CREDENTIALS,
)
from parley_operator.api.fields import FieldError
from parley_operator.api.secret import SecretText
from parley_operator.api.v1alpha1 import PoolSpec, SecretRef

from .hosts import Endpoint, covers, is_forbidden, is_loopback

_PROVIDER_HOSTS = "spec.provider.allowedHosts"


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
    """May workers of the pool talk to the provider's host?"""
    return _check_listed(endpoint, pool.allowed_hosts, _PROVIDER_HOSTS, field_path)


def check_plaintext(endpoint: Endpoint, pool: PoolSpec, field_path: str) -> Problem | None:
    """A key goes over plaintext only to a host and port that the pool lists by name."""
    words = "credentials would travel unencrypted"
    return _check_plaintext(endpoint, pool.allowed_hosts, _PROVIDER_HOSTS, field_path, words)


def check_places(
    endpoint: Endpoint, entries: Sequence[str], listed_in: str, field_path: str
) -> Problem | None:
    """May workers send what was said to the host? The pool lists it under `listed_in`."""
    words = "what was said would travel unencrypted"
    return _check_listed(endpoint, entries, listed_in, field_path) or _check_plaintext(
        endpoint, entries, listed_in, field_path, words
    )


def _check_listed(
    endpoint: Endpoint, entries: Sequence[str], listed_in: str, field_path: str
) -> Problem | None:
    if is_forbidden(endpoint.host):
        return Problem(
            "HostForbidden",
            f"{field_path}: host {endpoint.host} is a link-local, metadata or otherwise reserved address; "
            "no service may live there",
        )
    local = is_loopback(endpoint.host)
    if covers(entries, endpoint, exact=local):
        return None
    return Problem(
        "HostNotAllowed",
        f"{field_path}: host {endpoint.text} is not in the pool's {listed_in}; "
        "ask the pool's owner to add it or use another host",
    )


def _check_plaintext(
    endpoint: Endpoint, entries: Sequence[str], listed_in: str, field_path: str, words: str
) -> Problem | None:
    listed = [entry for entry in entries if ":" in entry]
    if not endpoint.plaintext or is_loopback(endpoint.host) or covers(listed, endpoint, exact=True):
        return None
    return Problem(
        "PlaintextCredentials",
        f"{field_path}: {words} to {endpoint.text}; use an encrypted scheme, or have the pool's "
        f"owner list {endpoint.text} with its port in {listed_in}",
    )


@dataclass(frozen=True, slots=True)
class CredentialKind:
    """What marks a Secret as meant for one purpose: its label, and the annotation with its hosts."""

    purpose: str
    label: str
    hosts_annotation: str


PROVIDER_CREDENTIALS = CredentialKind("providers", LABEL_CREDENTIALS, ANNOTATION_PROVIDER_HOSTS)
TOOL_CREDENTIALS = CredentialKind("tools", LABEL_TOOL_CREDENTIALS, ANNOTATION_TOOL_HOSTS)
RECORDING_CREDENTIALS = CredentialKind("recordings", LABEL_RECORDING_CREDENTIALS, ANNOTATION_RECORDING_HOSTS)


def check_credentials(
    reference: SecretRef, secret: SecretView | None, namespace: str, endpoint: Endpoint, field_path: str
) -> Problem | SecretText:
    """The provider's key, where the Secret may be sent to the endpoint."""
    where = f"{field_path}.credentialsSecretRef"
    return open_secret(reference, secret, PROVIDER_CREDENTIALS, namespace, endpoint, where)


def open_secret(
    reference: SecretRef,
    secret: SecretView | None,
    kind: CredentialKind,
    namespace: str,
    endpoint: Endpoint,
    where: str,
) -> Problem | SecretText:
    """The value that `reference` names, where the Secret is meant for the purpose and the endpoint."""
    name = reference.name
    if secret is None:
        return Problem(
            "SecretNotFound",
            f"{where}.name: Secret {name} does not exist in namespace {namespace}; create it with the "
            f"label {kind.label} and the annotation {kind.hosts_annotation}",
        )
    if secret.labels.get(kind.label, "").lower() != "true":
        return Problem(
            "SecretNotLabelled",
            f"{where}.name: Secret {name} is not meant for {kind.purpose}; label it {kind.label}=true "
            "if it is",
        )
    hosts = list_of(secret.annotations.get(kind.hosts_annotation, ""))
    if not covers(hosts, endpoint):
        return Problem(
            "SecretHostMismatch",
            f"{where}.name: Secret {name} may not be sent to {endpoint.text}; its annotation "
            f"{kind.hosts_annotation} must name that host",
        )
    key = secret.values.get(reference.key)
    if key is None or not key.reveal().strip():
        return Problem(
            "SecretKeyMissing",
            f"{where}.key: Secret {name} has no key {reference.key}; add it or name another key",
        )
    text = key.reveal().strip()
    if not text.isascii() or not text.isprintable():
        return Problem(
            "SecretKeyInvalid",
            f"{where}.key: key {reference.key} of Secret {name} holds characters that no key has",
        )
    return SecretText(text)


def list_of(text: str) -> list[str]:
    """Entries of a list written with commas or white space."""
    return text.replace(",", " ").split()


def problem_of(error: FieldError, reason: str = "InvalidSpec", prefix: str = "") -> Problem:
    return Problem(reason, f"{prefix}{error}")


def first_problem(found: Iterable[Problem | None]) -> Problem | None:
    return next((problem for problem in found if problem is not None), None)
