"""One probe against a scripted server: what it measures, what it leaves alone, and the reason of each failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.probing import model_plan, probing, workload

from exporter.embedded.faults import Fault, FaultKind
from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.errors import ProbeError, Reason
from exporter.ollama.client import LoadedModel
from exporter.plan import ModelPlan
from exporter.probing.prober import Load, Prober, nobody_else_seen, others_ran
from exporter.reading import Reading, SkipReason, Stages

FAST = ScriptedModel(tokens_per_second=400, load_seconds=0.1)


@contextlib.asynccontextmanager
async def stage(
    *models: ScriptedModel, target: dict[str, Any] | None = None, **scheduling: Any
) -> AsyncIterator[tuple[Prober, ScriptedEngine, OllamaServer]]:
    """Yield a prober, its scripted engine, and the server between them."""
    engine = ScriptedEngine(models or (FAST,), **scheduling)
    async with OllamaServer(engine) as server, probing(server.url, **(target or {})) as prober:
        yield prober, engine, server


async def read(prober: Prober, plan: ModelPlan | None = None) -> Reading:
    """Probe and expect a reading."""
    outcome = await prober.probe(plan or model_plan())
    assert isinstance(outcome, Reading)
    return outcome


async def loaded_names(server: OllamaServer) -> list[str]:
    """Return the names of the models loaded now."""
    return [runner.model.full_name for runner in await server.engine.loaded()]


def generate_bodies(server: OllamaServer) -> list[Any]:
    """Return the bodies of the generate requests, oldest first."""
    return [request.body for request in server.requests if request.path == "/api/generate"]


async def test_the_scripted_words_and_tokens_are_exact() -> None:
    """Words are the reference program's count of the text; tokens are the server's."""
    async with stage() as (prober, _, _):
        reading = await read(prober, model_plan(workload=workload(num_predict=128)))

    text = FAST.answer(128)
    assert (reading.words, reading.output_tokens, reading.text) == (len(text.split()), 128, text)


async def test_a_reading_says_all_that_the_server_said() -> None:
    """Model facts, share on the GPU, stages, load time and the queue mark come with the figures."""
    model = replace(FAST, vram_share=0.5)
    async with stage(model) as (prober, _, _):
        reading = await read(prober)
        again = await read(prober)

    assert reading.model.model_name == "llama3.1:latest"
    assert reading.model.digest == model.sha256
    assert reading.model.context_length == 4096
    assert reading.model_gpu_ratio == pytest.approx(0.5)
    assert reading.model_load_seconds is not None
    assert reading.model_load_seconds >= 0.1
    assert again.model_load_seconds is None
    assert again.contended["queue"] is False
    assert reading.stages is not None


async def test_a_model_loaded_with_its_own_context_is_not_reloaded() -> None:
    """The probe asks with the context length that `/api/ps` shows, and leaves the timer of the user alone."""
    async with stage() as (prober, engine, server):
        await engine.other_client("llama3.1", tokens=1, num_ctx=1234, keep_alive="47m")
        before = (await server.engine.loaded())[0]
        reading = await read(prober, model_plan(when_unloaded="skip"))
        after = (await server.engine.loaded())[0]

    assert reading.model.context_length == 1234
    assert after is before
    body = generate_bodies(server)[-1]
    assert body["options"]["num_ctx"] == 1234
    assert "keep_alive" not in body


async def test_skip_never_loads() -> None:
    """`skip` measures nothing of an unloaded model and asks for nothing."""
    async with stage() as (prober, _, server):
        outcome = await prober.probe(model_plan(when_unloaded="skip"))

        assert await loaded_names(server) == []
    assert outcome is SkipReason.UNLOADED
    assert generate_bodies(server) == []


async def test_load_leaves_the_model_loaded() -> None:
    """`load` loads whatever is there and does not unload."""
    async with stage() as (prober, _, server):
        await read(prober, model_plan(when_unloaded="load"))

        assert await loaded_names(server) == ["llama3.1:latest"]


async def test_borrow_gives_back_what_it_loaded() -> None:
    """With nobody else about, a borrowed model is unloaded after the reading."""
    async with stage() as (prober, _, server):
        await read(prober, model_plan(when_unloaded="borrow"))
        await asyncio.sleep(0.05)

        assert await loaded_names(server) == []
    assert generate_bodies(server)[-1] == {"model": "llama3.1", "stream": False, "keep_alive": 0}


async def test_borrow_does_not_evict_another_model() -> None:
    """While another model is loaded, loading ours might evict it: the probe is skipped as occupied."""
    async with stage(FAST, ScriptedModel("other")) as (prober, engine, server):
        await engine.other_client("other", tokens=1)
        outcome = await prober.probe(model_plan(when_unloaded="borrow"))

        assert await loaded_names(server) == ["other:latest"]
    assert outcome is SkipReason.OCCUPIED


@pytest.mark.parametrize("after_seconds", [0.25, 0.05])
async def test_borrow_keeps_a_model_that_a_user_took_up(after_seconds: float) -> None:
    """A user who waits in the queue at our end, or who got their turn before ours, keeps the model."""
    slow = ScriptedModel(tokens_per_second=100, load_seconds=0.15)
    async with stage(slow) as (prober, engine, server):
        user = engine.other_client("llama3.1", tokens=60, after_seconds=after_seconds, keep_alive="47m")
        await read(prober, model_plan(when_unloaded="borrow"))
        await user
        await asyncio.sleep(0.05)

        assert await loaded_names(server) == ["llama3.1:latest"]
    assert all(body.get("keep_alive") != 0 for body in generate_bodies(server))


def test_only_a_model_that_nobody_else_was_seen_using_is_given_back() -> None:
    """Each sign of somebody else is enough: a joined load, a moved timer, a queue, or no final chunk to compare."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    load = Load(seconds=0.5, keep_alive=timedelta(minutes=5))
    stages = Stages(queue_seconds=0.005, load_seconds=0, prefill_seconds=0.1, decode_seconds=1)
    model = LoadedModel(
        name="m", size_bytes=1, size_vram_bytes=1, context_length=1, expires_at=moment + timedelta(minutes=5)
    )

    assert nobody_else_seen(load, moment, stages, model)
    assert nobody_else_seen(load, moment + timedelta(milliseconds=49), stages, model)
    assert not nobody_else_seen(load, moment + timedelta(milliseconds=51), stages, model)
    assert not nobody_else_seen(load, moment - timedelta(milliseconds=51), stages, model)
    assert not nobody_else_seen(replace(load, seconds=0.007), moment, stages, model)
    assert not nobody_else_seen(replace(load, keep_alive=None), moment, stages, model)
    assert not nobody_else_seen(load, None, stages, model)
    assert not nobody_else_seen(load, moment, replace(stages, queue_seconds=0.55), model)
    assert not nobody_else_seen(load, moment, None, model)
    assert not nobody_else_seen(load, moment, stages, None)
    assert not nobody_else_seen(load, moment, stages, replace(model, expires_at=None))


