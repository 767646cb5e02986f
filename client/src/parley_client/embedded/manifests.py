"""Reading the user's YAML, and pointing its local provider at the one that runs here."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from parley_client.errors import UsageError
from parley_client.target import is_loopback

Manifest = dict[str, Any]

_POOL = "VoiceWorkerPool"
_PROVIDER_HOSTS = "parley.dev/provider-hosts"
_ORDER = {"Secret": 0, "ConfigMap": 1, _POOL: 2, "VoiceAgent": 3, "VoiceSession": 4}


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


class _Loader(yaml.SafeLoader):
    """Refuses what a cluster refuses too: a key that stands twice in one object."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, line) != line:
                raise yaml.YAMLError(
                    f"{key.value!r} stands twice in one object, in lines {lines[key.value]} and {line}"
                )
        return node


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
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
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
    """Return the objects with host and port of the provider URL `old` replaced by those of `new`.

    Also in what a pool of the file allows, and in the hosts that a Secret's key may go to.
    """
    before, after = urlsplit(old).netloc, urlsplit(new).netloc

    def moved(document: Manifest) -> Manifest:
        changed = copy.deepcopy(document)
        for provider in _providers(changed):
            if provider["url"] == old:
                ours, theirs = urlsplit(new), urlsplit(old)
                provider["url"] = urlunsplit(theirs._replace(scheme=ours.scheme, netloc=ours.netloc))
        rules = _child(changed, "spec", "provider") if changed["kind"] == _POOL else {}
        if isinstance(rules.get("allowedHosts"), list):
            rules["allowedHosts"] = [after if host == before else host for host in rules["allowedHosts"]]
        notes = _child(changed, "metadata", "annotations")
        if changed["kind"] == "Secret" and isinstance(notes.get(_PROVIDER_HOSTS), str):
            hosts = [host.strip() for host in notes[_PROVIDER_HOSTS].split(",")]
            notes[_PROVIDER_HOSTS] = ",".join(after if host == before else host for host in hosts)
        return changed

    return Manifests(tuple(map(moved, manifests.objects)), moved(manifests.session))


def webhook_hosts(manifests: Manifests) -> list[str]:
    """Host and port of every webhook that a tool of the objects names."""
    return _host_ports(
        _text_at(tool, "route", "webhook", "url")
        for document in (*manifests.objects, manifests.session)
        for agent in _agents(document)
        for tool in (agent.get("tools") if isinstance(agent.get("tools"), list) else []) or []
    )


def store_hosts(manifests: Manifests) -> list[str]:
    """Host and port of the store that the session is recorded to; AWS's own where none is named."""
    place = _text_at(manifests.session, "spec", "recording", "s3", "url")
    endpoint = _text_at(manifests.session, "spec", "recording", "s3", "endpoint")
    return _host_ports([endpoint]) or (["*.amazonaws.com"] if place else [])


def is_recorded(manifests: Manifests) -> bool:
    """True when the session asks for a recording."""
    spec = manifests.session.get("spec")
    return isinstance(spec, dict) and isinstance(spec.get("recording"), dict)


def volume_path(manifests: Manifests) -> str:
    """The folder that the session is recorded to; empty for none."""
    return _text_at(manifests.session, "spec", "recording", "volume", "path")


def below(manifests: Manifests, base: Path) -> Manifests:
    """Return the objects with recordings going below `base`: `/recordings/eu` becomes `<base>/recordings/eu`.

    A cluster's worker has volumes at such paths; this machine has a folder for all of them.
    """
    moved = copy.deepcopy(manifests)

    def under(path: object) -> str:
        return str(base / str(path).lstrip("/"))

    if volume_path(moved):
        volume = moved.session["spec"]["recording"]["volume"]
        volume["path"] = under(volume["path"])
    for document in moved.objects:
        spec = document.get("spec")
        rules = spec.get("recordings") if isinstance(spec, dict) and document["kind"] == _POOL else None
        if isinstance(rules, dict) and isinstance(rules.get("directories"), list):
            rules["directories"] = [under(path) for path in rules["directories"]]
    return moved


def _agents(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    spec = document.get("spec")
    if isinstance(spec, dict) and document.get("kind") != _POOL:
        yield from (holder for holder in (spec, spec.get("agent")) if isinstance(holder, dict))


def _child(value: object, *path: str) -> dict[str, Any]:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _text_at(value: object, *path: str) -> str:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""


def _host_ports(urls: Iterable[str]) -> list[str]:
    """`host:port` of each URL that has a host; what cannot be read is left to the control plane's words."""
    found = []
    for url in urls:
        try:
            parts = urlsplit(url)
            port = parts.port or (80 if parts.scheme == "http" else 443)
        except ValueError:
            continue
        if parts.hostname:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            found.append(f"{host}:{port}")
    return sorted(set(found))


def _providers(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for holder in _agents(document):
        provider = holder.get("provider")
        if isinstance(provider, dict) and isinstance(provider.get("url"), str):
            yield provider
