"""What is probed and how: the frozen configuration values, and the normalisation of model names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

MODELS_MAX = 64
"""Maximum number of models that are discovered on a target by default. Each has about 70 series."""

WhenUnloaded = Literal["borrow", "load", "skip"]
Discovery = Literal["installed", "loaded"]
_NOT_CONNECTION = {"gpu", "local", "models", "defaults", "max_models"}


def canonical_model_name(name: str) -> str:
    """Return the name under which Ollama knows a model: lower case, with its tag, without the default registry.

    Two names mean the same model exactly if this is equal for both (`types/model/name.go` of Ollama: names compare
    case-insensitively; registry.ollama.ai, library and latest are the defaults).
    """
    name = name.lower().removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def model_label(name: str) -> str:
    """Return the `model` label for a configured name: the name without the default tag `:latest`."""
    return name.removesuffix(":latest")


def is_cloud_model(name: str) -> bool:
    """Return whether a name is that of a model that runs on Ollama's cloud service: its tag is or ends in `cloud`."""
    tag = canonical_model_name(name).rpartition(":")[2]
    return tag == "cloud" or tag.endswith("-cloud")


class ModelKey(NamedTuple):
    """One model on one target: the label values that identify it."""

    target: str
    model: str


@dataclass(frozen=True, slots=True)
class Workload:
    """What a probe asks of a model. Rates are comparable only within one workload."""

    template: str
    question: str
    num_predict: int
    temperature: float
    seed: int
    reasoning: bool

    @property
    def hash(self) -> str:
        """The first 12 hex digits of SHA-256 over the canonical JSON (sorted keys, no spaces) of the six fields."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """How one model of a target is probed."""

    model: str
    """The name as configured, and as sent to Ollama."""
    workload: Workload
    interval_seconds: float
    timeout_seconds: float
    load_timeout_seconds: float
    when_unloaded: WhenUnloaded
    keep_alive: str | int | None = None
    """Sent to Ollama unchanged; None sends nothing, which keeps the server's own timer."""
    expected_decode_tokens_per_second: float | None = None
    cpu_intended: bool = False
    """Whether the model is meant to run on the CPU, so that no alert reports it."""

    def of(self, model: str) -> ModelPlan:
        """Return this plan for a discovered model, without the expected rate, which belongs to one model only."""
        return replace(self, model=model, expected_decode_tokens_per_second=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """One configured Ollama server: how it is reached and which of its models are probed."""

    name: str
    url: str
    """Scheme, host, port and optional path; user info is in `username` and `password` instead."""
    gpu: str | None = None
    """The configured name of the GPU."""
    local: bool = False
    """Whether the server runs on this machine, and so uses this machine's GPUs."""
    models: tuple[ModelPlan, ...] | Discovery = ()
    defaults: ModelPlan
    """How a discovered model is probed; its `model` is empty."""
    max_models: int = MODELS_MAX
    """Maximum number of discovered models."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    bearer_token_file: Path | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    """The client certificate for the server."""
    key_file: Path | None = None
    """Its private key; None if `cert_file` contains it."""
    insecure_skip_verify: bool = False

    def key(self, plan: ModelPlan) -> ModelKey:
        """Return the label values of one of this target's models."""
        return ModelKey(self.name, model_label(plan.model))

    @property
    def connection(self) -> tuple[Any, ...]:
        """All that the connection to the server depends on: every field but those about models and GPU."""
        return tuple(getattr(self, each.name) for each in fields(self) if each.name not in _NOT_CONNECTION)

    def listed_models(self) -> dict[ModelKey, ModelPlan]:
        """Return the models that the configuration lists; none where they are discovered."""
        return {} if isinstance(self.models, str) else {self.key(model): model for model in self.models}
