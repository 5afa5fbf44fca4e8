"""Loading the settings: flags over environment over file over defaults, with all mistakes reported at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from exporter.errors import SettingsError
from exporter.plan import Discovery
from exporter.settings.locations import Origins
from exporter.settings.messages import message
from exporter.settings.reference import FLAGS, Flag
from exporter.settings.schema import ENVIRONMENT_PREFIX, Settings, default_target


def load_settings(*, config_file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Return the settings, each from the strongest source that has it: flags, environment, file, default.

    `flags` are the values of `FLAGS` by their `dest`; None is a flag that was not given, and other names are ignored.

    Raises SettingsError. Its text has a line for each mistake: the place, the problem, the value unless it may be a
    secret, and the remedy.
    """
    flags = {**flags, "config_file": config_file}
    given = {flag: flags[flag.dest] for flag in FLAGS if flags.get(flag.dest) is not None}
    values: dict[str, Any] = {}
    for flag, value in given.items():
        if not flag.of_target:
            *sections, key = map(str, flag.key)
            section = values
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
    if any(flag.of_target for flag in given):
        values["targets"] = [_target(given)]
    try:
        return Settings(**values)
    except ValidationError as error:
        details = error.errors(include_url=False)
    origins = _origins(given, config_file)
    raise SettingsError("\n".join(message(mistake, origins) for mistake in details))


def _target(given: Mapping[Flag, Any]) -> dict[str, Any]:
    """Return the target that the flags describe."""
    target = default_target() | {str(flag.key[-1]): value for flag, value in given.items() if flag.of_target}
    models = target.get("models", [])
    return {**target, "models": models[0]} if len(models) == 1 and models[0] in get_args(Discovery) else target


def _origins(given: Mapping[Flag, Any], config_file: Path | None) -> Origins:
    variables = {
        name.lower().removeprefix(ENVIRONMENT_PREFIX.lower()): name
        for name, value in os.environ.items()
        if value and name.upper().startswith(ENVIRONMENT_PREFIX)
    }
    if config_file is None and "config_file" in variables:
        config_file = Path(os.environ[variables["config_file"]])
    return Origins({flag.key: flag.option for flag in given}, variables, config_file)