def test_another_models_run_is_known_by_its_moved_timer_alone() -> None:
    """Unmoved tells nothing, since the timer moves at a request's end; no other model at all tells that none ran."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    other = LoadedModel(name="o", size_bytes=1, size_vram_bytes=1, context_length=1, expires_at=moment)
    moved = replace(other, expires_at=moment + timedelta(seconds=1))

    assert others_ran((), ()) is False
    assert others_ran((other,), (other,)) is None
    assert others_ran((other,), (moved,)) is True
    assert others_ran((), (other,)) is True
    assert others_ran((other,), ()) is None
    assert others_ran((other,), None) is None


async def test_a_held_slot_shows_as_queue_and_leaves_the_decode_rate_alone() -> None:
    """Elapsed holds the wait, the decode rate does not, and the reading is marked as contended by the queue."""
    async with stage() as (prober, engine, _):
        await read(prober)
        other_client = engine.other_client("llama3.1", seconds=0.6)
        await asyncio.sleep(0.05)
        reading = await read(prober)
        await other_client

    assert reading.contended["queue"] is True
    assert reading.stages is not None
    assert reading.stages.queue_seconds > 0.25
    assert reading.decode_tokens_per_second == pytest.approx(400, rel=0.3)


GOOD, CUT = "good", "truncated"
SCENES: list[tuple[Fault, str | Reason]] = [
    (Fault(FaultKind.SLOW, factor=0.5), GOOD),
    (Fault(FaultKind.CPU), CUT),
    (Fault(FaultKind.CPU_HIDDEN), CUT),
    (Fault(FaultKind.PARTIAL_OFFLOAD, factor=0.99), GOOD),
    (Fault(FaultKind.COLD), GOOD),
    (Fault(FaultKind.BUSY, seconds=0.3), GOOD),
    (Fault(FaultKind.LOAD_FOREVER), Reason.LOAD_TIMEOUT),
    (Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=20), Reason.STALLED),
    (Fault(FaultKind.CUT, after_tokens=20), Reason.PROTOCOL),
    (Fault(FaultKind.CUT), Reason.PROTOCOL),
    (Fault(FaultKind.HALF_CLOSED, after_tokens=20), Reason.PROTOCOL),
    (Fault(FaultKind.NO_DONE, after_tokens=20), CUT),
    (Fault(FaultKind.NO_DONE, after_tokens=10), Reason.PROTOCOL),
    (Fault(FaultKind.DONE_TWICE), GOOD),
    (Fault(FaultKind.JUNK_LINE, after_tokens=5), Reason.PROTOCOL),
    (Fault(FaultKind.ERROR_LINE, after_tokens=5), Reason.HTTP),
    (Fault(FaultKind.DEAD_MODEL, after_tokens=5, seconds=1), Reason.HTTP),
    (Fault(FaultKind.OUT_OF_MEMORY), Reason.OUT_OF_MEMORY),
    (Fault(FaultKind.OUT_OF_MEMORY, after_tokens=5), Reason.OUT_OF_MEMORY),
    (Fault(FaultKind.UNAUTHORIZED), Reason.DENIED),
    (Fault(FaultKind.FORBIDDEN), Reason.DENIED),
    (Fault(FaultKind.SERVER_BUSY), Reason.BUSY),
    (Fault(FaultKind.THINKING), GOOD),
    (Fault(FaultKind.EMBEDDING_ONLY), Reason.UNSUPPORTED),
    (Fault(FaultKind.TRICKLE, factor=0.05), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.LONG_LINE), Reason.PROTOCOL),
    (Fault(FaultKind.ENDLESS_HEADERS), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.ENDLESS_HEADERS, factor=0.0), Reason.PROTOCOL),
    (Fault(FaultKind.ZERO_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.NO_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.NEGATIVE_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.ABSURD_DURATIONS), Reason.PROTOCOL),
    (Fault(FaultKind.UNKNOWN_DONE_REASON), GOOD),
]


def names(faults: Iterable[tuple[Fault, str | Reason]]) -> list[str]:
    """Return a name for each fault."""
    return [f"{fault.kind}-{fault.after_tokens}-{end}" for fault, end in faults]


@pytest.mark.parametrize(("fault", "end"), SCENES, ids=names(SCENES))
async def test_every_scene_ends_as_its_reason_and_the_next_probe_is_good(fault: Fault, end: str | Reason) -> None:
    """Nothing hangs beyond its deadline, each failure has its own reason, and it is all over when the fault is."""
    played = replace(fault)
    plan = model_plan(timeout_seconds=2.6, load_timeout_seconds=1.0)
    async with stage() as (prober, engine, _):
        if fault.kind not in {FaultKind.LOAD_FOREVER, FaultKind.OUT_OF_MEMORY}:
            await read(prober, plan)
        engine.inject(played)
        if isinstance(end, Reason):
            with pytest.raises(ProbeError) as caught:
                await asyncio.wait_for(prober.probe(plan), 10)
            assert caught.value.reason is end
            assert caught.value.remedy
        else:
            reading = await asyncio.wait_for(read(prober, plan), 10)
            assert reading.truncated is (end == CUT)
        played.end()

        assert not (await read(prober, model_plan(timeout_seconds=20))).truncated


async def test_a_model_too_slow_for_the_deadline_is_slow_and_not_missing() -> None:
    """A stream still flowing at the deadline is a truncated reading by the client's clock."""
    async with stage(ScriptedModel(tokens_per_second=30)) as (prober, _, _):
        reading = await read(prober, model_plan(workload=workload(num_predict=500), timeout_seconds=1.2))

    assert reading.truncated
    assert reading.decode_tokens_per_second == pytest.approx(30, rel=0.2)
    assert (reading.output_tokens, reading.stages, reading.tokens_per_joule) == (None, None, None)
    assert "queue" not in reading.contended


