"""The targets of a configuration while it changes; in simulated time, without servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from support.probing import model_plan, target_plan
from support.simulated import SimulatedLoop, run_simulated

from exporter.gpu.monitor import GpuMonitor
from exporter.plan import ModelKey, TargetPlan
from exporter.probing import target_set
from exporter.probing.slots import Slot
from exporter.probing.target import Target
from exporter.probing.target_set import TargetSet
from exporter.state.model_state import ModelState
from exporter.state.store import StateStore

INTERVAL = 900


class Simulated(Target):
    """A target whose server always answers."""

    loop: ClassVar[SimulatedLoop]
    started_at: ClassVar[float]
    runs: ClassVar[list[tuple[float, ModelKey]]]
    cancelled: ClassVar[list[ModelKey]]
    stopping: ClassVar[bool]
    probe_seconds: ClassVar[float]

    async def check(self) -> None:
        """Return as if the server had answered."""
        self._observer.server_checked(self.plan.name, "0.33.0")

    async def probe(self, key: ModelKey, slot: Slot | None = None) -> None:
        """Take some time."""
        assert slot is not None
        slot.count_chunks = lambda: int(self.loop.time() * 10)
        assert key in self.models
        self.runs.append((self.loop.time() - self.started_at, key))
        try:
            await asyncio.sleep(self.probe_seconds)
        except asyncio.CancelledError:
            if not self.stopping:
                self.cancelled.append(key)
            raise


def plan(name: str, *models: str, **changes: Any) -> TargetPlan:
    """Return a target with these models at the default interval."""
    plans = [model_plan(model, interval_seconds=INTERVAL) for model in models or ("m",)]
    return target_plan(f"http://{name}:11434", *plans, name=name, **changes)


def simulate(
    monkeypatch: pytest.MonkeyPatch,
    plans: Iterable[TargetPlan],
    seconds: float,
    meanwhile: Callable[[TargetSet, StateStore], Awaitable[None]] | None = None,
    *,
    after_seconds: float = 0,
    probe_seconds: float = 2,
    limit: int = 50,
) -> StateStore:
    """Run targets for some seconds, from `after_seconds` on, and return the store."""
    monkeypatch.setattr(target_set, "Target", Simulated)

    async def work(loop: SimulatedLoop) -> StateStore:
        await asyncio.sleep(after_seconds)
        Simulated.loop, Simulated.started_at, Simulated.probe_seconds = loop, loop.time() - after_seconds, probe_seconds
        Simulated.runs, Simulated.cancelled, Simulated.stopping = [], [], False
        store = StateStore(monotonic=loop.time)
        targets = TargetSet(store, GpuMonitor(), limit)
        targets.start()
        await targets.apply(list(plans))
        if meanwhile is not None:
            await meanwhile(targets, store)
        await asyncio.sleep(seconds)
        Simulated.stopping = True
        await targets.stop()
        return store

    store: StateStore = run_simulated(work)
    return store


def times(key: ModelKey) -> list[float]:
    """Return when a model was probed, in seconds since the start of the simulation."""
    return [when for when, probed in Simulated.runs if probed == key]


def states(store: StateStore) -> dict[ModelKey, ModelState]:
    """Return the states by key."""
    return {state.key: state for state in store.models()}


def test_probes_of_many_targets_are_spread_over_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target is probed within seconds of the start; from then on only a few are due in the same second."""
    simulate(monkeypatch, [plan(f"gpu-{index}") for index in range(200)], 4 * INTERVAL, limit=200)

    firsts = {key.target: when for when, key in reversed(Simulated.runs)}
    assert len(firsts) == 200
    assert max(firsts.values()) <= target_set.FIRST_PROBES_SECONDS + 1
    later = [when for when, _ in Simulated.runs if when > 10]
    assert max(Counter(map(int, later)).values()) <= 5
    last = [when for when in later if when >= 3 * INTERVAL]
    assert len(last) == 200
    assert max(Counter(int(when % INTERVAL / 100) for when in last).values()) < 2 * 200 / 9


def test_a_restart_changes_no_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first probe, each model is due at the same times of day as before, with or without other targets."""
    plans = [plan(f"gpu-{index}", "a", "b") for index in range(10)]
    simulate(monkeypatch, plans, 10 * INTERVAL)
    before = {key: times(key)[-1] % INTERVAL for _, key in Simulated.runs}
    simulate(monkeypatch, plans[::-2], 10 * INTERVAL, after_seconds=12_345)
    after = {key: times(key)[-1] % INTERVAL for _, key in Simulated.runs}

    assert len(after) == 10
    assert after == pytest.approx({key: before[key] for key in after}, abs=3)


def test_a_reload_that_adds_targets_moves_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new target is probed soon, and the others as if nothing had happened."""
    plans = [plan(f"gpu-{index}") for index in range(10)]

    async def add(targets: TargetSet, _: StateStore) -> None:
        await asyncio.sleep(2 * INTERVAL)
        await targets.apply([plan("new"), *plans])

    simulate(monkeypatch, plans, 4 * INTERVAL)
    alone = Simulated.runs
    simulate(monkeypatch, plans, 2 * INTERVAL, add)

    others = [(when, key) for when, key in Simulated.runs if key.target != "new"]
    assert [key for _, key in others] == [key for _, key in alone]
    assert [when for when, _ in others] == pytest.approx([when for when, _ in alone], abs=1)
    assert times(ModelKey("new", "m"))[0] == pytest.approx(2 * INTERVAL, abs=6)


