"""Who is notified of models and results. `StateStore` implements both protocols."""

from __future__ import annotations

from typing import Protocol

from exporter.errors import Failure, SkipReason
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import Reading
from exporter.state.store import DiscoveryState


class ProbeObserver(Protocol):
    """Receives the results of probes and checks."""

    def probe_succeeded(self, key: ModelKey, reading: Reading, run_seconds: float) -> None:
        """Record a successful probe."""

    def probe_failed(self, key: ModelKey, failure: Failure, run_seconds: float) -> None:
        """Record a failed probe."""

    def probe_cancelled(self, key: ModelKey) -> None:
        """Record a probe that a shutdown or a reload cancelled."""

    def probe_skipped(self, key: ModelKey, reason: SkipReason, count: int = 1) -> None:
        """Record due probes that were not run."""

    def server_checked(self, target: str, version: str | None) -> None:
        """Record a server's version, or None if it did not answer."""

    def discovery_checked(self, target: str, discovery: DiscoveryState | None) -> None:
        """Record the discovery of a target's models, or None if they are listed in the configuration."""


class ModelRegistry(ProbeObserver, Protocol):
    """Is also notified of models and targets."""

    def add_model(self, key: ModelKey, plan: ModelPlan) -> None:
        """Add a model, or give a known one a new plan."""

    def remove_model(self, key: ModelKey) -> None:
        """Remove a model that left the configuration."""

    def remove_target(self, target: str) -> None:
        """Remove a target that left the configuration."""
