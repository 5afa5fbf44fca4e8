"""Validation against the JSON schemas that Grafana publishes; `generate.sh` writes schemas.json and units.txt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

HERE = Path(__file__).parent
SCHEMAS: dict[str, Any] = json.loads((HERE / "schemas.json").read_text())
UNITS = frozenset((HERE / "units.txt").read_text().split())


def validate(name: str, document: Any) -> Iterator[str]:
    """Yield the violations of one schema: `dashboard`, or the `options` or `custom` of a panel type."""
    for error in _build_validator(name).iter_errors(document):
        nested = min((e.message for e in error.context or []), key=len, default="")
        yield f"schema: {'/'.join(map(str, error.absolute_path))}: {nested or error.message[:200]}"


@cache
def _build_validator(name: str) -> Draft7Validator:
    schema = json.loads(json.dumps(SCHEMAS[name]))
    if name == "dashboard":
        _allow_unpublished_keys(schema)
    else:
        _make_keys_optional(schema)
    return Draft7Validator(schema)


def _allow_unpublished_keys(schema: dict[str, Any]) -> None:
    """Allow keys that Grafana reads but does not publish: those that a data source adds to queries and annotations."""
    for name, keys in {
        "VariableModel": ("definition", "auto", "auto_min", "auto_count"),
        "AnnotationQuery": ("titleFormat", "textFormat"),
    }.items():
        schema["definitions"][name]["properties"].update({key: {} for key in keys})
    schema["definitions"]["AnnotationQuery"]["properties"]["target"] = {"type": "object"}


def _make_keys_optional(schema: Any) -> None:
    """Allow a panel to leave out options, for which Grafana has defaults."""
    if isinstance(schema, dict):
        if isinstance(schema.get("required"), list):
            del schema["required"]
        for value in schema.values():
            _make_keys_optional(value)
    elif isinstance(schema, list):
        for value in schema:
            _make_keys_optional(value)
