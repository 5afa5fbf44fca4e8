"""What is to be probed: the frozen values that cross from the settings to the schedule and the probe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

WhenUnloaded = Literal["borrow", "load", "skip"]
Discovery = Literal["installed", "loaded"]


def short_name(model: str) -> str:
    """Return the `model` label for an Ollama model name: the name without its default tag `:latest`."""
    return model.removesuffix(":latest")


class ModelKey(NamedTuple):
    """One model on one target, as the label values that tell it apart."""

    target: str
    model: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The work that a probe asks for. Rates compare only within one workload."""

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
    """The name as sent to Ollama."""
    workload: Workload
    interval_seconds: float
    timeout_seconds: float
    load_timeout_seconds: float
    when_unloaded: WhenUnloaded
    keep_alive: str | int | None = None
    """Sent to Ollama as it stands; None sends nothing, which leaves the server's own timer alone."""
    expected_decode_tokens_per_second: float | None = None

    def of(self, model: str) -> ModelPlan:
        """Return this plan for another model, as discovery needs it. An expected rate belongs to one model only."""
        return replace(self, model=model, expected_decode_tokens_per_second=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPlan:
    """One Ollama server: how it is reached and which of its models are probed."""

    name: str
    url: str
    """Scheme, host, port and perhaps a path; never user info, which is moved into `username` and `password`."""
    gpu: str | None = None
    """The operator's name for the card."""
    local: bool = False
    """Whether the server runs on this machine, so that this machine's cards are the ones it may use."""
    models: tuple[ModelPlan, ...] | Discovery = ()
    defaults: ModelPlan
    """How a discovered model is probed; its `model` is empty."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    bearer_token_file: Path | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    insecure_skip_verify: bool = False

    def pair(self, plan: ModelPlan) -> ModelKey:
        """Return the label values of one of this target's models."""
        return ModelKey(self.name, short_name(plan.model))
