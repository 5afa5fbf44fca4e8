"""Reading the configuration file: strict YAML, with `${NAME}` taken from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import SettingsError
from exporter.settings.reference import dotted

_KEY_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
_REFERENCE = re.compile(r"(\$?)\$\{([^}]*)\}")


class Expanded(str):
    """A text whose `${NAME}` was replaced. Messages show `written`, since what came in may be a secret."""

    __slots__ = ("written",)
    written: str


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is no text or is written twice: YAML would let the last one win in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in _KEY_TAGS or key.value in seen:
                what = "a key that is written twice" if key.tag in _KEY_TAGS else "a key that is no word"
                raise yaml.composer.ComposerError(None, None, what, key.start_mark)
            seen.add(key.value)
        return node


def read_config_file(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what a configuration file says.

    In every text `${NAME}` is replaced by that environment variable (`$${` stands for a literal `${`), and the value of
    a key that ends in `_file` starts at the configuration file's directory.

    Raises SettingsError where the file cannot be read, is not YAML, or names a variable that is not set. What stands in
    the file is not repeated, but for the place.
    """
    data, problem = _load(path)
    if problem:
        raise SettingsError(f"{path}: {problem}")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise SettingsError(
            f"{path}: not `key: value` lines: see the example configuration that comes with this program"
        )
    expansion = _Expansion(environ, path.parent)
    expanded: dict[str, Any] = expansion.of(data, ())
    if expansion.problems:
        raise SettingsError("\n".join(f"{path}: {problem}" for problem in expansion.problems))
    return expanded


def _load(path: Path) -> tuple[Any, str]:
    """Return what the file holds and no problem, or the problem. PyYAML's errors, which quote the file, end here."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _StrictLoader), ""  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        return None, f"{error.strerror}: name a file in --config.file that this program's user may read"
    except UnicodeDecodeError:
        return None, "not text: write the file in UTF-8"
    except yaml.YAMLError as error:
        return None, _yaml_problem(error)
    except (RecursionError, ValueError):
        return None, "values that YAML cannot hold, or nested too deep: put odd texts in quotes"


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Say where the file stops being YAML, without the quotations of it that PyYAML's own text holds."""
    mark = getattr(error, "problem_mark", None)
    what = re.sub(r"(['\"]).*\1", "...", getattr(error, "problem", None) or "unreadable characters", flags=re.DOTALL)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}{what}: correct this place; a text with special characters goes in quotes"


class _Expansion:
    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self._environ = environ
        self._directory = directory
        self.problems: list[str] = []

    def of(self, value: Any, location: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self.of(item, (*location, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, (*location, index)) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        text = _REFERENCE.sub(lambda match: self._replacement(match, location), value)
        if str(location[-1]).endswith("_file") and text:
            text = str(self._directory / text)
        if text == value:
            return value
        expanded = Expanded(text)
        expanded.written = value
        return expanded

    def _replacement(self, match: re.Match[str], location: tuple[str | int, ...]) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in self._environ:
            self.problems.append(
                f"{dotted(location)}: the environment variable {name!r} is not set: set it, or write $${{ for a literal"
                " ${"
            )
        return self._environ.get(name, "")
