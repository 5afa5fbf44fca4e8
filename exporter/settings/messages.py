"""The text of a mistake in the configuration: `PLACE: PROBLEM (VALUE). REMEDY`, in one line.

pydantic's errors are worded here in the language of the configuration file. The text of errors raised in this package
is already the problem and the remedy: `must be 1s or longer. Use 5m on a dedicated server, 15m on a shared one.`
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from exporter.settings.addresses import redact_url
from exporter.settings.keys import keys_of, names_of, section_at
from exporter.settings.locations import FileText, Location, Origins
from exporter.settings.schema import ENVIRONMENT_PREFIX, Settings
from exporter.settings.target_schema import LIST_TAG, WORD_TAG
from exporter.settings.values import NOT_UNICODE

_FORMS_OF_MODELS = {("models", LIST_TAG), ("models", WORD_TAG)}
_MAY_BE_SECRET = frozenset({"headers", "basic_auth", "bearer_token_file"})
_MAX_CHARACTERS = 80
_BOOLEAN = "must be true or false."
_INTEGER = "must be a whole number."
_NUMBER = "must be a number."
_SECTION = "must be a section. Write `key: value` lines below it, or remove it."
_LIST = "must be a list. Write one `- ...` line for each item."
_TEXTS = {
    "missing": "required. Add this key.",
    "string_type": "must be text. Put it in quotes.",
    "string_unicode": NOT_UNICODE,
    "dict_type": _SECTION,
    "model_type": _SECTION,
    "tuple_type": _LIST,
    "path_type": "must be the path of a file.",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "int_type": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": _INTEGER,
    "int_from_float": _INTEGER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number.",
    "greater_than": "must be greater than {gt}.",
    "greater_than_equal": "must be {ge} or more.",
    "less_than_equal": "must be {le} or less.",
}
"""By pydantic's error type: problem and remedy."""
_JSON_TYPES = {"dict_type": "an object", "model_type": "an object", "tuple_type": "a list"}


def message(details: ErrorDetails, origins: Origins) -> str:
    """Return the line for one error of pydantic."""
    loc = details["loc"]
    location = tuple(
        part for before, part in zip(("", *loc), loc, strict=False) if (before, part) not in _FORMS_OF_MODELS
    )
    value = _shown(location, details)
    problem, _, remedy = _text(location, details, value, origins).partition(". ")
    problem = problem.removesuffix(".") + (f" ({value})" if value else "")
    return f"{origins.place(location, details['input'])}: {problem}. {remedy}".rstrip()


def _shown(location: Location, details: ErrorDetails) -> str:
    """Return the value as the user wrote it, or nothing for sections, lists and possible secrets."""
    value, kind = details["input"], details["type"]
    if kind in {"missing", "extra_forbidden"} or isinstance(value, dict | list | tuple | BaseModel):
        return ""
    if _MAY_BE_SECRET.intersection(location) or kind in _JSON_TYPES:
        return ""
    if isinstance(value, FileText):
        value = value.written
    text = str(value) if isinstance(value, str) else json.dumps(value, default=str)
    if "url" in location or "@" in text:
        text = redact_url(text)
    shown = json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text
    shown = shown.encode(errors="backslashreplace").decode()
    return shown if len(shown) <= _MAX_CHARACTERS else shown[:_MAX_CHARACTERS] + "..."


def _text(location: Location, details: ErrorDetails, value: str, origins: Origins) -> str:
    """Return the problem and the remedy."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown(location, origins)
    if kind == "literal_error":
        return _not_a_choice(location, context["expected"], value)
    if kind in _JSON_TYPES and origins.is_variable(location):
        return f"must be {_JSON_TYPES[kind]} in JSON."
    text = _TEXTS.get(kind)
    return text.format(**context) if text else details["msg"].replace("Input should", "must") + "."


def _not_a_choice(location: Location, expected: str, value: str) -> str:
    if location[-1] == "models":  # most often a single name instead of a list
        name = value.strip('"')
        return f"must be a list of models, or installed or loaded. Write [{name}] for a list."
    choices = expected.replace("'", "").replace(" or ", ", ")
    return f"must be one of [{choices}]."


def _unknown(location: Location, origins: Origins) -> str:
    if origins.is_variable(location):
        known = ["__".join(key.path).upper() for key in keys_of(Settings) if key.has_variable and key.section is None]
        near = _nearest(str(location[-1]).upper(), [*known, "TARGETS"])
        remedy = f"Did you mean {ENVIRONMENT_PREFIX}{near}?" if near else "Correct its name, or unset it."
        return f"unknown environment variable. {remedy}"
    section = section_at(Settings, location[:-1])
    known = [name for name in names_of(section) if name != "config_file"] if section else []
    near = _nearest(str(location[-1]), known)
    return f"unknown key. {f'Did you mean {near}?' if near else 'Known keys: ' + ', '.join(known) + '.'}"


def _nearest(name: str, known: Collection[str]) -> str:
    return next(iter(difflib.get_close_matches(name, known, n=1)), "")