CHANGES: dict[str, Any] = {
    "expected rate": {"expected_decode_tokens_per_second": 50.0},
    "timeout": {"timeout_seconds": 99.0},
    "interval": {"interval_seconds": 2.0 * INTERVAL},
}


@pytest.mark.parametrize("change", [*CHANGES, "gpu"])
def test_a_reload_touches_only_what_changed(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Neither a probe that runs is cancelled, nor are due times moved, nor counters lost."""
    before = plan("t", "a", "b")
    changes = CHANGES.get(change)
    first, second = before.listed_models().values()
    after = (
        replace(before, gpu="RTX") if changes is None else replace(before, models=(replace(first, **changes), second))
    )
    counted: list[ModelState] = []

    async def reload(targets: TargetSet, store: StateStore) -> None:
        await asyncio.sleep(5)
        assert Simulated.runs
        store.probe_cancelled(ModelKey("t", "a"))
        target = targets._targets["t"]
        client = target._client
        await targets.apply([after])
        assert targets._targets["t"] is target
        assert target._client is client
        assert target.plan == after
        counted.append(states(store)[ModelKey("t", "a")])

    simulate(monkeypatch, [before], 4 * INTERVAL, probe_seconds=100)
    alone = {key: times(key) for _, key in Simulated.runs}
    simulate(monkeypatch, [before], 4 * INTERVAL - 5, reload, probe_seconds=100)

    assert Simulated.cancelled == []
    [state] = counted
    assert (state.runs, state.plan) == (1, next(iter(after.listed_models().values())))
    assert times(ModelKey("t", "b")) == pytest.approx(alone[ModelKey("t", "b")], abs=1)
    if change == "interval":
        gaps = [later - earlier for earlier, later in pairwise(times(ModelKey("t", "a"))[1:])]
        assert gaps == pytest.approx([2 * INTERVAL] * len(gaps), abs=1)
    else:
        assert times(ModelKey("t", "a")) == pytest.approx(alone[ModelKey("t", "a")], abs=1)


def test_another_connection_replaces_the_client_and_keeps_the_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe that runs is cancelled, the server is probed again within seconds, and the phases stay."""
    before = plan("t", "a", "b")

    async def reload(targets: TargetSet, store: StateStore) -> None:
        await asyncio.sleep(5)
        store.probe_cancelled(ModelKey("t", "a"))
        client = targets._targets["t"]._client
        await targets.apply([replace(before, headers={"X-Key": "other"})])
        assert targets._targets["t"]._client is not client
        assert states(store)[ModelKey("t", "a")].runs == 1

    simulate(monkeypatch, [before], 4 * INTERVAL, probe_seconds=100)
    alone = {key: times(key)[-1] for _, key in Simulated.runs}
    simulate(monkeypatch, [before], 4 * INTERVAL - 5, reload, probe_seconds=100)

    assert Simulated.cancelled == [ModelKey("t", "a")]
    assert times(ModelKey("t", "a"))[1] == pytest.approx(5, abs=6)
    assert {key: times(key)[-1] for key in alone} == pytest.approx(alone, abs=1)


def test_a_target_that_cannot_be_created_is_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts as not up and the others are probed, at the start and at a reload. A correction brings it in."""
    good, bad = plan("good"), replace(plan("bad"), url="http://10.0.0.256:11434", headers={"X": "hdr-51ns3cr3t"})

    async def reload(targets: TargetSet, store: StateStore) -> None:
        await asyncio.sleep(5)
        assert store.server_versions() == {"good": "0.33.0", "bad": None}
        assert list(states(store)) == [ModelKey("good", "m")]
        await targets.apply([good, plan("bad")])
        await asyncio.sleep(8)
        assert store.server_versions() == {"good": "0.33.0", "bad": "0.33.0"}
        assert times(ModelKey("bad", "m"))
        await targets.apply([good, bad])
        assert store.server_versions() == {"good": "0.33.0", "bad": None}
        await targets.apply([good])
        assert store.server_versions() == {"good": "0.33.0"}

    simulate(monkeypatch, [bad, good], 3 * INTERVAL, reload)

    assert len(times(ModelKey("good", "m"))) == 3
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "failed to create target, it is not probed"
    ] * 2
    assert "51ns3cr3t" not in caplog.text


def test_a_model_that_is_due_while_its_target_is_removed_is_not_probed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the step of the loop at which it becomes due."""
    stays, goes = plan("stays"), plan("goes")

    async def reload(targets: TargetSet, _: StateStore) -> None:
        await asyncio.sleep(10)
        target = targets._targets["goes"]
        stop = target.stop_checking

        async def due_meanwhile() -> None:
            targets._schedule._turns.start(ModelKey("goes", "m"))
            await stop()
            await asyncio.sleep(1)

        monkeypatch.setattr(target, "stop_checking", due_meanwhile)
        await targets.apply([stays])

    store = simulate(monkeypatch, [stays, goes], INTERVAL, reload)

    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert list(states(store)) == [ModelKey("stays", "m")]
