"""Makes the JSON schemas that kubeconform reads: of Kubernetes itself, and of custom resource definitions.

usage: schemas.py kubernetes SWAGGER_JSON DIR      one file a kind, from the API server's OpenAPI document
       schemas.py crds MANIFESTS_YAML DIR          one file a kind and version, from CustomResourceDefinitions

Files are called KIND-GROUP-VERSION.json in lower case, KIND-VERSION.json for the core group, as kubeconform
expects.
Every object is closed: an unknown field is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
PREFIX = "#/definitions/"
# What the API server accepts where the OpenAPI document says "string".
LOOSE = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}


def file_name(group: str, version: str, kind: str) -> str:
    parts = [kind, *([group.split(".")[0]] if group else []), version]
    return "-".join(parts).lower() + ".json"


def closed(schema: Any) -> Any:
    """The schema with every object that lists its properties closed against others."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {
        key: {name: closed(part) for name, part in value.items()} if key == "properties" else closed(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes") and key not in ("default", "example", "format")
    }
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["string", "integer"]
        result.pop("anyOf", None)
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in result and "additionalProperties" not in result and not keeps_unknown:
        result["additionalProperties"] = False
    return result


def references(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(references, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    found = {schema["$ref"].removeprefix(PREFIX)} if isinstance(schema.get("$ref"), str) else set()
    return found.union(*(references(part) for part in schema.values()))


def reachable(name: str, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """`name` and every definition that it refers to, directly or not."""
    seen: dict[str, Schema] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen[current] = definitions[current]
            waiting.extend(references(definitions[current]))
    return seen


def from_swagger(document: Schema) -> dict[str, Schema]:
    """File name to schema for every kind of the API server's OpenAPI v2 document."""
    given = document["definitions"]
    definitions = {name: LOOSE.get(name) or closed(schema) for name, schema in given.items()}
    files = {}
    for name, schema in given.items():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            needed = reachable(name, definitions)
            files[file_name(kind["group"], kind["version"], kind["kind"])] = {
                "$ref": PREFIX + name,
                "definitions": needed,
            }
    return files


def from_crds(manifests: list[Schema]) -> dict[str, Schema]:
    """File name to schema for every version of every CustomResourceDefinition among `manifests`."""
    files = {}
    for crd in manifests:
        if not crd or crd.get("kind") != "CustomResourceDefinition":
            continue
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
            }
            files[file_name(spec["group"], version["name"], spec["names"]["kind"])] = schema
    return files


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or arguments[0] not in ("kubernetes", "crds"):
        print(__doc__, file=sys.stderr)
        return 2
    source, target = Path(arguments[1]), Path(arguments[2])
    if arguments[0] == "kubernetes":
        files = from_swagger(json.loads(source.read_text()))
    else:
        files = from_crds(list(yaml.safe_load_all(source.read_text())))
    if not files:
        print(f"{source}: no kind in it", file=sys.stderr)
        return 1
    target.mkdir(parents=True, exist_ok=True)
    for name, schema in files.items():
        (target / name).write_text(json.dumps(schema))
    print(f"{len(files)} schemas in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
