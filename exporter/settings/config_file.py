"""Reading the configuration file: strict YAML, with `${NAME}` replaced by environment variables.

The reader is written here because neither PyYAML nor the YAML source of pydantic-settings refuses duplicate keys, and
PyYAML's error messages quote the file, which may hold secrets. The messages here give line and column only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from exporter.errors import SettingsError
from exporter.settings.bounded_files import CONFIG_BYTES_MAX, read_bounded
from exporter.settings.locations import FileText, Location, dotted

_KEY_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}
_REFERENCE = re.compile(r"(\$?)\$\{([^}]*)\}")


class _KeyError(yaml.MarkedYAMLError):
    """A key that is duplicate, or not text."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is not text, and a duplicate key, of which YAML silently uses the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in _KEY_TAGS:
                raise _KeyError(problem="key is not text. Put it in quotes.", problem_mark=key.start_mark)
            if key.value in seen:
                raise _KeyError(problem="duplicate key. Remove one of the two.", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def read_config_file(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of a configuration file. Every text in it, except keys, is a `FileText`.

    In every text `${NAME}` is replaced by that environment variable; `$${` stands for a literal `${`.

    Raises SettingsError if the file cannot be read, is not YAML, sets nothing, or refers to a variable that is not set.
    The message gives the place, and nothing else of the file. A file that sets nothing is most often one that an editor
    has just truncated.
    """
    data, problem = _load(path)
    if not problem and not data:
        problem = "contains no settings. Write at least one key, or run without --config.file."
    if not problem and not isinstance(data, dict):
        problem = "must contain `key: value` lines. See the example configuration in the documentation."
    if problem:
        raise SettingsError(f"{path}: {problem}")
    expansion = _Expansion(environ, path.parent)
    expanded: dict[str, Any] = expansion.expand(data, ())
    if expansion.problems:
        raise SettingsError("\n".join(f"{path}: {problem}" for problem in expansion.problems))
    return expanded


def _load(path: Path) -> tuple[Any, str]:
    """Return the data of the file and an empty text, or None and the problem. No PyYAML error leaves this function."""
    try:
        text = read_bounded(path, CONFIG_BYTES_MAX).decode()
        return yaml.load(text, _StrictLoader), ""  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        return None, f"cannot be read ({error.strerror}). Check the path and the file's type, size and permissions."
    except UnicodeDecodeError:
        return None, "not UTF-8 text. Save the file in UTF-8."
    except yaml.YAMLError as error:
        return None, _yaml_problem(error)
    except (RecursionError, ValueError):
        return None, "contains a value that YAML cannot represent, or is nested too deeply. Put such text in quotes."


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, without PyYAML's quotations of the file."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "contains characters that YAML does not allow. Remove control characters."
    mark = error.problem_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    problem = error.problem or "syntax error"
    if isinstance(error, _KeyError):
        return f"{place}: {problem}"
    if "'\\t'" in problem:
        return f"{place}: tab character. YAML does not allow tabs for indentation: use spaces."
    if not problem.startswith("expected "):  # such a problem quotes syntax, not the file
        problem = re.sub(r"(['\"]).*\1", "...", problem, flags=re.DOTALL)
    return f"{place}: not valid YAML ({problem}). Correct the syntax; put text with special characters in quotes."


class _Expansion:
    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self._environ = environ
        self._directory = directory
        self.problems: list[str] = []

    def expand(self, value: Any, location: Location) -> Any:
        if isinstance(value, dict):
            return {key: self.expand(item, (*location, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.expand(item, (*location, index)) for index, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        text = FileText(_REFERENCE.sub(lambda match: self._replacement(match, location), value))
        text.written, text.directory = value, self._directory
        return text

    def _replacement(self, match: re.Match[str], location: Location) -> str:
        escaped, name = match.groups()
        if escaped:
            return match[0][1:]
        if name not in self._environ:
            self.problems.append(
                f"{dotted(location)}: environment variable {name!r} is not set. Set it, or write $${{ for a literal"
                " ${."
            )
        return self._environ.get(name, "")
