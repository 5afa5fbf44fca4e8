"""A target at work: which models it probes, what it tells of them, and what it says in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.probing import model_plan, target_plan, workload

from exporter.embedded.faults import Fault, FaultKind
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.errors import Reason
from exporter.gpu.none import NoGpuMonitor
from exporter.metrics.families import ProbeMetrics
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.target import Target, discover
from exporter.reading import SkipReason

FAST = ScriptedModel(tokens_per_second=1000, load_seconds=0.01)
PAIR = ModelKey("t", "llama3.1")


@contextlib.asynccontextmanager
async def at_work(plan: TargetPlan) -> AsyncIterator[tuple[Target, ProbeMetrics]]:
    """Yield a started target whose models are taken up as soon as they are known."""
    metrics = ProbeMetrics(CollectorRegistry())

    async def follow(target: Target, models: dict[ModelKey, ModelPlan]) -> None:
        await asyncio.sleep(0)
        for pair in target.models.keys() - models.keys():
            metrics.remove_pair(pair)
        for pair, model in models.items():
            metrics.add_pair(pair, model)
        target.models = models

    target = Target(plan, NoGpuMonitor(), metrics, follow)
    await target.start()
    try:
        yield target, metrics
    finally:
        await target.stop_checking()
        await target.close()


def count(metrics: ProbeMetrics, name: str, **labels: str) -> float:
    """Return the value of one counter of the pair."""
    for family in metrics.collect():
        for sample in family.samples:
            if sample.name == f"ollama_probe_{name}" and {"target": "t", **labels}.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"no sample of {name} with {labels}")


async def test_each_outcome_is_counted_once() -> None:
    """Good, failed, skipped and cancelled: runs are successes and failures and cancelled, always."""
    engine = ScriptedEngine([FAST])
    async with OllamaServer(engine) as server, at_work(target_plan(server.url, model_plan())) as (target, metrics):
        await target.probe(PAIR)
        engine.inject(fault := Fault(FaultKind.SERVER_BUSY))
        await target.probe(PAIR)
        fault.end()
        await engine.expire(engine.models()[0])
        target.models = {PAIR: model_plan(when_unloaded="skip")}
        await target.probe(PAIR)
        target.models = {PAIR: model_plan(workload=workload(num_predict=512))}
        engine.inject(Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=5))
        task = asyncio.create_task(target.probe(PAIR))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert count(metrics, "runs_total") == 3
        assert count(metrics, "successes_total") == 1
        assert count(metrics, "failures_total", reason=Reason.BUSY) == 1
        assert count(metrics, "skipped_total", reason=SkipReason.UNLOADED) == 1
        assert count(metrics, "cancelled_total") == 1


async def test_a_failure_withdraws_the_reading_and_the_next_good_probe_brings_it_back() -> None:
    """A dead server must not look fast; one line of log says target, model, reason and remedy."""
    engine = ScriptedEngine([FAST])
    async with OllamaServer(engine) as server, at_work(target_plan(server.url, model_plan())) as (target, metrics):
        await target.probe(PAIR)
        assert metrics.rows()[0].reading is not None
        engine.inject(fault := Fault(FaultKind.CUT, after_tokens=3))
        await target.probe(PAIR)
        assert metrics.rows()[0].reading is None
        fault.end()
        await target.probe(PAIR)
        assert metrics.rows()[0].reading is not None


async def test_a_failure_is_one_log_line_with_its_remedy(caplog: pytest.LogCaptureFixture) -> None:
    """Target, model, reason, what was seen, and what to do; no traceback where the reason is known."""
    async with (
        OllamaServer(ScriptedEngine([FAST])) as server,
        at_work(target_plan(server.url, model_plan("nope"))) as (target, _),
    ):
        await target.probe(ModelKey("t", "nope"))
    records = [record for record in caplog.records if record.getMessage() == "probe failed"]

    assert len(records) == 1
    fields: dict[str, Any] = records[0].__dict__["fields"]
    assert (fields["target"], fields["model"], fields["reason"]) == ("t", "nope", Reason.MODEL_MISSING)
    assert "ollama pull" in fields["remedy"]
    assert not records[0].exc_info


MODELS = [
    ScriptedModel("llama3.1"),
    ScriptedModel("qwen3:8b"),
    ScriptedModel("nomic-embed-text", capabilities=("embedding",)),
    ScriptedModel("gpt-oss:120b-cloud", remote_host="https://ollama.com"),
]


async def test_installed_models_that_can_generate_are_found_and_never_cloud_ones() -> None:
    """An embedding model and one that runs elsewhere are left out; names are canonical, without `:latest`."""
    async with OllamaServer(ScriptedEngine(MODELS)) as server:
        plan = target_plan(server.url, models="installed")
        async with OllamaClient(plan) as asked:
            found = await discover(plan, asked)

    assert list(found) == [ModelKey("t", "llama3.1"), ModelKey("t", "qwen3:8b")]
    assert found[ModelKey("t", "qwen3:8b")].model == "qwen3:8b"


async def test_loaded_models_are_followed_and_never_loaded_by_us() -> None:
    """Only what is loaded now; and a model that was unloaded meanwhile is skipped, not loaded again."""
    engine = ScriptedEngine(MODELS)
    async with OllamaServer(engine) as server:
        plan = target_plan(server.url, models="loaded")
        async with OllamaClient(plan) as asked:
            assert await discover(plan, asked) == {}
            await engine.other_client("qwen3:8b", tokens=1)
            found = await discover(plan, asked)

    assert [(pair.model, model.when_unloaded) for pair, model in found.items()] == [("qwen3:8b", "skip")]


async def test_a_model_that_appears_or_goes_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    """A new model is taken up at the next check, one that was removed loses its series."""
    caplog.set_level(logging.DEBUG)
    engine = ScriptedEngine([FAST])
    async with (
        OllamaServer(engine) as server,
        at_work(target_plan(server.url, models="installed")) as (target, metrics),
    ):
        await until(lambda: list(target.models) == [PAIR])
        engine.installed = [*engine.installed, ScriptedModel("new")]
        await target.check()
        assert list(target.models) == [PAIR, ModelKey("t", "new")]
        engine.installed = [ScriptedModel("new")]
        await target.check()
        assert [row.pair.model for row in metrics.rows()] == ["new"]


async def test_a_server_that_is_away_keeps_its_pairs() -> None:
    """A dead server must show as failing, not as having no models."""
    server = OllamaServer(ScriptedEngine([FAST]))
    url = await server.start()
    async with at_work(target_plan(url, models="installed")) as (target, metrics):
        await until(lambda: list(target.models) == [PAIR])
        await server.stop()
        await target.check()
        await target.probe(PAIR)

        assert list(target.models) == [PAIR]
        assert count(metrics, "up") == 0
        assert count(metrics, "failures_total", reason=Reason.CONNECT) == 1


async def until(condition: Any) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
