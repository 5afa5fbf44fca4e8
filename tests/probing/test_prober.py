"""One probe of a scripted server: what it measures, what it does not touch, and the reason of each failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.faults import Fault, FaultKind
from support.probing import model_plan, probing, until, workload
from support.scripted import FAST, failure, read, scripted

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import Reason, SkipReason
from exporter.ollama.chain import ChunkRecorder


async def loaded_names(server: OllamaServer) -> list[str]:
    """Return the names of the models that are loaded now."""
    return [runner.model.full_name for runner in await server.engine.loaded()]


def generate_bodies(server: OllamaServer) -> list[Any]:
    """Return the bodies of the generate requests, oldest first."""
    return [request.body for request in server.requests if request.path == "/api/generate"]


async def test_words_and_tokens_are_exact() -> None:
    """Words are the reference program's count of the text; tokens are the server's."""
    async with scripted() as (prober, _, _):
        reading = await read(prober, model_plan(workload=workload(num_predict=128)))

    text = FAST.answer(128)
    assert (reading.figures.words, reading.figures.output_tokens, reading.text) == (len(text.split()), 128, text)


async def test_a_reading_has_what_the_server_reported() -> None:
    """Model facts, share on the GPU, stages, load time and contention by the queue are part of the reading."""
    model = replace(FAST, vram_share=0.5)
    async with scripted(model) as (prober, _, _):
        cold = await read(prober)
        warm = await read(prober)

    assert cold.installed.name == "llama3.1:latest"
    assert cold.installed.digest == model.sha256
    assert cold.loaded is not None
    assert cold.loaded.context_length == 4096
    assert cold.model_gpu_ratio == pytest.approx(0.5)
    assert cold.model_load_seconds is not None
    assert cold.model_load_seconds >= 0.1
    assert warm.model_load_seconds is None
    assert set(warm.contended) == {"queue", "model"}
    assert warm.figures.stages is not None


async def test_a_model_loaded_with_another_context_is_not_reloaded() -> None:
    """The probe sends the context length that `/api/ps` reports, and does not change the users' keep-alive."""
    async with scripted() as (prober, engine, server):
        await engine.other_client("llama3.1", tokens=1, num_ctx=1234, keep_alive="47m")
        before = (await server.engine.loaded())[0]
        reading = await read(prober, model_plan(when_unloaded="skip"))
        after = (await server.engine.loaded())[0]

    assert reading.loaded is not None
    assert reading.loaded.context_length == 1234
    assert after is before
    body = generate_bodies(server)[-1]
    assert body["options"]["num_ctx"] == 1234
    assert "keep_alive" not in body


async def test_skip_never_loads() -> None:
    """An unloaded model is skipped without a generate request."""
    async with scripted() as (prober, _, server):
        outcome = await prober.probe(model_plan(when_unloaded="skip"))

        assert await loaded_names(server) == []
    assert outcome is SkipReason.UNLOADED
    assert generate_bodies(server) == []


async def test_load_leaves_the_model_loaded() -> None:
    """`load` does not unload afterwards."""
    async with scripted() as (prober, _, server):
        await read(prober, model_plan(when_unloaded="load"))

        assert await loaded_names(server) == ["llama3.1:latest"]


async def test_borrow_unloads_what_it_loaded() -> None:
    """Without other clients, a borrowed model is unloaded after the reading."""
    async with scripted() as (prober, _, server):
        await read(prober, model_plan(when_unloaded="borrow"))
        await asyncio.sleep(0)

        assert await loaded_names(server) == []
    assert generate_bodies(server)[-1] == {"model": "llama3.1", "stream": False, "keep_alive": 0}


async def test_borrow_does_not_unload_what_was_loaded_before() -> None:
    """The model belongs to its users."""
    async with scripted() as (prober, engine, server):
        await engine.other_client("llama3.1", tokens=1)
        await read(prober, model_plan(when_unloaded="borrow"))

        assert await loaded_names(server) == ["llama3.1:latest"]


async def test_borrow_does_not_evict_another_model() -> None:
    """While another model is loaded, loading this one might evict it: the probe is skipped as occupied."""
    async with scripted(FAST, ScriptedModel("other")) as (prober, engine, server):
        await engine.other_client("other", tokens=1)
        outcome = await prober.probe(model_plan(when_unloaded="borrow"))

        assert await loaded_names(server) == ["other:latest"]
    assert outcome is SkipReason.OCCUPIED


