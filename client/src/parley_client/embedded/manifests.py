"""Reading the user's YAML, and pointing its local provider at the one that runs here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from parley_client.errors import UsageError
from parley_client.target import is_loopback

Manifest = dict[str, Any]

_ORDER = {"Secret": 0, "VoiceWorkerPool": 1, "VoiceAgent": 2, "VoiceSession": 3}


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a file asks for.

    Attributes:
        objects: everything but sessions, in the order in which it is applied.
        session: the one session to run.
    """

    objects: tuple[Manifest, ...]
    session: Manifest

    @property
    def session_name(self) -> str:
        return str(self.session["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.session["metadata"].get("namespace", "default"))


def read_manifests(path: Path, session: str = "") -> Manifests:
    """Read a YAML file with one or more documents.

    Args:
        path: the file.
        session: name of the VoiceSession to run; needed when the file has several.

    Raises:
        UsageError: the file cannot be read, is no YAML, or has not exactly one session to run.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{path}: {why}") from error
    return parse_manifests(text, str(path), session)


def parse_manifests(text: str, source: str, session: str = "") -> Manifests:
    """As `read_manifests`, of a text; `source` is what messages call it."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: not YAML: {error}") from error
    for number, document in enumerate(documents, 1):
        _check(document, f"{source}, document {number}")
    known = [d for d in documents if d["kind"] in _ORDER]
    if len(known) < len(documents):
        odd = next(d["kind"] for d in documents if d["kind"] not in _ORDER)
        raise UsageError(f"{source}: kind {odd} means nothing here; use {', '.join(_ORDER)}")
    sessions = [d for d in known if d["kind"] == "VoiceSession"]
    chosen = [d for d in sessions if not session or d["metadata"]["name"] == session]
    names = ", ".join(d["metadata"]["name"] for d in sessions) or "none"
    if not chosen:
        raise UsageError(f"{source}: no VoiceSession {session or 'in it'}; it has {names}")
    if len(chosen) > 1:
        raise UsageError(f"{source}: several VoiceSessions ({names}); name one")
    objects = sorted((d for d in known if d["kind"] != "VoiceSession"), key=lambda d: _ORDER[d["kind"]])
    return Manifests(tuple(objects), chosen[0])


def _check(document: object, where: str) -> None:
    if not isinstance(document, dict):
        raise UsageError(f"{where}: not an object with apiVersion, kind and metadata")
    if not isinstance(document.get("kind"), str):
        raise UsageError(f"{where}: `kind` is missing")
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        raise UsageError(f"{where} ({document['kind']}): `metadata.name` is missing")


def provider_urls(manifests: Manifests) -> list[str]:
    """Every provider URL that is written in the objects."""
    return [
        provider["url"]
        for document in (*manifests.objects, manifests.session)
        for provider in _providers(document)
    ]


def loopback_url(url: str) -> bool:
    """True when the provider is expected on this machine."""
    return is_loopback(urlsplit(url).hostname or "")


def point_at(manifests: Manifests, old: str, new: str) -> Manifests:
    """Return the objects with host and port of the provider URL `old` replaced by those of `new`."""

    def moved(document: Manifest) -> Manifest:
        changed = copy.deepcopy(document)
        for provider in _providers(changed):
            if provider["url"] == old:
                ours, theirs = urlsplit(new), urlsplit(old)
                provider["url"] = urlunsplit(theirs._replace(scheme=ours.scheme, netloc=ours.netloc))
        return changed

    return Manifests(tuple(map(moved, manifests.objects)), moved(manifests.session))


def _providers(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    spec = document.get("spec")
    if not isinstance(spec, dict) or document.get("kind") == "VoiceWorkerPool":
        return
    for holder in (spec, spec.get("agent")):
        provider = holder.get("provider") if isinstance(holder, dict) else None
        if isinstance(provider, dict) and isinstance(provider.get("url"), str):
            yield provider
