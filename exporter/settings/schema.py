"""The schema of the whole configuration, and the sources that its values come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.plan import TargetPlan
from exporter.settings.addresses import ollama_host_url, parse_listen_address
from exporter.settings.http_values import ListenAddresses, TelemetryPath
from exporter.settings.locations import OllamaHostUrl
from exporter.settings.probe_schema import DEFAULT_INTERVAL, DEFAULT_MODEL, STRICT, ProbeSettings
from exporter.settings.sources import ConfigFile, Environment
from exporter.settings.target_schema import TargetSettings
from exporter.settings.values import Integer, Interval, first_repeated, not_empty

ENVIRONMENT_PREFIX = "OLLAMA_PROBE_"


class WebSettings(BaseModel):
    """The HTTP server of the exporter."""

    model_config = STRICT

    listen_address: ListenAddresses = Field(
        (":10434",),
        description="Addresses on which to expose metrics and the status page, such as `:10434`, `127.0.0.1:10434` or"
        " `[::1]:10434`.",
    )
    telemetry_path: TelemetryPath = Field("/metrics", description="Path under which to expose metrics.")
    max_connections: Integer = Field(128, ge=1, description="Maximum number of HTTP connections at the same time.")

    @property
    def listen_addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each address. An empty host means all addresses of the machine."""
        return tuple(parse_listen_address(text) for text in self.listen_address)


class LogSettings(BaseModel):
    """Logging."""

    model_config = STRICT

    level: Literal["debug", "info", "warn", "error"] = Field(
        "info", description="Only log messages with the given severity or above."
    )
    format: Literal["logfmt", "json"] = Field("logfmt", description="Output format of log messages.")


def default_target() -> dict[str, Any]:
    """Return the target that is probed if none is configured: the server at `OLLAMA_HOST`, by default a local one."""
    return {"url": OllamaHostUrl(ollama_host_url(os.environ.get("OLLAMA_HOST", "")))}


def _distinct_targets(targets: tuple[TargetSettings, ...]) -> tuple[TargetSettings, ...]:
    if repeated := first_repeated(target.label for target in targets):
        raise ValueError(f"two targets have the name {repeated!r}. Set a different `name` for one of them.")
    return targets


class Settings(BaseSettings):
    """The whole configuration. `exporter.settings.load_settings` builds it."""

    model_config = SettingsConfigDict(
        **STRICT,  # type: ignore[typeddict-item] # mypy cannot see through **
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    config_file: Path | None = Field(None, description="Path of the YAML configuration file.")
    interval: Interval = Field(
        DEFAULT_INTERVAL,
        description="Time between two probes of the same model. Use 5m on a dedicated server, 15m on a shared one. The"
        " alert rules support 1m to 6h.",
    )
    max_concurrent_probes: Integer = Field(
        4,
        ge=1,
        description="Maximum number of targets that are probed at the same time, not counting those that do not answer"
        " for 5 s.",
    )
    probe: ProbeSettings = Field(ProbeSettings(), description="The request of a probe, and its limits.")
    targets: Annotated[tuple[TargetSettings, ...], AfterValidator(not_empty), AfterValidator(_distinct_targets)] = (
        Field(
            default_factory=lambda: (default_target(),),
            validate_default=True,
            description="Ollama servers to probe. By default one, at the address in `OLLAMA_HOST` or"
            f" http://127.0.0.1:11434, with the model {DEFAULT_MODEL}.",
        )
    )
    web: WebSettings = Field(WebSettings(), description="The HTTP server of the exporter.")
    log: LogSettings = Field(LogSettings(), description="Logging.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, strongest first: flags, environment, configuration file."""
        return init_settings, Environment(settings_cls), ConfigFile(settings_cls)

    def plans(self) -> tuple[TargetPlan, ...]:
        """Return the plan of each target, with inherited values and defaults filled in."""
        inherited = {**dict(self.probe), "interval": self.interval}
        return tuple(target.plan(inherited) for target in self.targets)