async def test_borrow_keeps_a_model_that_another_client_waits_for() -> None:
    """A client that waits for its turn when the probe ends keeps the model."""
    async with scripted(replace(FAST, tokens_per_second=200)) as (prober, engine, server):
        chunks = ChunkRecorder()
        probe = asyncio.create_task(read(prober, model_plan(when_unloaded="borrow"), chunks))
        await until(lambda: bool(chunks.times))
        other_client = engine.other_client("llama3.1", keep_alive="47m")
        await probe

        assert await loaded_names(server) == ["llama3.1:latest"]
        assert all(body.get("keep_alive") != 0 for body in generate_bodies(server))
        other_client.cancel()


async def test_borrow_keeps_a_model_that_another_client_loads() -> None:
    """A client that loads the model at the same time, and has its turn first, keeps it."""
    async with scripted() as (prober, engine, server):
        other_client = engine.other_client("llama3.1", seconds=0.5, keep_alive="47m")
        await read(prober, model_plan(when_unloaded="borrow"))
        await other_client

        assert await loaded_names(server) == ["llama3.1:latest"]
    assert all(body.get("keep_alive") != 0 for body in generate_bodies(server))


async def test_a_wait_for_the_slot_is_queue_time_and_not_in_the_decode_rate() -> None:
    """Elapsed includes the wait, the decode rate does not, and the reading is contended by the queue."""
    async with scripted() as (prober, engine, server):
        await read(prober)
        requests = len(generate_bodies(server))
        other_client = engine.other_client("llama3.1")
        await asyncio.sleep(0)
        probe = asyncio.create_task(read(prober))
        await until(lambda: len(generate_bodies(server)) > requests)
        await asyncio.sleep(0.6)
        other_client.cancel()
        reading = await probe

    figures = reading.figures
    assert reading.contended["queue"] is True
    assert figures.stages is not None
    assert figures.stages.queue_seconds >= 0.5
    assert figures.elapsed_seconds >= figures.stages.queue_seconds + figures.stages.decode_seconds
    assert figures.decode_tokens_per_second == pytest.approx(32 / figures.stages.decode_seconds)


async def test_a_model_too_slow_for_the_timeout_is_slow_and_not_missing() -> None:
    """A stream that flows at the deadline is a truncated reading by the client's clock."""
    chunks = ChunkRecorder()
    async with scripted(ScriptedModel(tokens_per_second=30)) as (prober, _, _):
        plan = model_plan(workload=workload(num_predict=500), timeout_seconds=1.5)
        reading = await read(prober, plan, chunks)

    figures = reading.figures
    assert figures.truncated
    assert figures.decode_tokens_per_second == (len(chunks.times) - 1) / (chunks.times[-1] - chunks.times[0])
    assert (figures.output_tokens, figures.stages, reading.tokens_per_joule) == (None, None, None)
    assert "queue" not in reading.contended


async def test_too_slow_for_sixteen_chunks_is_a_timeout() -> None:
    """The answer flows, but has fewer chunks than a reading needs."""
    async with scripted(ScriptedModel(tokens_per_second=10)) as (prober, _, _):
        assert (await failure(prober, model_plan(timeout_seconds=1.0))).reason is Reason.TIMEOUT


@pytest.mark.parametrize("when_unloaded", ["load", "borrow"])
async def test_the_remedy_for_a_missing_model_names_the_installed_ones(when_unloaded: str) -> None:
    """The likely cause is a misspelt name."""
    async with scripted(FAST, ScriptedModel("qwen3:8b")) as (prober, _, _):
        error = await failure(prober, model_plan("nope", when_unloaded=when_unloaded))

    assert error.reason is Reason.MODEL_MISSING
    assert "llama3.1:latest, qwen3:8b" in error.remedy


async def test_a_server_that_is_not_there_is_named() -> None:
    """The detail of `connect` holds the URL that was tried."""
    async with scripted() as (_, _, server):
        url = server.url
    async with probing(url) as prober:
        error = await failure(prober)

    assert error.reason is Reason.CONNECT
    assert url in error.detail


async def test_an_embedding_model_is_unsupported() -> None:
    """It is not a fault of the server."""
    async with scripted(ScriptedModel("nomic", capabilities=("embedding",))) as (prober, _, _):
        assert (await failure(prober, model_plan("nomic"))).reason is Reason.UNSUPPORTED


