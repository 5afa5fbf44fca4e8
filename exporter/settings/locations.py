"""Places in the configuration, and the flag, environment variable or file in which the user set them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Location = tuple[str | int, ...]
"""The path of a key: `("targets", 0, "url")`."""


class FileText(str):
    """A text of the configuration file, after `${NAME}` was replaced.

    `written` is the text before that; messages show it, because the value of a variable may be a secret. `directory` is
    the file's directory, where relative paths start.
    """

    __slots__ = ("directory", "written")
    written: str
    directory: Path


class OllamaHostUrl(str):
    """A URL taken from `OLLAMA_HOST`, so that a message about it can name the variable."""

    __slots__ = ()


def dotted(location: Sequence[str | int]) -> str:
    """Return a key's path as it is written in messages: `targets[0].models[1].name`."""
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else repr(part)}" for part in location
    )
    return "".join(parts).removeprefix(".")


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the user set what: the flags, the environment variables and the file that were used."""

    flags: Mapping[Location, str]
    """The flags that were given, by the key that each sets."""
    variables: Mapping[str, str]
    """The names of the variables that are set, by what follows the prefix in lower case: `web__listen_address`."""
    config_file: Path | None

    def place(self, location: Location, value: object) -> str:
        """Return the name, as the user wrote it, of the place where a value was set."""
        if isinstance(value, OllamaHostUrl):
            return "OLLAMA_HOST"
        flag = next((name for key, name in self.flags.items() if location[: len(key)] == key), None)
        if flag:
            return flag
        if not isinstance(value, FileText):
            for length in range(len(location), 0, -1):
                if name := self.variables.get(_variable_key(location[:length])):
                    rest = dotted(location[length:])
                    return f"{name}.{rest}" if rest and not rest.startswith("[") else name + rest
        path = dotted(location)
        return f"{self.config_file}: {path}" if self.config_file else path

    def is_variable(self, location: Location) -> bool:
        """Return whether the key at a location was set by an environment variable with exactly that name."""
        return _variable_key(location) in self.variables


def _variable_key(location: Location) -> str:
    return "__".join(str(part) for part in location)
