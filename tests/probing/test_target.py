"""A target while the daemon runs: its models, the results of its probes, and what it logs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, serving, target_plan, until, workload

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import Reason, SkipReason
from exporter.gpu.monitor import GpuMonitor
from exporter.plan import ModelKey, TargetPlan
from exporter.probing.target import ModelChanges, Target
from exporter.state.model_state import ModelState
from exporter.state.store import DiscoveryState, StateStore

FAST = ScriptedModel(tokens_per_second=1000, load_seconds=0.01)
KEY = ModelKey("t", "llama3.1")


@contextlib.asynccontextmanager
async def started(plan: TargetPlan) -> AsyncIterator[tuple[Target, StateStore]]:
    """Yield a started target, and the store that receives its models and results."""
    store = StateStore()

    async def follow(_: Target, changes: ModelChanges) -> None:
        await asyncio.sleep(0)
        for key in changes.removed:
            store.remove_model(key)
        for key, model in (*changes.added.items(), *changes.changed.items()):
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
    """Readings of a server that no longer responds are not exposed."""
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

    async def changed(target: Target, now: ModelChanges) -> None:
        assert now.added.keys() <= target.models.keys()
        changes.append(([key.model for key in now.added], [key.model for key in now.removed]))

    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server:
        target = Target(target_plan(server.url, models="installed"), GpuMonitor(), StateStore(), changed)
        await target.check()
        await target.check()
        engine.installed = [ScriptedModel("new")]
        await target.check()
        await target.close()

    assert changes == [(["llama3.1"], []), (["new"], ["llama3.1"])]


async def test_a_list_that_fails_keeps_the_models_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """With `up` at 1 nothing else would show that the server's models are unknown."""
    caplog.set_level("INFO")
    engine = FaultyEngine([FAST])
    async with (
        OllamaServer(engine) as server,
        started(target_plan(server.url, models="installed")) as (target, store),
    ):
        await until(lambda: list(target.models) == [KEY])
        assert store.discoveries() == {"t": DiscoveryState(success=True, ignored_models=0)}
        for path in ("/api/tags", "/api/ps"):
            await target.apply(target_plan(server.url, models="loaded" if path == "/api/ps" else "installed"))
            await target.check()
            kept = list(target.models)
            engine.inject(fault := Fault(FaultKind.FORBIDDEN, path=path))
            await target.check()
            await target.check()
            assert store.discoveries() == {"t": DiscoveryState(success=False, ignored_models=0)}
            assert list(target.models) == kept
            assert store.server_versions()["t"] is not None
            fault.end()
            await target.check()
            assert store.discoveries()["t"].success

    assert [logged["reason"] for logged in fields(caplog, "discovery failed, keeping the models known before")] == [
        Reason.DENIED
    ] * 2
    assert len(fields(caplog, "discovery succeeds again")) == 2


async def test_a_known_model_that_cannot_be_shown_is_kept() -> None:
    """It was described before, and its counters would be lost."""
    known = {"digest": "1"}

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/api/show":
            return web.json_response({"capabilities": ["completion"]}, status=200 if known["digest"] == "1" else 500)
        return web.json_response({"models": [{"name": "m", **known}], "version": "0.24.0"})

    async with serving(answer) as url, started(target_plan(url, models="installed")) as (target, store):
        await until(lambda: list(target.models) == [ModelKey("t", "m")])
        known["digest"] = "2"
        await target.check()

        assert list(target.models) == [ModelKey("t", "m")]
        assert store.discoveries()["t"].success


async def test_a_new_plan_applies_from_the_next_probe_on() -> None:
    """The probe that runs ends under its own plan, and the client stays; one of another workload is discarded."""
    engine = FaultyEngine([FAST])
    async with OllamaServer(engine) as server, started(target_plan(server.url, model_plan())) as (target, store):
        changes: list[dict[str, Any]] = [{"timeout_seconds": 7}, {"workload": workload(num_predict=40)}]
        for number, change in enumerate(changes, 1):
            server.requests.clear()
            task = asyncio.create_task(target.probe(KEY))
            await until(lambda: any(request.path == "/api/generate" for request in server.requests))
            client = target._client
            await target.apply(target_plan(server.url, model_plan(**change)))
            await task
            assert target._client is client
            assert state(store).runs == number
            assert state(store).plan == model_plan(**change)
        assert (state(store).successes, state(store).cancelled) == (1, 1)
        assert store.statuses()[0].reading is None

        await target.probe(KEY)
        reading = store.statuses()[0].reading
        assert reading is not None
        assert reading.figures.output_tokens == 40


async def test_another_connection_is_used_from_then_on() -> None:
    """The counters stay."""
    async with OllamaServer(FaultyEngine([FAST])) as old, OllamaServer(FaultyEngine([FAST])) as new:
        async with started(target_plan(old.url, model_plan())) as (target, store):
            await target.probe(KEY)
            await target.apply(target_plan(new.url, model_plan()))
            old.requests.clear()
            await target.probe(KEY)

            assert state(store).successes == 2
        assert not old.requests


async def test_models_are_kept_when_discovery_replaces_the_list_and_back() -> None:
    """Their plans change at once, and discovery is exposed only while it is configured."""
    listed_model = model_plan(expected_decode_tokens_per_second=50)
    async with (
        OllamaServer(FaultyEngine([FAST])) as server,
        started(target_plan(server.url, listed_model)) as (target, store),
    ):
        await target.probe(KEY)
        await target.apply(target_plan(server.url, models="installed"))
        assert target.models[KEY].expected_decode_tokens_per_second is None
        await until(lambda: "t" in store.discoveries())
        await target.apply(target_plan(server.url, listed_model))

        assert store.discoveries() == {}
        assert (state(store).successes, state(store).plan) == (1, listed_model)


async def test_a_probe_skipped_as_occupied_is_counted_and_dated() -> None:
    """It is not a run, but it shows that the server was reached."""
    engine = FaultyEngine([FAST, ScriptedModel("other")])
    plan = model_plan(when_unloaded="borrow")
    async with OllamaServer(engine) as server, started(target_plan(server.url, plan)) as (target, store):
        await engine.other_client("other", tokens=1)
        await target.probe(KEY)

        assert (state(store).runs, state(store).skipped[SkipReason.OCCUPIED]) == (0, 1)
        assert state(store).last_run is not None


async def test_an_unreachable_server_keeps_its_models() -> None:
    """Its probes then fail, instead of its models disappearing."""
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
