"""FileStore: objects as a folder of YAML files, for embedded mode. Implements `ports.Store`.

One file an object, `<kind>/<namespace>/<name>.yaml`, as `kubectl get -o yaml` would show it, readable by
the owner
alone. Without a folder the objects live in memory only. One process writes; files are read once, at the
start.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import os
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from .api.changes import fixed_change
from .api.constants import AGENT, CONFIG_MAP, POOL, RESOURCES, SECRET, SESSION, Body
from .api.fields import FieldError, Fields
from .api.v1alpha1 import map_at, parse_agent_spec, parse_pool_spec, parse_session_spec, spec_of, text_at
from .clock import Clock, SystemClock
from .domain.merge import deep_merge
from .domain.status import timestamp
from .ports import Conflict

_ENVIRONMENT = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_WATCH_BUFFER = 1000
_PARSERS: dict[str, Callable[[object], object]] = {
    SESSION: parse_session_spec,
    AGENT: parse_agent_spec,
    POOL: parse_pool_spec,
}


class InvalidObject(ValueError):
    """An object that the store refuses; `str()` names the field, the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to an object. `type` is ADDED, MODIFIED or DELETED; `body` is a copy."""

    type: str
    kind: str
    body: Body


class FileStore:
    """Objects by kind, namespace and name; every change goes to all subscribers, in order."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._directory = directory
        self._environ = environ or {}
        self._clock = clock or SystemClock()
        self._objects: dict[tuple[str, str, str], Body] = {}
        self._version = 0
        self._subscribers: list[Callable[[Change], None]] = []
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._load(directory)

    # -- Store

    async def get(self, kind: str, namespace: str, name: str) -> Body | None:
        found = self._objects.get((kind, namespace, name))
        return self._revealed(kind, found) if found is not None else None

    async def list(self, kind: str, labels: str = "") -> list[Body]:
        return [copy.deepcopy(body) for key, body in self._objects.items() if key[0] == kind]

    async def create(self, kind: str, body: Mapping[str, object]) -> Body:
        fresh = self._validated(dict(copy.deepcopy(dict(body))), kind)
        key = self._key(fresh)
        if key in self._objects:
            raise Conflict(f"{kind} {key[1]}/{key[2]} exists already")
        return self._admit(fresh)

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, object]) -> Body | None:
        present = self._objects.get((kind, namespace, name))
        if present is None:
            return None
        expected = text_at(patch, "metadata", "resourceVersion")
        if expected not in ("", text_at(present, "metadata", "resourceVersion")):
            raise Conflict(f"{kind} {name} changed meanwhile")
        return self._replace(present, deep_merge(present, patch))

    async def patch_status(
        self, kind: str, seen: Mapping[str, object], status: Mapping[str, object]
    ) -> Body | None:
        present = self._objects.get((kind, *self._key(seen)[1:]))
        if present is None or text_at(present, "metadata", "uid") != text_at(seen, "metadata", "uid"):
            return None
        if text_at(present, "metadata", "resourceVersion") != text_at(seen, "metadata", "resourceVersion"):
            raise Conflict(f"{kind} {self._key(seen)[2]} changed meanwhile")
        return self._replace(present, deep_merge(present, {"status": status}))

    async def apply_status(
        self, kind: str, seen: Mapping[str, object], status: Mapping[str, object]
    ) -> Body | None:
        """One process writes: the status is its own as a whole."""
        wanted = dict.fromkeys(map_at(seen, "status")) | dict(status)
        return await self.patch_status(kind, seen, wanted)

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        present = self._objects.get((kind, namespace, name))
        if present is None or (uid and text_at(present, "metadata", "uid") != uid):
            return
        self._remove((kind, namespace, name))

    async def apply(self, kind: str, body: Mapping[str, object]) -> Body:
        """Like `kubectl apply`: create, or replace everything but status and identity."""
        fresh = self._validated(dict(copy.deepcopy(dict(body))), kind)
        key = self._key(fresh)
        present = self._objects.get(key)
        if present is None:
            return self._admit(fresh)
        if kind == SESSION:
            _check_immutable(present, fresh)
        metadata = deep_merge(map_at(present, "metadata"), map_at(fresh, "metadata"))
        merged = {**fresh, "metadata": metadata}
        if "status" in present:
            merged["status"] = present["status"]
        if spec_of(merged) != spec_of(present):
            generation = metadata.get("generation")
            metadata["generation"] = (generation if isinstance(generation, int) else 1) + 1
        if merged == present:
            return copy.deepcopy(present)
        return self._replace(present, merged)

    # -- beside the Store

    def peek(self, kind: str, namespace: str, name: str) -> Body | None:
        """A copy, without waiting; values that refer to the environment stay references."""
        found = self._objects.get((kind, namespace, name))
        return copy.deepcopy(found) if found is not None else None

    def subscribe(self, subscriber: Callable[[Change], None]) -> Callable[[], None]:
        """Call `subscriber` at every change; returns what ends it."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber)

    @contextmanager
    def _queue(self, kind: str, namespace: str) -> Iterator[asyncio.Queue[Change]]:
        queue: asyncio.Queue[Change] = asyncio.Queue(_WATCH_BUFFER)

        def take(change: Change) -> None:
            if kind not in ("", change.kind) or namespace not in ("", _namespace(change.body)):
                return
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(change)

        stop = self.subscribe(take)
        try:
            yield queue
        finally:
            stop()

    async def watch(self, kind: str = "", namespace: str = "") -> AsyncIterator[Change]:
        """What is there (as ADDED), then every change, until the iterator is closed.

        A reader that is more than 1000 changes behind loses the oldest ones: each carries the whole object.
        """
        with self._queue(kind, namespace) as queue:
            for (found_kind, found_namespace, _), body in list(self._objects.items()):
                if kind in ("", found_kind) and namespace in ("", found_namespace):
                    yield Change("ADDED", found_kind, copy.deepcopy(body))
            while True:
                yield await queue.get()

    # -- inside

    def _admit(self, body: Body) -> Body:
        metadata = map_at(body, "metadata")
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = timestamp(self._clock.now())
        metadata["generation"] = 1
        body["metadata"] = metadata
        body.pop("status", None)
        return self._put("ADDED", body)

    def _replace(self, present: Body, wanted: Mapping[str, object]) -> Body:
        merged = dict(wanted)
        metadata = map_at(merged, "metadata")
        for key in ("uid", "creationTimestamp", "name", "namespace"):
            metadata[key] = map_at(present, "metadata").get(key)
        merged["metadata"] = metadata
        return self._put("MODIFIED", merged)

    def _put(self, event: str, body: Body) -> Body:
        self._version += 1
        metadata = map_at(body, "metadata")
        metadata["resourceVersion"] = str(self._version)
        body = {**copy.deepcopy(body), "metadata": metadata}
        key = self._key(body)
        self._objects[key] = body
        self._write(key, body)
        self._tell(event, body)
        return copy.deepcopy(body)

    def _remove(self, key: tuple[str, str, str]) -> None:
        body = self._objects.pop(key)
        if self._directory is not None:
            self._path(self._directory, key).unlink(missing_ok=True)
        self._tell("DELETED", body)
        uid = text_at(body, "metadata", "uid")
        for other, owned in list(self._objects.items()):
            owners = map_at(owned, "metadata").get("ownerReferences")
            if isinstance(owners, list) and any(isinstance(o, dict) and o.get("uid") == uid for o in owners):
                self._remove(other)

    def _tell(self, event: str, body: Body) -> None:
        for subscriber in list(self._subscribers):
            subscriber(Change(event, text_at(body, "kind"), copy.deepcopy(body)))

    def _key(self, body: Mapping[str, object]) -> tuple[str, str, str]:
        return text_at(body, "kind"), _namespace(body), text_at(body, "metadata", "name")

    def _validated(self, body: Body, kind: str) -> Body:
        if text_at(body, "kind") != kind or kind not in RESOURCES:
            raise InvalidObject(f"kind: {body.get('kind')!r} is not one of {', '.join(sorted(RESOURCES))}")
        wanted = RESOURCES[kind][0].partition("/")[2]
        if body.get("apiVersion") != wanted:
            raise InvalidObject(f"apiVersion: {body.get('apiVersion')!r} does not fit {kind}; write {wanted}")
        metadata = map_at(body, "metadata")
        metadata.setdefault("namespace", "default")
        for key in ("name", "namespace"):
            value = metadata.get(key)
            if not isinstance(value, str) or len(value) > 253 or not _NAME.fullmatch(value):
                raise InvalidObject(
                    f"metadata.{key}: {value!r} is not a name: lower case letters, digits, '-'"
                )
        body["metadata"] = metadata
        try:
            parser = _PARSERS.get(kind)
            if parser is not None:
                parser(spec_of(body))
            elif kind == SECRET:
                self._encode_secret(body)
            elif kind == CONFIG_MAP:
                _check_config_map(body)
        except FieldError as error:
            raise InvalidObject(f"{kind} {metadata['name']}: {error}") from error
        return body

    def _encode_secret(self, body: Body) -> None:
        """`stringData` becomes `data`; `$(NAME)` as a whole value stays a reference to the environment."""
        fields = Fields(body, "")
        plain, data = fields.mapping("stringData"), fields.mapping("data")
        for key, value in plain.items():
            if not isinstance(value, str):
                raise FieldError(f"stringData.{key}", "must be a string")
            reference = _ENVIRONMENT.fullmatch(value)
            if reference and reference[1] not in self._environ:
                raise FieldError(
                    f"stringData.{key}", f"refers to {reference[1]}, which the environment lacks"
                )
            data[key] = value if reference else base64.b64encode(value.encode()).decode()
        body.pop("stringData", None)
        body["data"] = data

    def _revealed(self, kind: str, body: Body) -> Body:
        found = copy.deepcopy(body)
        if kind == SECRET:
            data = map_at(found, "data")
            for key, value in data.items():
                reference = _ENVIRONMENT.fullmatch(str(value))
                if reference:
                    text = self._environ.get(reference[1], "")
                    data[key] = base64.b64encode(text.encode()).decode()
            found["data"] = data
        return found

    @staticmethod
    def _path(directory: Path, key: tuple[str, str, str]) -> Path:
        return directory / key[0].lower() / key[1] / f"{key[2]}.yaml"

    def _write(self, key: tuple[str, str, str], body: Body) -> None:
        if self._directory is None:
            return
        path = self._path(self._directory, key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(".new")
        with open(
            os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            yaml.safe_dump(body, file, sort_keys=False, allow_unicode=True)
        fresh.replace(path)

    def _load(self, directory: Path) -> None:
        for path in sorted(directory.glob("*/*/*.yaml")):
            try:
                body = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InvalidObject(f"{path}: is not YAML ({error})") from error
            if not isinstance(body, dict):
                raise InvalidObject(f"{path}: holds no object")
            try:
                checked = self._validated(body, text_at(body, "kind"))
            except InvalidObject as error:
                raise InvalidObject(f"{path}: {error}") from error
            self._objects[self._key(checked)] = checked
            version = text_at(checked, "metadata", "resourceVersion")
            self._version = max(self._version, int(version) if version.isdigit() else 0)


def _namespace(body: Mapping[str, object]) -> str:
    return text_at(body, "metadata", "namespace") or "default"


def _check_config_map(body: Body) -> None:
    for key, text in Fields(body, "").mapping("data").items():
        if not isinstance(text, str):
            raise FieldError(f"data.{key}", "must be a string; begin a text of several lines with `|`")


def _check_immutable(present: Body, fresh: Body) -> None:
    before, after = map_at(present, "spec"), map_at(fresh, "spec")
    field = fixed_change(before, after)
    if field:
        name = text_at(fresh, "metadata", "name")
        raise InvalidObject(
            f"VoiceSession {name}: spec.{field}: cannot be changed; delete the session and apply it anew"
        )
