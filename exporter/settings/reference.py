"""What can be set, and where: the flags, and every key with its environment variable, default and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from inspect import isclass
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from exporter.durations import Duration
from exporter.settings.schema import ENVIRONMENT_PREFIX, Settings
from exporter.settings.target_schema import ProbeSettings


class Flag(NamedTuple):
    """A flag of the command line. `key` is where its value goes."""

    option: str
    metavar: str
    key: tuple[str | int, ...] = ()
    repeatable: bool = False
    help: str = ""

    @property
    def dest(self) -> str:
        """The flag's name in Python."""
        return self.option.lstrip("-").replace(".", "_").replace("-", "_")

    @property
    def of_target(self) -> bool:
        """Whether it says something about the one target of a user who configured none."""
        return self.key[:1] == ("targets",)

    @property
    def meaning(self) -> str:
        """What the flag sets, in words: for most, what its key says."""
        return self.help or next(setting.meaning for setting in settings_table() if setting.key == dotted(self.key))


class Setting(NamedTuple):
    """One row of the table of settings. `variable` and `flag` are empty where there is none."""

    key: str
    variable: str
    flag: str
    default: str
    meaning: str


FLAGS = (
    Flag("--config.file", "FILE", help="YAML file to read the settings from."),
    Flag("--url", "URL", ("targets", 0, "url"), help="Where the one Ollama server is. Default: `OLLAMA_HOST`."),
    Flag(
        "--model",
        "NAME",
        ("targets", 0, "models"),
        repeatable=True,
        help="Model to probe, or `installed` or `loaded`; repeat it for several.",
    ),
    Flag("--gpu", "NAME", ("targets", 0, "gpu"), help="Name to show for the server's card."),
    Flag("--interval", "DURATION", ("interval",)),
    Flag("--web.listen-address", "ADDRESS", ("web", "listen_address"), repeatable=True),
    Flag("--web.telemetry-path", "PATH", ("web", "telemetry_path")),
    Flag("--log.level", "LEVEL", ("log", "level")),
    Flag("--log.format", "FORMAT", ("log", "format")),
)
"""Every flag that sets something. `--url`, `--model`, `--gpu` and `--interval` are for a single target."""


def dotted(location: Sequence[str | int]) -> str:
    """Return a key's path as it is written in messages: `targets[0].models[1].name`."""
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else repr(part)}" for part in location
    )
    return "".join(parts).removeprefix(".")


def settings_table() -> tuple[Setting, ...]:
    """Return every key that a user may write, in the order of the configuration file.

    The keys of `probe` that a target or a model may set again are one row there.
    """
    return tuple(_rows(Settings, ""))


def known_variables() -> dict[tuple[str, ...], str]:
    """Return the environment variables that set something: the path of the key, and the variable's name."""
    return {tuple(row.key.split(".")): row.variable for row in settings_table() if row.variable}


def model_at(location: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the section that stands at a place of the configuration, or None where there is none."""
    section: type[BaseModel] | None = Settings
    for part in location:
        if isinstance(part, str):
            field = section.model_fields.get(part) if section else None
            section = _section(field.annotation) if field else None
    return section


def _rows(section: type[BaseModel], path: str) -> Iterator[Setting]:
    inherits = section is not Settings and issubclass(section, ProbeSettings) and section is not ProbeSettings
    for name, field in section.model_fields.items():
        if inherits and (name in ProbeSettings.model_fields or name == "interval"):
            continue
        key = f"{path}{name}"
        nested = _section(field.annotation)
        is_list = nested is not None and "tuple" in str(field.annotation)
        if nested is None or is_list:
            yield _row(key, field)
        if nested is not None:
            yield from _rows(nested, f"{key}[]." if is_list else f"{key}.")
    if inherits:
        yield Setting(f"{path}*", "", "", "inherited", "`interval`, or any key of `probe`, set again.")


def _row(key: str, field: FieldInfo) -> Setting:
    variable = "" if "[]" in key else ENVIRONMENT_PREFIX + key.upper().replace(".", "__")
    flag = next((flag.option for flag in FLAGS if dotted(flag.key) == key), "")
    return Setting(key, variable, flag, _default(key, field), field.description or "")


def _default(key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "" if key == "targets" else "required"
    default: Any = field.get_default(call_default_factory=True)
    if isinstance(default, float):
        return str(default) if isinstance(default, Duration) else f"{default:g}"
    return json.dumps(default)


def _section(annotation: Any) -> type[BaseModel] | None:
    if isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section(part))), None)
