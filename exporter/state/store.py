"""The state of everything that is probed, in one place: probing writes it, metrics and pages read it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from exporter.errors import Failure, SkipReason
from exporter.plan import ModelKey, ModelPlan
from exporter.reading import Reading
from exporter.state.model_state import ModelState, ModelStatus, status_at


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryState:
    """The discovery of one target's models."""

    success: bool
    """Whether the last one succeeded."""
    ignored_models: int | None = None
    """How many models the limit left out of the last one that succeeded; None before the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigState:
    """The last loading of the configuration."""

    successful: bool
    succeeded_at: float
    """When one last succeeded, in Unix seconds."""


class StateStore:
    """Holds one frozen `ModelState` per model, each server's version, and the state of each discovery.

    Every event replaces a model's state as a whole, so a reader in any thread sees a consistent one. Events come from
    one thread. An event of a removed model is dropped: its probe ended after the reload that removed the model.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Create an empty store. `clock` returns Unix seconds."""
        self._clock = clock
        self.monotonic = monotonic
        self._models: dict[ModelKey, ModelState] = {}
        self._server_versions: dict[str, str | None] = {}
        self._discoveries: dict[str, DiscoveryState] = {}
        self._config: ConfigState | None = None
        self.connections_rejected = 0
        """HTTP connections that were closed or refused because of the limit on their number."""

    def config_loaded(self) -> None:
        """Record that the configuration was loaded, at the start or at a reload."""
        self._config = ConfigState(successful=True, succeeded_at=self._clock())

    def config_reload_failed(self) -> None:
        """Record that the configuration could not be reloaded."""
        if self._config is not None:
            self._config = replace(self._config, successful=False)

    def config(self) -> ConfigState | None:
        """Return the state of the configuration, or None before it was loaded."""
        return self._config

    def add_model(self, key: ModelKey, plan: ModelPlan) -> None:
        """Add a model with all counters at 0, or give a known one a new plan and keep its counters."""
        known = self._models.get(key)
        self._models[key] = known.with_plan(plan) if known else ModelState(key=key, plan=plan)

    def remove_model(self, key: ModelKey) -> None:
        """Remove a model that left the configuration."""
        self._models.pop(key, None)

    def remove_target(self, target: str) -> None:
        """Remove a target that left the configuration, with its models."""
        self._server_versions.pop(target, None)
        self._discoveries.pop(target, None)
        for key in [key for key in self._models if key.target == target]:
            self.remove_model(key)

    def probe_succeeded(self, key: ModelKey, reading: Reading, run_seconds: float) -> None:
        """Record a successful probe; `run_seconds` is its whole duration, model load included."""
        if state := self._models.get(key):
            self._models[key] = state.with_success(reading, run_seconds, self.monotonic())

    def probe_failed(self, key: ModelKey, failure: Failure, run_seconds: float) -> None:
        """Record a failed probe, which withdraws the model's reading."""
        if state := self._models.get(key):
            self._models[key] = state.with_failure(failure, run_seconds, self._clock())

    def probe_cancelled(self, key: ModelKey) -> None:
        """Record a probe that shutdown or reload cancelled."""
        if state := self._models.get(key):
            self._models[key] = state.with_cancelled()

    def probe_skipped(self, key: ModelKey, reason: SkipReason, count: int = 1) -> None:
        """Record `count` due probes that were skipped; the reading stays until its age withdraws it."""
        if state := self._models.get(key):
            self._models[key] = state.with_skipped(reason, count, self._clock())

    def server_checked(self, target: str, version: str | None) -> None:
        """Record a server's version, or None if it did not answer."""
        self._server_versions[target] = version

    def discovery_checked(self, target: str, discovery: DiscoveryState | None) -> None:
        """Record the discovery of a target's models, or None if they are listed in the configuration."""
        if discovery is None:
            self._discoveries.pop(target, None)
        else:
            self._discoveries[target] = discovery

    def connection_rejected(self) -> None:
        """Record an HTTP connection that was closed or refused because of the limit on their number."""
        self.connections_rejected += 1

    def models(self) -> list[ModelState]:
        """Return every model's state, in the order in which they were added."""
        return list(self._models.values())

    def server_versions(self) -> Mapping[str, str | None]:
        """Return each checked target's version; None if it did not answer."""
        return dict(self._server_versions)

    def discoveries(self) -> Mapping[str, DiscoveryState]:
        """Return the discovery of each target whose models are discovered."""
        return dict(self._discoveries)

    def statuses(self) -> list[ModelStatus]:
        """Return every model's status now, in the order in which they were added."""
        now = self.monotonic()
        return [status_at(state, now) for state in self.models()]
