"""What is told while things go wrong: freshness over simulated hours, a broken collector, a large installation."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.registry import Collector
from support.daemons import START_GUARD_SECONDS, daemon
from support.readings import FULL, PLAN
from support.simulated import SimulatedLoop, run_simulated

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.errors import Reason
from exporter.metrics.families import READINGS, ProbeMetrics, metrics_table
from exporter.plan import ModelKey
from exporter.probing.schedule import Schedule
from exporter.reading import SkipReason
from exporter.web.server import WebServer

parse: Callable[[str], Iterable[Metric]] = parse_openmetrics
PAIR = ModelKey("gpu-a", "llama3.1")
INTERVAL = PLAN.interval_seconds
AGE_LIMIT = 2 * INTERVAL + PLAN.timeout_seconds


class Line:
    """Schedule and metrics joined as the daemon joins them, in simulated time; `probe` is what a probe does."""

    def __init__(self, loop: SimulatedLoop, probe: Callable[[ProbeMetrics], Awaitable[None]]) -> None:
        self.registry = CollectorRegistry()
        self.metrics = ProbeMetrics(self.registry, monotonic=loop.time, collectors=())
        self.metrics.add_pair(PAIR, PLAN)

        async def run(_: ModelKey) -> None:
            await probe(self.metrics)

        self.schedule = Schedule(run, self.metrics.skipped, max_concurrent_probes=4)
        self.schedule.start()
        self.schedule.add(PAIR, INTERVAL, 10)

    def told(self) -> dict[str, float]:
        """Return what is told now: the sum of each of this program's metrics over its samples."""
        sums: dict[str, float] = {}
        for metric in self.registry.collect():
            for sample in metric.samples:
                name = sample.name.removeprefix("ollama_probe_")
                sums[name] = sums.get(name, 0) + sample.value
        return sums

    @property
    def fresh(self) -> bool:
        """Whether any reading is told; all are, or none."""
        names = {family.name.removeprefix("ollama_probe_") for family in READINGS}
        shown = names & self.told().keys()
        assert not shown or len(shown) > 15
        return bool(shown)


def succeed(metrics: ProbeMetrics) -> None:
    """End well."""
    metrics.succeeded(PAIR, FULL, 3.0)


def simulate(probes: Iterable[Callable[[ProbeMetrics], Awaitable[None] | None]], story: Any) -> None:
    """Run a story about a line whose probes end one after another as told, the last for ever after."""
    ends = list(probes)

    async def probe(metrics: ProbeMetrics) -> None:
        end = ends.pop(0) if len(ends) > 1 else ends[0]
        await asyncio.sleep(5)
        waiting = end(metrics)
        if waiting is not None:
            await waiting

    async def work(loop: SimulatedLoop) -> None:
        line = Line(loop, probe)
        await story(line)
        await line.schedule.stop()

    run_simulated(work)


def test_before_the_first_run_the_pair_is_known_and_nothing_is_measured() -> None:
    """Counters at 0 and the configuration from the first scrape on; verdict, times and readings come with the run."""

    async def story(line: Line) -> None:
        told = line.told()
        assert (told["runs_total"], told["failures_total"], told["skipped_total"]) == (0, 0, 0)
        assert told["interval_seconds"] == INTERVAL
        assert not {"success", "last_run_timestamp_seconds", "last_success_timestamp_seconds"} & told.keys()
        assert not line.fresh
        await asyncio.sleep(14)
        assert not line.fresh
        await asyncio.sleep(2)
        assert line.fresh
        assert line.told()["success"] == 1

    simulate([succeed], story)


def test_a_stuck_schedule_does_not_look_live() -> None:
    """A probe that never ends leaves the last reading, until it is too old; the marks that pass are counted."""

    async def stuck() -> None:
        await asyncio.Event().wait()

    async def story(line: Line) -> None:
        await asyncio.sleep(15 + AGE_LIMIT - 1)
        assert line.fresh
        await asyncio.sleep(2)
        assert not line.fresh
        told = line.told()
        assert (told["runs_total"], told["success"]) == (1, 1)
        await asyncio.sleep(10 * INTERVAL)
        assert not line.fresh
        assert line.told()["skipped_total"] >= 10

    simulate([succeed, lambda _: stuck()], story)


def test_skips_keep_a_reading_until_it_is_too_old() -> None:
    """Probes that find the model unloaded withdraw nothing and freshen nothing, and say that they looked."""

    async def story(line: Line) -> None:
        await asyncio.sleep(15 + INTERVAL + 1)
        assert line.fresh
        first = line.told()
        assert (first["skipped_total"], first["runs_total"]) == (1, 1)
        assert first["last_run_timestamp_seconds"] > first["last_success_timestamp_seconds"]
        await asyncio.sleep(AGE_LIMIT - INTERVAL - 2)
        assert line.fresh
        await asyncio.sleep(2)
        assert not line.fresh
        assert line.told()["success"] == 1

    simulate([succeed, lambda metrics: metrics.skipped(PAIR, SkipReason.UNLOADED)], story)


def test_a_failure_withdraws_at_once_and_the_next_good_probe_brings_back() -> None:
    """A dead server does not look fast for a moment, and is back by itself."""

    async def story(line: Line) -> None:
        await asyncio.sleep(15 + INTERVAL - 1)
        assert line.fresh
        await asyncio.sleep(2)
        assert not line.fresh
        assert line.told()["success"] == 0
        await asyncio.sleep(INTERVAL)
        assert line.fresh

    simulate([succeed, lambda metrics: metrics.failed(PAIR, Reason.CONNECT, 5.0), succeed], story)


