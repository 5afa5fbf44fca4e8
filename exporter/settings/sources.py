"""Loading the settings: flags over environment over file over defaults, and every mistake told at once."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, InitSettingsSource
from pydantic_settings import SettingsError as SourceError

from exporter.errors import SettingsError
from exporter.settings.addresses import ollama_host_url, redact_url
from exporter.settings.config_file import Expanded, read_config_file
from exporter.settings.reference import FLAGS, dotted, known_variables, model_at
from exporter.settings.schema import ENVIRONMENT_PREFIX, Settings
from exporter.settings.target_schema import DEFAULT_MODEL, LIST_TAG, WORD_TAG

_Location = tuple[str | int, ...]
_SHORT_CUTS = ("url", "model", "gpu", "interval")
_MAY_BE_SECRET = frozenset({"headers", "basic_auth", "bearer_token_file"})
_FORMS_OF_MODELS = {("models", LIST_TAG), ("models", WORD_TAG)}
_SHOWN_CHARACTERS = 80
_NOT_A_SECTION = "not a section: write `key: value` lines below it, or leave it out"
_REMEDIES = {
    "missing": "required: add it",
    "string_type": "not a text: put it in quotes",
    "dict_type": _NOT_A_SECTION,
    "model_type": _NOT_A_SECTION,
    "tuple_type": "not a list: write `- ...` lines below it",
}


def load_settings(
    *, config_file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings, each from the first that has it: flags, environment, file, default.

    `flags` are the values of `reference.FLAGS` by their `dest`; None is a flag that was not given, and other names are
    left alone. `environ` is this process's unless given.

    Raises SettingsError, whose text has a line for each mistake: where it was written, what was written (never what may
    be a secret) and the remedy.
    """
    environ = os.environ if environ is None else environ
    given = {flag.dest: flags[flag.dest] for flag in FLAGS if flag.key and flags.get(flag.dest) is not None}
    variables = _Variables(environ)
    in_file = read_config_file(config_file, environ) if config_file else {}
    from_flags = _nest({flag.key: given[flag.dest] for flag in FLAGS if flag.dest in given and not flag.of_target})
    problems = variables.problems
    is_single = "targets" not in in_file and "targets" not in variables.data
    if is_single:
        from_flags["targets"] = [_single_target(given, environ)]
    elif used := [f"--{name}" for name in _SHORT_CUTS if name in given]:
        problems.append(f"{', '.join(used)}: only for a single target, and `targets` are configured: write it there")
    sources = (InitSettingsSource(Settings, from_flags), variables, InitSettingsSource(Settings, in_file))
    settings = None
    try:
        settings = Settings(sources=sources)
    except ValidationError as error:
        places = _Places(config_file, given, variables.names, is_single=is_single)
        problems += [_problem(details, places) for details in error.errors(include_url=False)]
    if settings is None or problems:
        raise SettingsError("\n".join(problems))
    return settings


def _nest(values: Mapping[_Location, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for location, value in values.items():
        *sections, key = map(str, location)
        section = nested
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return nested


def _single_target(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the one target of a user who configured none."""
    models = list(given.get("model", (DEFAULT_MODEL,)))
    return {
        "url": given["url"] if "url" in given else ollama_host_url(environ.get("OLLAMA_HOST", "")),
        "models": models[0] if models in (["installed"], ["loaded"]) else models,
        "gpu": given.get("gpu"),
    }


class _Variables(EnvSettingsSource):
    """The environment's part. pydantic-settings passes over a variable that it does not know; here it is a mistake."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(Settings)
        known = known_variables()
        self.names: dict[_Location, str] = {}
        self.problems: list[str] = []
        for name, value in environ.items():
            key = tuple(name.lower().removeprefix(ENVIRONMENT_PREFIX.lower()).split("__"))
            if not name.upper().startswith(ENVIRONMENT_PREFIX) or not value:
                continue
            if key in known:
                self.names[key] = name
            else:
                hint = _nearest("__".join(key).upper(), ["__".join(path).upper() for path in known])
                self.problems.append(f"{name}: no such variable: after {ENVIRONMENT_PREFIX} {hint}; else unset it")
        self.env_vars = {name.lower(): environ[name] for name in self.names.values()}
        self.data: dict[str, Any] = {}
        try:
            self.data = super().__call__()
        except SourceError:  # of all values only the list of targets is JSON
            self.problems.append(f'{self.names["targets",]}: not JSON: write a list of targets, [{{"url": ...}}]')

    def __call__(self) -> dict[str, Any]:
        return self.data


class _Places(NamedTuple):
    """Where the user wrote what."""

    config_file: Path | None
    given: Mapping[str, Any]
    variables: Mapping[_Location, str]
    is_single: bool

    def name(self, location: _Location) -> str:
        for flag in FLAGS:
            is_used = flag.dest in self.given and (self.is_single or not flag.of_target)
            if is_used and location[: len(flag.key)] == flag.key:
                return flag.option
        if self.is_single and location[:1] == ("targets",):
            return "OLLAMA_HOST" if "url" in location else "--model"
        for length in range(len(location), 0, -1):
            if location[:length] in self.variables:
                rest = dotted(location[length:])
                separator = "." if rest and not rest.startswith("[") else ""
                return self.variables[location[:length]] + separator + rest
        path = dotted(location)
        return f"{self.config_file}: {path}".removesuffix(": ") if self.config_file else path


def _problem(details: ErrorDetails, places: _Places) -> str:
    loc = details["loc"]
    location = tuple(
        part for before, part in zip(("", *loc), loc, strict=False) if (before, part) not in _FORMS_OF_MODELS
    )
    parts = places.name(location), _shown(location, details), _remedy(location, details)
    return ": ".join(part for part in parts if part)


def _shown(location: _Location, details: ErrorDetails) -> str:
    """Return the value as the user wrote it, or nothing where it is a whole section or may be a secret."""
    value = details["input"]
    if details["type"] in {"missing", "extra_forbidden"} or isinstance(value, dict | list | tuple | BaseModel):
        return ""
    if _MAY_BE_SECRET.intersection(location):
        return ""
    if isinstance(value, Expanded):
        value = value.written
    text = str(value) if isinstance(value, str) else json.dumps(value, default=str)
    if "url" in location or "@" in text:
        text = redact_url(text)
    shown = json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text
    shown = shown.encode(errors="backslashreplace").decode()
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."


def _remedy(location: _Location, details: ErrorDetails) -> str:
    kind = details["type"]
    if kind == "value_error":
        return str(details["ctx"]["error"])
    if kind == "extra_forbidden":
        section = model_at(location[:-1])
        return f"no such key: {_nearest(str(location[-1]), section.model_fields if section else ())}"
    if kind == "literal_error":
        return f"write one of {details['ctx']['expected']}"
    if kind in _REMEDIES:
        return _REMEDIES[kind]
    return f"{details['msg'].replace('Input should', 'it should')}: correct it"


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
