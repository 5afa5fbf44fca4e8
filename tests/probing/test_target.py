"""A target while the daemon runs: its models, the results of its probes, and what it logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, target_plan, until

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import Reason, SkipReason
from exporter.gpu.monitor import GpuMonitor
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.target import Target
from exporter.state.model_state import ModelState
from exporter.state.store import StateStore

FAST = ScriptedModel(tokens_per_second=1000, load_seconds=0.01)
KEY = ModelKey("t", "llama3.1")


@contextlib.asynccontextmanager
async def started(plan: TargetPlan) -> AsyncIterator[tuple[Target, StateStore]]:
    """Yield a started target, and the store that receives its models and results."""
    store = StateStore()

    async def follow(_: Target, added: Mapping[ModelKey, ModelPlan], removed: Sequence[ModelKey]) -> None:
        await asyncio.sleep(0)
        for key in removed:
            store.remove_model(key)
        for key, model in added.items():
            store.add_model(key, model)

    target = Target(plan, GpuMonitor(), store, follow)
    await target.start()
    try:
        yield target, store
    finally:
        await target.stop_checking()
        await target.close()


def state(store: StateStore) -> ModelState:
    """Return the state of the only model."""
    [state] = store.models()
    return state


def fields(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    """Return the fields of the log records with this message."""
    return [record.__dict__["fields"] for record in caplog.records if record.getMessage() == message]


async def test_each_result_is_counted_once() -> None:
    """Runs are successes, failures and cancelled probes."""
    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server, started(target_plan(server.url, model_plan())) as (target, store):
        await target.probe(KEY)
        engine.inject(fault := Fault(FaultKind.SERVER_BUSY))
        await target.probe(KEY)
        fault.end()
        engine.inject(Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=5))
        server.requests.clear()
        task = asyncio.create_task(target.probe(KEY))
        await until(lambda: any(request.path == "/api/generate" for request in server.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        counted = state(store)
    assert (counted.runs, counted.successes, counted.cancelled) == (3, 1, 1)
    assert {reason: count for reason, count in counted.failures.items() if count} == {Reason.BUSY: 1}


async def test_a_skipped_probe_is_counted_by_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """It is not a run."""
    caplog.set_level("INFO")
    plan = model_plan(when_unloaded="skip")
    async with OllamaServer(FaultyEngine([FAST])) as server, started(target_plan(server.url, plan)) as (target, store):
        await target.probe(KEY)

        assert (state(store).runs, state(store).skipped[SkipReason.UNLOADED]) == (0, 1)
    assert fields(caplog, "probe skipped") == [{**KEY._asdict(), "reason": SkipReason.UNLOADED}]


async def test_a_failure_withdraws_the_reading_and_the_next_success_restores_it() -> None:
    """A dead server must not look fast."""
    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server, started(target_plan(server.url, model_plan())) as (target, store):
        await target.probe(KEY)
        assert store.statuses()[0].reading is not None
        engine.inject(fault := Fault(FaultKind.CUT, after_tokens=3))
        await target.probe(KEY)
        assert store.statuses()[0].reading is None
        fault.end()
        await target.probe(KEY)
        assert store.statuses()[0].reading is not None


async def test_a_failure_is_one_log_line_with_its_remedy(caplog: pytest.LogCaptureFixture) -> None:
    """The store and the log have the same specific remedy; a known reason has no traceback."""
    plan = target_plan("", model_plan("nope"))
    async with (
        OllamaServer(FaultyEngine([FAST])) as server,
        started(target_plan(server.url, *plan.models)) as (target, store),
    ):
        await target.probe(ModelKey("t", "nope"))

        failure = state(store).failure
    assert failure is not None
    assert failure.reason is Reason.MODEL_MISSING
    assert "llama3.1:latest" in failure.remedy
    assert fields(caplog, "probe failed") == [
        {
            "target": "t",
            "model": "nope",
            "reason": failure.reason,
            "detail": failure.detail,
            "remedy": failure.remedy,
        }
    ]


async def test_an_internal_error_is_logged_with_its_redacted_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """It is a bug of this program, whose report needs the traceback."""

    class Broken(GpuMonitor):
        async def watch(self, *_: object) -> Any:
            raise RuntimeError("odd, said tok-51ns3cr3t")

    async with OllamaServer(FaultyEngine([FAST])) as server:
        plan = target_plan(server.url, model_plan(), headers={"X-Key": "tok-51ns3cr3t"})
        store = StateStore()
        target = Target(plan, Broken(), store, lambda *_: asyncio.sleep(0))
        await target.start()
        await target.probe(KEY)
        await target.stop_checking()
        await target.close()

    [logged] = fields(caplog, "probe failed")
    assert logged["reason"] is Reason.INTERNAL
    assert "RuntimeError: odd" in logged["traceback"]
    assert "51ns3cr3t" not in str(logged)


async def test_an_unhandled_error_in_a_check_does_not_end_the_checks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged with its traceback, and the server is checked again."""
    monkeypatch.setattr("exporter.probing.target.CHECK_SECONDS", 0)

    async def broken(*_: object) -> None:
        raise RuntimeError("odd")

    async with OllamaServer(FaultyEngine([FAST])) as server:
        target = Target(target_plan(server.url, models="installed"), GpuMonitor(), StateStore(), broken)
        await target.start()
        await until(lambda: len(fields(caplog, "unhandled error in check")) == 1)
        server.requests.clear()
        await until(lambda: any(request.path == "/api/version" for request in server.requests))
        await target.stop_checking()
        await target.close()

    assert "RuntimeError: odd" in fields(caplog, "unhandled error in check")[0]["traceback"]


async def test_a_model_that_is_installed_or_removed_is_followed() -> None:
    """A new model is probed from the next check on; one that was removed loses its state."""
    engine = FaultyEngine([FAST])
    async with (
        OllamaServer(engine) as server,
        started(target_plan(server.url, models="installed")) as (target, store),
    ):
        await until(lambda: list(target.models) == [KEY])
        engine.installed = [*engine.installed, ScriptedModel("new")]
        await target.check()
        assert list(target.models) == [KEY, ModelKey("t", "new")]
        assert [state.key for state in store.models()] == [KEY, ModelKey("t", "new")]
        engine.installed = [ScriptedModel("new")]
        await target.check()
        assert list(target.models) == [ModelKey("t", "new")]
        assert [state.key for state in store.models()] == [ModelKey("t", "new")]


async def test_only_changes_are_reported() -> None:
    """Each call names what was added and what was removed, and there is none if nothing changed."""
    changes: list[tuple[list[str], list[str]]] = []

    async def changed(target: Target, added: Mapping[ModelKey, ModelPlan], removed: Sequence[ModelKey]) -> None:
        assert added.keys() <= target.models.keys()
        changes.append(([key.model for key in added], [key.model for key in removed]))

    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server:
        target = Target(target_plan(server.url, models="installed"), GpuMonitor(), StateStore(), changed)
        await target.check()
        await target.check()
        engine.installed = [ScriptedModel("new")]
        await target.check()
        await target.close()

    assert changes == [(["llama3.1"], []), (["new"], ["llama3.1"])]


async def test_a_server_that_is_away_keeps_its_models() -> None:
    """A dead server must show as failing, not as having no models."""
    server = OllamaServer(FaultyEngine([FAST]))
    url = await server.start()
    async with started(target_plan(url, models="installed")) as (target, store):
        await until(lambda: list(target.models) == [KEY])
        await server.stop()
        await target.check()
        await target.probe(KEY)

        assert list(target.models) == [KEY]
        assert store.server_versions() == {"t": None}
        assert state(store).failures[Reason.CONNECT] == 1