async def test_too_slow_for_sixteen_chunks_is_a_timeout() -> None:
    """Fewer chunks than a reading needs, though flowing: the deadline is to blame, and the remedy says how."""
    async with stage(ScriptedModel(tokens_per_second=10)) as (prober, _, _):
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan(timeout_seconds=1.0))

    assert caught.value.reason is Reason.TIMEOUT


async def test_a_missing_model_is_told_with_what_is_installed() -> None:
    """The remedy names the models that are there."""
    async with stage(FAST, ScriptedModel("qwen3:8b")) as (prober, _, _):
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan("nope"))

    assert caught.value.reason is Reason.MODEL_MISSING
    assert "llama3.1:latest, qwen3:8b" in caught.value.remedy


async def test_a_server_that_is_not_there_is_told_with_its_address() -> None:
    """`connect` names the URL that was tried."""
    async with stage() as (_, _, server):
        url = server.url
    async with probing(url) as prober:
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan())

    assert caught.value.reason is Reason.CONNECT
    assert url in caught.value.detail


async def test_an_embedding_model_is_unsupported() -> None:
    """A model that cannot generate says so with its own reason, not as a broken server."""
    async with stage(ScriptedModel("nomic", capabilities=("embedding",))) as (prober, _, _):
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan("nomic"))

    assert caught.value.reason is Reason.UNSUPPORTED


async def test_a_secret_that_a_server_echoes_is_redacted(tmp_path: Any) -> None:
    """What the configuration holds in confidence is not in the error, whoever wrote it there."""
    token = tmp_path / "token"
    token.write_text("tok-51ns3cr3t\n")
    async with stage(target={"bearer_token_file": token, "headers": {"X-Key": "hdr-51ns3cr3t"}}) as (prober, engine, _):
        await read(prober)
        engine.inject(Fault(FaultKind.ERROR_LINE, text="no: Bearer tok-51ns3cr3t hdr-51ns3cr3t"))
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan())

    assert "51ns3cr3t" not in f"{caught.value} {caught.value.detail} {caught.value.remedy}"


async def test_a_cancelled_probe_leaves_no_connection() -> None:
    """Cancelled in the middle, the connection is closed and the borrowed model is left to its own timer."""
    async with stage() as (prober, _, server):
        task = asyncio.create_task(prober.probe(model_plan(when_unloaded="borrow", workload=workload(num_predict=500))))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)

        assert server.open_connections == 0
        assert await loaded_names(server) == ["llama3.1:latest"]
