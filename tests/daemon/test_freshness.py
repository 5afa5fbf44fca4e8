"""When readings are exposed and withdrawn: schedule, state and metrics together, over simulated hours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from support.readings import FAILURE, FULL, PLAN
from support.simulated import SimulatedLoop, run_simulated

from exporter.errors import SkipReason
from exporter.metrics.collector import ProbeCollector
from exporter.metrics.families import READINGS, metrics_table
from exporter.plan import ModelKey
from exporter.probing.schedule import Schedule
from exporter.probing.slots import Slot
from exporter.probing.turns import ProbeTurns
from exporter.state.store import StateStore

parse: Callable[[str], Iterable[Metric]] = parse_openmetrics
KEY = ModelKey("gpu-a", "llama3.1")
INTERVAL = PLAN.interval_seconds
AGE_LIMIT = 2 * INTERVAL + PLAN.timeout_seconds


class Pipeline:
    """Schedule, state and metrics connected as in the daemon, in simulated time; `probe` takes the place of a probe."""

    def __init__(self, loop: SimulatedLoop, probe: Callable[[StateStore], Awaitable[None]]) -> None:
        self.registry = CollectorRegistry()
        self.store = StateStore(monotonic=loop.time)
        ProbeCollector(self.store, self.registry, collectors=())
        self.store.add_model(KEY, PLAN)

        async def run(_: ModelKey, __: Slot) -> None:
            await probe(self.store)

        self.schedule = Schedule(ProbeTurns(run, max_concurrent_probes=4), self.store.probe_skipped)
        self.schedule.start()
        self.schedule.add(KEY, INTERVAL, 10)

    def sums(self) -> dict[str, float]:
        """Return each exposed metric of this program, summed over its samples."""
        sums: dict[str, float] = {}
        for metric in self.registry.collect():
            for sample in metric.samples:
                name = sample.name.removeprefix("ollama_probe_")
                sums[name] = sums.get(name, 0) + sample.value
        return sums

    @property
    def fresh(self) -> bool:
        """Whether a reading is exposed: all of its metrics are, or none."""
        names = {family.name.removeprefix("ollama_probe_") for family in READINGS}
        shown = names & self.sums().keys()
        assert not shown or len(shown) > 15
        return bool(shown)


def succeed(store: StateStore) -> None:
    """Record a successful probe."""
    store.probe_succeeded(KEY, FULL, 3.0)


def simulate(probes: Iterable[Callable[[StateStore], Awaitable[None] | None]], scenario: Any) -> None:
    """Run a scenario. The first probes end as listed, all later ones as the last entry."""
    ends = list(probes)

    async def probe(store: StateStore) -> None:
        end = ends.pop(0) if len(ends) > 1 else ends[0]
        await asyncio.sleep(5)
        waiting = end(store)
        if waiting is not None:
            await waiting

    async def work(loop: SimulatedLoop) -> None:
        pipeline = Pipeline(loop, probe)
        await scenario(pipeline)
        await pipeline.schedule.stop()

    run_simulated(work)


def test_before_the_first_probe_only_counters_and_configuration_are_exposed() -> None:
    """Counters are 0 from the first scrape on; success, times and readings come with the first probe."""

    async def scenario(pipeline: Pipeline) -> None:
        sums = pipeline.sums()
        assert (sums["runs_total"], sums["failures_total"], sums["skipped_total"]) == (0, 0, 0)
        assert sums["interval_seconds"] == INTERVAL
        assert not {"success", "last_run_timestamp_seconds", "last_success_timestamp_seconds"} & sums.keys()
        assert not pipeline.fresh
        await asyncio.sleep(14)
        assert not pipeline.fresh
        await asyncio.sleep(2)
        assert pipeline.fresh
        assert pipeline.sums()["success"] == 1

    simulate([succeed], scenario)


def test_reading_is_withdrawn_while_a_probe_hangs() -> None:
    """A probe that never ends leaves the last reading until it is too old; missed due times are counted."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def scenario(pipeline: Pipeline) -> None:
        await asyncio.sleep(15 + AGE_LIMIT - 1)
        assert pipeline.fresh
        await asyncio.sleep(2)
        assert not pipeline.fresh
        sums = pipeline.sums()
        assert (sums["runs_total"], sums["success"]) == (1, 1)
        await asyncio.sleep(10 * INTERVAL)
        assert not pipeline.fresh
        assert pipeline.sums()["skipped_total"] >= 10

    simulate([succeed, lambda _: stuck()], scenario)


def test_skipped_probes_keep_a_reading_until_it_is_too_old() -> None:
    """Probes skipped as unloaded neither withdraw a reading nor extend it, but set the time of the last run."""

    async def scenario(pipeline: Pipeline) -> None:
        await asyncio.sleep(15 + INTERVAL + 1)
        assert pipeline.fresh
        first = pipeline.sums()
        assert (first["skipped_total"], first["runs_total"]) == (1, 1)
        assert first["last_run_timestamp_seconds"] > first["last_success_timestamp_seconds"]
        await asyncio.sleep(AGE_LIMIT - INTERVAL - 2)
        assert pipeline.fresh
        await asyncio.sleep(2)
        assert not pipeline.fresh
        assert pipeline.sums()["success"] == 1

    simulate([succeed, lambda store: store.probe_skipped(KEY, SkipReason.UNLOADED)], scenario)


def test_failure_withdraws_a_reading_until_the_next_success() -> None:
    """The reading of a server that died is withdrawn with the failure, and the next success exposes one again."""

    async def scenario(pipeline: Pipeline) -> None:
        await asyncio.sleep(15 + INTERVAL - 1)
        assert pipeline.fresh
        await asyncio.sleep(2)
        assert not pipeline.fresh
        assert pipeline.sums()["success"] == 0
        await asyncio.sleep(INTERVAL)
        assert pipeline.fresh

    simulate([succeed, lambda store: store.probe_failed(KEY, FAILURE, 5.0), succeed], scenario)


def test_removed_model_is_not_exposed() -> None:
    """Not even when a probe that was running at its removal ends later."""

    async def scenario(pipeline: Pipeline) -> None:
        await asyncio.sleep(10 + INTERVAL + 2)
        assert pipeline.fresh
        await pipeline.schedule.remove([KEY])
        pipeline.store.remove_model(KEY)
        succeed(pipeline.store)
        names = {row.name.removeprefix("ollama_probe_") for row in metrics_table() if "target" in row.labels}
        assert not names & pipeline.sums().keys()

    simulate([succeed], scenario)


@pytest.mark.parametrize("step", [-3600.0, 86400.0], ids=["back an hour", "forward a day"])
def test_wall_clock_steps_do_not_change_the_age(step: float) -> None:
    """Age is measured on the monotonic clock, over the whole pipeline."""

    async def work(loop: SimulatedLoop) -> None:
        ends = iter([succeed])

        async def probe(store: StateStore) -> None:
            end = next(ends, None)
            if end is None:
                await asyncio.Event().wait()
            else:
                end(store)

        pipeline = Pipeline(loop, probe)
        await asyncio.sleep(11)
        loop.step_wall_clock(step)
        await asyncio.sleep(60)
        assert pipeline.fresh
        await asyncio.sleep(AGE_LIMIT)
        assert not pipeline.fresh
        loop.step_wall_clock(-step)
        await asyncio.sleep(60)
        assert not pipeline.fresh
        await pipeline.schedule.stop()

    run_simulated(work)
