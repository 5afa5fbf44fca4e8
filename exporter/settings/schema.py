"""What a user may write: the configuration as a whole, each key with its meaning and its default."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from exporter.durations import Duration
from exporter.plan import TargetPlan
from exporter.settings.addresses import parse_listen_address
from exporter.settings.target_schema import DEFAULT_MODEL, STRICT, ProbeSettings, TargetSettings
from exporter.settings.values import Interval, ListenAddresses, TelemetryPath, Whole, first_repeated, not_empty

ENVIRONMENT_PREFIX = "OLLAMA_PROBE_"


class WebSettings(BaseModel):
    """Where Prometheus finds the metrics."""

    model_config = STRICT

    listen_address: ListenAddresses = Field(
        (":10434",),
        description="Where to listen: `:10434`, `127.0.0.1:10434`, `[::1]:10434`. Several: a list, or a flag each.",
    )
    telemetry_path: TelemetryPath = Field("/metrics", description="Path of the metrics.")

    @property
    def listen_addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each address; the host is empty where all of the machine's addresses are meant."""
        return tuple(parse_listen_address(text) for text in self.listen_address)


class LogSettings(BaseModel):
    """What is logged, and how it is written."""

    model_config = STRICT

    level: Literal["debug", "info", "warn", "error"] = Field("info", description="Least level that is logged.")
    format: Literal["logfmt", "json"] = Field("logfmt", description="How a line is written.")


class Settings(BaseSettings):
    """Everything a user may write. Built by `exporter.settings.load_settings`, from its sources alone."""

    model_config = SettingsConfigDict(**STRICT, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__")  # type: ignore[typeddict-item] # mypy cannot see through **

    interval: Interval = Field(
        Duration(900),
        description="Time between two probes of a model. 5m suits a dedicated server; the shipped rules serve 1m to"
        " 6h.",
    )
    max_concurrent_probes: Whole = Field(4, ge=1, description="Targets probed at the same time.")
    probe: ProbeSettings = Field(
        ProbeSettings(),
        description="The work of a probe. Any of its keys, and `interval`, may be set again on a target or a model.",
    )
    targets: Annotated[tuple[TargetSettings, ...], AfterValidator(not_empty)] = Field(
        description="The Ollama servers. None given: one at `OLLAMA_HOST`, or http://127.0.0.1:11434, with the model"
        f" {DEFAULT_MODEL}.",
    )
    web: WebSettings = Field(WebSettings(), description="Where Prometheus finds the metrics.")
    log: LogSettings = Field(LogSettings(), description="What is logged.")

    def __init__(self, *, sources: tuple[PydanticBaseSettingsSource, ...]) -> None:
        super().__init__(sources=sources)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources that the loader passed in, the strongest first, instead of pydantic-settings' own."""
        assert isinstance(init_settings, InitSettingsSource)  # noqa: S101 - it always is
        return tuple(init_settings.init_kwargs["sources"])

    @model_validator(mode="after")
    def _distinct_targets(self) -> Self:
        if twice := first_repeated(target.label for target in self.targets):
            raise ValueError(f"targets: two are named {twice!r}: give one of them another name")
        return self

    def plans(self) -> tuple[TargetPlan, ...]:
        """Return what is to be probed, everything inherited and every default filled in."""
        inherited = {**dict(self.probe), "interval": self.interval}
        return tuple(target.plan(inherited) for target in self.targets)
