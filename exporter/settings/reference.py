"""Every key and every flag as data, for `--help` and the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from exporter.durations import Duration
from exporter.settings.keys import Key, keys_of
from exporter.settings.locations import Location, dotted
from exporter.settings.probe_schema import DEFAULT_MODEL, Overrides
from exporter.settings.schema import ENVIRONMENT_PREFIX, Settings


class Setting(NamedTuple):
    """One key of the configuration. Fields that do not apply are empty."""

    key: str
    variable: str
    """The environment variable that sets it."""
    flag: str
    default: str
    """`null` for no value, `required` for a key that must be set, otherwise as it is written in YAML."""
    choices: tuple[str, ...]
    """The values that are allowed, where there are few."""
    meaning: str


class Flag(NamedTuple):
    """A flag of the command line that sets a key. The texts are those of the key, unless they are given here."""

    option: str
    metavar: str
    key: Location
    repeatable: bool = False
    text: str = ""
    own_default: str = ""
    own_variable: str = ""

    @property
    def dest(self) -> str:
        """The flag's name in Python."""
        return self.option.lstrip("-").replace(".", "_").replace("-", "_")

    @property
    def of_target(self) -> bool:
        """Whether it describes a single target, instead of `targets`."""
        return self.key[:1] == ("targets",)

    @property
    def meaning(self) -> str:
        """What the flag sets, with the values to choose from."""
        return self.text or self._setting.meaning

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, where there are few."""
        return self._setting.choices

    @property
    def default(self) -> str:
        """The value without the flag, as it is written on the command line. Empty if there is none."""
        default = self.own_default or self._setting.default
        return "" if default in {"null", "required"} else default.strip('[]"')

    @property
    def variable(self) -> str:
        """The environment variable that sets the same. Empty if there is none."""
        return self.own_variable or self._setting.variable

    @property
    def _setting(self) -> Setting:
        path = dotted(self.key).replace("[0]", "[]")
        return next(_setting(key) for key in keys_of(Settings) if ".".join(key.path) == path)


FLAGS = (
    Flag("--config.file", "FILE", ("config_file",)),
    Flag(
        "--url",
        "URL",
        ("targets", 0, "url"),
        text="URL of the Ollama server to probe.",
        own_default="http://127.0.0.1:11434",
        own_variable="OLLAMA_HOST",
    ),
    Flag(
        "--model",
        "NAME",
        ("targets", 0, "models"),
        repeatable=True,
        text="Model to probe, or `installed` or `loaded` for the models of the server. Can be repeated.",
        own_default=DEFAULT_MODEL,
    ),
    Flag("--gpu", "NAME", ("targets", 0, "gpu")),
    Flag("--interval", "DURATION", ("interval",)),
    Flag(
        "--web.listen-address",
        "ADDRESS",
        ("web", "listen_address"),
        repeatable=True,
        text="Address on which to expose metrics and the status page. Can be repeated.",
    ),
    Flag("--web.telemetry-path", "PATH", ("web", "telemetry_path")),
    Flag("--log.level", "LEVEL", ("log", "level")),
    Flag("--log.format", "FORMAT", ("log", "format")),
)
"""All flags that set something. `--url`, `--model` and `--gpu` describe a single target."""


def settings_table() -> tuple[Setting, ...]:
    """Return every key of the configuration file, in its order.

    The keys of `Overrides` are listed once, not again for targets and models, which have one row `*` for them.
    """
    return tuple(_rows())


def _rows() -> Iterator[Setting]:
    for key in keys_of(Settings):
        if key.path == ("config_file",) or (key.section is not None and not key.is_list):
            continue
        if issubclass(key.owner, Overrides) and key.path[-1] in Overrides.model_fields:
            if key.path[-1] == "interval":
                path = ".".join((*key.path[:-1], "*"))
                yield Setting(path, "", "", "inherited", (), "`interval`, or any key of `probe`.")
        else:
            yield _setting(key)


def _setting(key: Key) -> Setting:
    path = ".".join(key.path)
    choices = get_args(key.field.annotation) if get_origin(key.field.annotation) is Literal else ()
    meaning = key.field.description or ""
    if choices and not all(choice in meaning for choice in choices):
        meaning = f"{meaning} One of: [{', '.join(choices)}]."
    return Setting(
        key=path,
        variable=ENVIRONMENT_PREFIX + path.upper().replace(".", "__") if key.has_variable else "",
        flag=next((flag.option for flag in FLAGS if dotted(flag.key) == path), ""),
        default=_default(key.field) if path != "targets" else "",
        choices=choices,
        meaning=meaning,
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default: Any = field.get_default(call_default_factory=True)
    if isinstance(default, float):
        return str(default) if isinstance(default, Duration) else f"{default:g}"
    return json.dumps(default)