async def test_a_secret_that_the_server_repeats_is_redacted(tmp_path: Path) -> None:
    """Neither the error nor its parts hold a token or a header's value."""
    token = tmp_path / "token"
    token.write_text("tok-51ns3cr3t\n")
    async with scripted(bearer_token_file=token, headers={"X-Key": "hdr-51ns3cr3t"}) as (prober, engine, _):
        await read(prober)
        engine.inject(Fault(FaultKind.ERROR_LINE, text="no: Bearer tok-51ns3cr3t hdr-51ns3cr3t"))
        error = await failure(prober)

    assert "no: Bearer" in error.detail
    assert "51ns3cr3t" not in f"{error} {error.detail} {error.remedy}"


@pytest.mark.parametrize("when_unloaded", ["borrow", "skip", "load"])
async def test_a_model_that_is_not_installed_is_missing_whatever_else_is_loaded(when_unloaded: Any) -> None:
    """It would never be probed, so it fails instead of being skipped. Nothing is sent to the loaded model's runner."""
    async with scripted(FAST, ScriptedModel("other")) as (prober, engine, server):
        await engine.other_client("other", tokens=1)
        server.requests.clear()
        error = await failure(prober, model_plan("llama3.2", when_unloaded=when_unloaded))

    assert error.reason is Reason.MODEL_MISSING
    assert "llama3.1:latest" in error.remedy
    assert [request.path for request in server.requests] == ["/api/version", "/api/ps", "/api/tags"]


@pytest.mark.parametrize("when_unloaded", ["borrow", "skip", "load"])
async def test_a_cloud_model_is_unsupported(when_unloaded: Any) -> None:
    """It runs on another machine, so it is neither skipped nor sent a question."""
    cloud = ScriptedModel("gpt-oss:120b-cloud", remote_host="https://ollama.com")
    async with scripted(FAST, cloud) as (prober, engine, server):
        await engine.other_client("llama3.1", tokens=1)
        server.requests.clear()
        error = await failure(prober, model_plan("gpt-oss:120b-cloud", when_unloaded=when_unloaded))

    assert error.reason is Reason.UNSUPPORTED
    assert "cloud" in error.detail
    assert generate_bodies(server) == []


async def test_the_requests_of_a_probe() -> None:
    """What is known of the server is requested before anything is loaded, and once."""
    async with scripted() as (prober, _, server):
        await read(prober, model_plan(when_unloaded="borrow"))
        cold = [request.path.removeprefix("/api/") for request in server.requests]
        await read(prober, model_plan(when_unloaded="load"))
        server.requests.clear()
        await read(prober, model_plan(when_unloaded="skip"))
        warm = [request.path.removeprefix("/api/") for request in server.requests]

    assert cold == ["version", "ps", "tags", "generate", "ps", "generate", "ps", "generate"]
    assert warm == ["version", "ps", "tags", "generate", "ps"]


async def test_a_secret_among_the_installed_models_is_redacted() -> None:
    """Their names are text of the server, and stand in the remedy."""
    models = (FAST, ScriptedModel("hdr-51ns3cr3t"))
    async with scripted(*models, headers={"X-Key": "hdr-51ns3cr3t"}) as (prober, _, _):
        error = await failure(prober, model_plan("nope"))

    assert "llama3.1:latest" in error.remedy
    assert "51ns3cr3t" not in error.remedy


async def test_a_reading_is_kept_if_the_server_does_not_answer_afterwards() -> None:
    """Whether another model ran is then unknown, and a borrowed model is left to its keep-alive."""
    chunks = ChunkRecorder()
    async with scripted() as (prober, engine, server):
        probe = asyncio.create_task(read(prober, model_plan(when_unloaded="borrow"), chunks))
        await until(lambda: bool(chunks.times))
        engine.inject(Fault(FaultKind.SERVER_BUSY, path="/api/ps"))
        reading = await probe

        assert await loaded_names(server) == ["llama3.1:latest"]
    assert "model" not in reading.contended


async def test_a_cancelled_probe_closes_its_connection() -> None:
    """The borrowed model is left to its keep-alive."""
    chunks = ChunkRecorder()
    async with scripted() as (prober, _, server):
        plan = model_plan(when_unloaded="borrow", workload=workload(num_predict=500))
        task = asyncio.create_task(prober.probe(plan, chunks=chunks))
        await until(lambda: bool(chunks.times))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await until(lambda: server.open_connections == 0)
        assert await loaded_names(server) == ["llama3.1:latest"]
