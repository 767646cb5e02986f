"""Finds the function that a scenario begins with."""

from __future__ import annotations

import importlib
import types
from typing import Any

from parley_scenario.events import ScenarioMistake


def load_entry(entry_point: str) -> Any:
    """The function of `package.module:function`. ScenarioMistake, or what its module raises."""
    module_name, _, path = entry_point.partition(":")
    if not module_name or not path:
        raise ScenarioMistake(f"entry point {entry_point!r} is not package.module:function")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ScenarioMistake(
            f"entry point {entry_point!r}: there is no module {error.name!r}:"
            " it must be in the worker's image, or for `parley run` beside the YAML or in --scenario-path"
        ) from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise ScenarioMistake(f"entry point {entry_point!r}: {module_name} has no {path!r}")
        found = getattr(found, name)
    return _function(found, entry_point)


def load_source(source: str, file_name: str, function: str) -> Any:
    """The function of that name in a scenario given as text. ScenarioMistake, or what its code raises."""
    module = types.ModuleType("scenario")
    module.__file__ = file_name
    exec(compile(source, file_name, "exec", dont_inherit=True), module.__dict__)
    if function not in module.__dict__:
        raise ScenarioMistake(f"{file_name} has no function {function!r}: define it, or name another")
    return _function(module.__dict__[function], f"{file_name}:{function}")


def _function(found: Any, where: str) -> Any:
    if not callable(found):
        raise ScenarioMistake(f"{where} is a {type(found).__name__}: name a function")
    return found
