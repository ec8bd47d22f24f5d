"""The hparams.yaml that Lightning's loggers write beside their logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def _plain(loader: Any, _: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


# reads tuples, paths and other objects of Python as plain lists, dicts and texts
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_multi_constructor("", _plain)


def read_hparams(folder: Path) -> Mapping[str, Any]:
    """What `folder`/hparams.yaml says; nothing where it is missing or damaged."""
    try:
        text = (folder / "hparams.yaml").read_text(encoding="utf-8", errors="replace")
        found = yaml.load(text, Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with names such as "optimizer/lr"."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{name}/"))
        else:
            result[f"{prefix}{name}"] = value
    return result
