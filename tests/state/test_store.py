"""The store under any order of events."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant
from support.readings import FULL, PLAN, failure
from support.store_events import StoreEvents

from exporter.errors import Reason, SkipReason
from exporter.plan import ModelKey
from exporter.state.model_state import ModelState
from exporter.state.store import ConfigState, DiscoveryState, StateStore

A = ModelKey("gpu-a", "llama3.1")
B = ModelKey("gpu-b", "llama3.1")
COUNTERS = ("runs", "successes", "cancelled", "generated_tokens", "decode_seconds", "gpu_consumed_joules")


@pytest.fixture
def store() -> StateStore:
    """Return a store with two models, whose clocks stand still."""
    store = StateStore(clock=lambda: 1_700_000_900.0, monotonic=lambda: 5_000.0)
    store.add_model(A, PLAN)
    store.add_model(B, PLAN)
    return store


def state_of(store: StateStore, key: ModelKey) -> ModelState:
    """Return one model's state."""
    return {state.key: state for state in store.models()}[key]


def test_each_event_changes_its_own_model(store: StateStore) -> None:
    """Failures and skips are dated by the wall clock, readings by the monotonic one."""
    before = state_of(store, B)
    store.probe_succeeded(A, FULL, 6.5)
    assert state_of(store, A).read_at == 5_000.0
    store.probe_failed(A, failure(Reason.HTTP), 1.0)
    assert state_of(store, A).last_run == 1_700_000_900.0
    store.probe_cancelled(A)
    store.probe_skipped(A, SkipReason.LATE, 4)

    assert (state_of(store, A).runs, state_of(store, A).skipped[SkipReason.LATE]) == (3, 4)
    assert state_of(store, B) is before


def test_a_model_that_is_added_again_keeps_its_counters(store: StateStore) -> None:
    """A reload changes the plan only."""
    store.probe_succeeded(A, FULL, 6.5)
    store.add_model(A, replace(PLAN, interval_seconds=60.0))

    assert state_of(store, A).successes == 1
    assert state_of(store, A).plan.interval_seconds == 60.0
    assert [status.state.key for status in store.statuses()] == [A, B]


def test_events_of_a_removed_model_are_dropped(store: StateStore) -> None:
    """A model that comes back starts at 0."""
    store.probe_succeeded(A, FULL, 6.5)
    store.remove_model(A)
    store.remove_model(A)
    store.probe_succeeded(A, FULL, 6.5)
    store.probe_failed(A, failure(Reason.HTTP), 6.5)
    store.probe_cancelled(A)
    store.probe_skipped(A, SkipReason.LATE)

    assert [state.key for state in store.models()] == [B]
    store.add_model(A, PLAN)
    assert state_of(store, A) == ModelState(key=A, plan=PLAN)


def test_a_removed_target_takes_its_models_and_its_version_along(store: StateStore) -> None:
    """Another target's stay."""
    store.server_checked("gpu-a", "0.13.0")
    store.server_checked("gpu-b", None)
    store.remove_target("gpu-a")

    assert store.server_versions() == {"gpu-b": None}
    assert [state.key for state in store.models()] == [B]


def test_discovery_is_kept_per_target_until_it_ends(store: StateStore) -> None:
    """A target that is removed, or whose models are listed now, has no discovery."""
    store.discovery_checked("gpu-a", DiscoveryState(success=True, ignored_models=2))
    store.discovery_checked("gpu-b", DiscoveryState(success=False))
    assert store.discoveries() == {
        "gpu-a": DiscoveryState(success=True, ignored_models=2),
        "gpu-b": DiscoveryState(success=False, ignored_models=None),
    }

    store.discovery_checked("gpu-a", None)
    store.remove_target("gpu-b")
    assert store.discoveries() == {}


@pytest.mark.parametrize("step", [-3600.0, 86400.0 * 365])
def test_wall_clock_steps_do_not_change_a_readings_age(step: float) -> None:
    """A stepped wall clock neither withdraws a fresh reading nor brings back an old one."""
    wall, monotonic = 1_700_000_000.0, 5_000.0
    store = StateStore(clock=lambda: wall, monotonic=lambda: monotonic)
    store.add_model(A, PLAN)
    store.probe_succeeded(A, FULL, 6.5)

    wall += step
    assert store.statuses()[0].reading is FULL
    monotonic += 2 * PLAN.interval_seconds + PLAN.timeout_seconds + 1
    assert store.statuses()[0].reading is None
    wall = FULL.finished_at
    assert store.statuses()[0].reading is None


class AnyOrder(StoreEvents):
    """Counters add up and only grow, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[ModelKey, ModelState] = {}

    @invariant()
    def adds_up(self) -> None:
        """Every started probe of a present model has ended exactly once."""
        states = {state.key: state for state in self.store.models()}
        assert states.keys() == self.present
        for key, state in states.items():
            assert state.runs == state.successes + sum(state.failures.values()) + state.cancelled == self.runs[key]
            assert state.durations.counts[-1] == state.runs - state.cancelled
            assert list(state.durations.counts) == sorted(state.durations.counts)
            assert (state.failure is not None) == (state.success is False)

    @invariant()
    def only_grows(self) -> None:
        """No counter falls while its model stays."""
        states = {state.key: state for state in self.store.models()}
        for key in states.keys() & self.last.keys():
            for name in COUNTERS:
                assert (getattr(states[key], name) or 0) >= (getattr(self.last[key], name) or 0)
        self.last = states

    @invariant()
    def shows_only_current_readings(self) -> None:
        """A status has a reading only after a success, and never one that is older than the limit."""
        for status in self.store.statuses():
            if status.reading is not None:
                assert status.state.success
                assert status.age_seconds is not None
                assert status.age_seconds <= 2 * PLAN.interval_seconds + PLAN.timeout_seconds


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_states_are_frozen(store: StateStore) -> None:
    """A reader in another thread can hold a state: it never changes."""
    state = state_of(store, A)

    for each in fields(ModelState):
        with pytest.raises(AttributeError):
            setattr(state, each.name, None)


def test_a_failed_reload_keeps_the_time_of_the_last_success() -> None:
    """The state of the configuration is unknown before the first loading; a later success replaces it."""
    now = 100.0
    store = StateStore(clock=lambda: now)
    store.config_reload_failed()
    assert store.config() is None

    store.config_loaded()
    now = 200.0
    store.config_reload_failed()
    assert store.config() == ConfigState(successful=False, succeeded_at=100.0)
    store.config_loaded()
    assert store.config() == ConfigState(successful=True, succeeded_at=200.0)