def test_what_leaves_the_configuration_is_told_no_more() -> None:
    """In the middle of a probe too: its late end brings nothing back."""

    async def story(line: Line) -> None:
        await asyncio.sleep(10 + INTERVAL + 2)
        assert line.fresh
        await line.schedule.remove(PAIR)
        line.metrics.remove_pair(PAIR)
        succeed(line.metrics)
        names = {row.name.removeprefix("ollama_probe_") for row in metrics_table()} - {"build_info"}
        assert not names & line.told().keys()

    simulate([succeed], story)


@pytest.mark.parametrize("step", [-3600.0, 86400.0], ids=["back an hour", "forward a day"])
def test_a_clock_that_jumps_withdraws_nothing_and_revives_nothing(step: float) -> None:
    """Age is judged by the clock that never jumps, over the whole line."""

    async def work(loop: SimulatedLoop) -> None:
        ends = iter([succeed])

        async def probe(metrics: ProbeMetrics) -> None:
            end = next(ends, None)
            if end is None:
                await asyncio.Event().wait()
            else:
                end(metrics)

        line = Line(loop, probe)
        await asyncio.sleep(11)
        loop.step_wall_clock(step)
        await asyncio.sleep(60)
        assert line.fresh
        await asyncio.sleep(AGE_LIMIT)
        assert not line.fresh
        loop.step_wall_clock(-step)
        await asyncio.sleep(60)
        assert not line.fresh
        await line.schedule.stop()

    run_simulated(work)


class Broken(Collector):
    """A collector of somebody else's that fails after its first family."""

    def collect(self) -> Iterable[Metric]:
        """Fail."""
        yield Metric("somebody_elses", "Help.", "gauge")
        raise RuntimeError("no such device")


async def test_a_broken_collector_costs_its_own_series_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Every scrape is answered, whole but for that; the failure is counted each time and logged once."""
    metrics = ProbeMetrics(CollectorRegistry(), collectors=[Broken()])
    metrics.add_pair(PAIR, PLAN)
    metrics.succeeded(PAIR, FULL, 3.0)
    server = WebServer(metrics, addresses=[("127.0.0.1", 0)], ready=lambda: True)
    [url] = await server.start()
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answers = [await client.get("/metrics", headers={"accept": "application/openmetrics-text"}) for _ in range(3)]
        page = await client.get("/")
    await server.stop()

    assert [answer.status_code for answer in (*answers, page)] == [200] * 4
    families = {family.name: family for family in parse(answers[-1].text)}
    assert families["ollama_probe_decode_tokens_per_second"].samples[0].value == FULL.decode_tokens_per_second
    assert "somebody_elses" not in families
    failures = families["ollama_probe_collector_failures"].samples
    assert [(sample.labels, sample.value) for sample in failures] == [({"collector": "Broken"}, 2)]  # before this one
    assert ["no such device" in str(record.exc_info) for record in caplog.records] == [True]


TARGETS, MODELS = 200, 5
RUNS = re.compile(r'^ollama_probe_runs_total{target="([^"]*)",model="([^"]*)"} (.*)$', re.MULTILINE)
"""Parsing each scrape whole, of forty thousand series, would keep the server in this process from answering."""


async def test_a_large_installation_starts_staggered_and_every_scrape_is_whole(tmp_path: Path) -> None:
    """Each of 200 targets is probed first with one of its models; all 1,000 pairs are in every scrape from the first.

    The others follow over the interval: none of them is probed in the first seconds.
    """
    models = [ScriptedModel(f"m{number}", tokens_per_second=10_000, load_seconds=0) for number in range(MODELS)]
    pairs = {(f"gpu-{target}", f"m{model}") for target in range(TARGETS) for model in range(MODELS)}
    runs: dict[tuple[str, str], float] = {}
    scrapes = 0
    async with OllamaServer(ScriptedEngine(models, num_parallel=TARGETS)) as server:
        targets = [
            {"name": f"gpu-{number}", "url": server.url, "models": [model.name for model in models]}
            for number in range(TARGETS)
        ]
        probe = {"num_predict": 16, "when_unloaded": "load"}
        async with (
            daemon(tmp_path, targets, interval="1h", probe=probe, max_concurrent_probes=TARGETS) as running,
            httpx.AsyncClient(base_url=running.url, trust_env=False, timeout=30) as client,
            asyncio.timeout(START_GUARD_SECONDS),
        ):
            while sum(runs.values()) < TARGETS / 4:
                answer = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
                assert answer.status_code == 200
                assert answer.text.endswith("# EOF\n")
                told = RUNS.findall(answer.text)
                runs = {(target, model): float(count) for target, model, count in told}
                assert len(told) == len(runs)
                assert runs.keys() == pairs
                scrapes += 1
                await asyncio.sleep(0.2)
            assert await running.end() == 0

    assert scrapes > 3
    assert {model for (_, model), count in runs.items() if count} == {"m0"}
    assert max(runs.values()) == 1
    assert not [line for line in running.lines if "level=error" in line]


async def test_a_targets_models_are_first_probed_one_after_another_over_the_interval(tmp_path: Path) -> None:
    """In the first seconds the first model of each target is probed, and nothing else, though nothing is in the way."""
    models = [ScriptedModel(f"m{number}", tokens_per_second=10_000, load_seconds=0) for number in range(3)]
    async with OllamaServer(ScriptedEngine(models, num_parallel=4)) as server:
        names = [model.name for model in models]
        targets = [{"name": name, "url": server.url, "models": names} for name in ("gpu-a", "gpu-b")]
        probe = {"num_predict": 16, "when_unloaded": "load"}
        async with daemon(tmp_path, targets, interval="1h", probe=probe) as running:
            await running.wait_until("runs_total", 2, model="m0")
            await asyncio.sleep(2)
            assert await running.value("runs_total") == 2
            assert await running.end() == 0
