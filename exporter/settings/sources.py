"""The environment and the configuration file as sources of pydantic-settings.

`Settings.settings_customise_sources` lists the sources, strongest first: flags (the arguments of `Settings`), the
environment, the configuration file. pydantic-settings merges them key by key.

Both sources extend the library's own because it does not report all mistakes: its environment source ignores unknown
variables and stops at the first value that is not JSON, and its YAML source accepts duplicate keys and ignores a file
that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
)

from exporter.errors import SettingsError
from exporter.settings.config_file import read_config_file
from exporter.settings.keys import keys_of


class Environment(EnvSettingsSource):
    """Environment variables. An unknown one becomes an unknown key, and so a validation error."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        known = (key.path for key in keys_of(settings_cls) if key.has_variable)
        self._known = {f"{self.env_prefix}{'__'.join(path)}".lower() for path in known}

    def __call__(self) -> dict[str, Any]:
        """Return the values of all variables with the prefix; those of unknown variables by their lower-case names."""
        prefix = self.env_prefix.lower()
        unknown = [name for name in self.env_vars if name.startswith(prefix) and name not in self._known]
        return super().__call__() | {name.removeprefix(prefix): self.env_vars[name] for name in unknown}

    def explode_env_vars(self, field_name: str, field: FieldInfo, env_vars: Mapping[str, str | None]) -> dict[str, Any]:
        """Return the values of a section's keys. Unknown variables are left to `__call__`."""
        known = {name: value for name, value in env_vars.items() if name in self._known}
        return super().explode_env_vars(field_name, field, known)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """Return the value of a JSON text, or the text where it is not JSON, which validation then refuses."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


class ConfigFile(PydanticBaseSettingsSource):
    """The YAML file that the stronger sources name as `config_file`."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the signature is the library's
        """Return nothing: the file is read as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the content of the file. Raises SettingsError if it cannot be used."""
        path = self.current_state.get("config_file")
        data = read_config_file(Path(path), os.environ) if path else {}
        if "config_file" in data:
            raise SettingsError(f"{path}: config_file: cannot be set in the file itself. Use --config.file.")
        configured = data | self.settings_sources_data.get(Environment.__name__, {})
        if "targets" in configured and "targets" in self.settings_sources_data.get(InitSettingsSource.__name__, {}):
            raise SettingsError(
                "targets: cannot be combined with the flags --url, --model and --gpu, which describe a single target."
                " Remove the flags, or set their values in `targets`."
            )
        return data
