"""One probe of a scripted server: what it measures, what it does not touch, and the reason of each failure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.faults import Fault, FaultKind
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, probing, until, workload

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import ProbeError, Reason, SkipReason
from exporter.gpu.monitor import GpuMonitor
from exporter.ollama.chain import ChunkRecorder
from exporter.ollama.entries import ModelFile
from exporter.plan import ModelPlan
from exporter.probing.prober import Prober, bandwidth_utilization_ratio
from exporter.reading import Figures, GpuObservation, InstalledModel, LoadedModel, Reading

FAST = ScriptedModel(tokens_per_second=400, load_seconds=0.1)


@contextlib.asynccontextmanager
async def scripted(
    *models: ScriptedModel, target: dict[str, Any] | None = None, **scheduling: Any
) -> AsyncIterator[tuple[Prober, FaultyEngine, OllamaServer]]:
    """Yield a prober, its server's engine, and the server."""
    engine = FaultyEngine(models or (FAST,), **scheduling)
    async with OllamaServer(engine) as server, probing(server.url, **(target or {})) as prober:
        yield prober, engine, server


async def read(prober: Prober, plan: ModelPlan | None = None, chunks: ChunkRecorder | None = None) -> Reading:
    """Probe and return the reading."""
    outcome = await prober.probe(plan or model_plan(), chunks=chunks)
    assert isinstance(outcome, Reading)
    return outcome


async def failure(prober: Prober, plan: ModelPlan | None = None) -> ProbeError:
    """Probe and return the failure."""
    with pytest.raises(ProbeError) as caught:
        await asyncio.wait_for(prober.probe(plan or model_plan()), 10)
    return caught.value


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


GOOD, TRUNCATED = "good", "truncated"
FAULTS: list[tuple[Fault, str | Reason]] = [
    (Fault(FaultKind.SLOW, factor=0.5), GOOD),
    (Fault(FaultKind.CPU), TRUNCATED),
    (Fault(FaultKind.CPU_HIDDEN), TRUNCATED),
    (Fault(FaultKind.PARTIAL_OFFLOAD, factor=0.99), GOOD),
    (Fault(FaultKind.COLD), GOOD),
    (Fault(FaultKind.BUSY, seconds=0.3), GOOD),
    (Fault(FaultKind.LOAD_FOREVER), Reason.LOAD_TIMEOUT),
    (Fault(FaultKind.STALL_BEFORE_FIRST_TOKEN), Reason.NO_FIRST_TOKEN),
    (Fault(FaultKind.STALL_IN_THE_MIDDLE, after_tokens=20), Reason.STALLED),
    (Fault(FaultKind.CUT, after_tokens=20), Reason.PROTOCOL),
    (Fault(FaultKind.CUT), Reason.PROTOCOL),
    (Fault(FaultKind.HALF_CLOSED, after_tokens=20), Reason.PROTOCOL),
    (Fault(FaultKind.NO_DONE, after_tokens=20), TRUNCATED),
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


@pytest.mark.parametrize(("fault", "end"), FAULTS, ids=names(FAULTS))
async def test_each_fault_has_its_result_and_the_next_probe_is_good(fault: Fault, end: str | Reason) -> None:
    """No fault outlasts its deadline, each failure has its own reason, and nothing remains when the fault is over."""
    injected = replace(fault)
    plan = model_plan(timeout_seconds=2.6, load_timeout_seconds=1.0)
    async with scripted() as (prober, engine, _):
        if fault.kind not in {FaultKind.LOAD_FOREVER, FaultKind.OUT_OF_MEMORY}:
            await read(prober, plan)
        engine.inject(injected)
        if isinstance(end, Reason):
            assert (await failure(prober, plan)).reason is end
        else:
            reading = await asyncio.wait_for(read(prober, plan), 10)
            assert reading.figures.truncated is (end == TRUNCATED)
        injected.end()

        assert not (await read(prober, model_plan(timeout_seconds=20))).figures.truncated


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


async def test_an_error_of_the_gpu_monitor_is_internal() -> None:
    """It does not look like a fault of the server, and its cause is kept for the log."""

    class Broken(GpuMonitor):
        async def watch(self, *_: object) -> Any:
            raise RuntimeError("odd")

    async with OllamaServer(FaultyEngine([FAST])) as server, probing(server.url, Broken()) as prober:
        error = await failure(prober)

    assert error.reason is Reason.INTERNAL
    assert isinstance(error.__cause__, RuntimeError)


async def test_a_secret_that_the_server_repeats_is_redacted(tmp_path: Path) -> None:
    """Neither the error nor its parts hold a token or a header's value."""
    token = tmp_path / "token"
    token.write_text("tok-51ns3cr3t\n")
    target = {"bearer_token_file": token, "headers": {"X-Key": "hdr-51ns3cr3t"}}
    async with scripted(target=target) as (prober, engine, _):
        await read(prober)
        engine.inject(Fault(FaultKind.ERROR_LINE, text="no: Bearer tok-51ns3cr3t hdr-51ns3cr3t"))
        error = await failure(prober)

    assert "no: Bearer" in error.detail
    assert "51ns3cr3t" not in f"{error} {error.detail} {error.remedy}"


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


FIGURES = Figures(
    words=1,
    elapsed_seconds=1,
    decode_tokens_per_second=100,
    output_tokens=1,
    prompt_tokens=1,
    time_to_first_token_seconds=0,
    stages=None,
    truncated=False,
    distinct_chunks_ratio=1,
)
DENSE = ModelFile(blob=None, dense=True, can_generate=True, cloud=False)
ON_GPU = LoadedModel(name="m", size_bytes=10, size_vram_bytes=10)


@pytest.mark.parametrize(
    ("peak", "size_bytes", "loaded", "file", "ratio"),
    [
        (2e12, 10**10, ON_GPU, DENSE, 0.5),
        (2e12, 10**10, None, DENSE, 0.5),
        (None, 10**10, ON_GPU, DENSE, None),
        (2e12, None, ON_GPU, DENSE, None),
        (2e12, 10**10, replace(ON_GPU, size_vram_bytes=5), DENSE, None),
        (2e12, 10**10, ON_GPU, replace(DENSE, dense=False), None),
        (2e12, 10**10, ON_GPU, None, None),
    ],
)
def test_bandwidth_is_known_only_for_a_dense_model_wholly_on_the_gpu(
    peak: float | None, size_bytes: int | None, loaded: LoadedModel | None, file: ModelFile | None, ratio: float | None
) -> None:
    """Only then does each token read the whole model from the GPU's memory."""
    observation = GpuObservation(label="g", peak_bandwidth_bytes_per_second=peak)
    installed = InstalledModel(size_bytes=size_bytes)

    assert bandwidth_utilization_ratio(FIGURES, observation, installed, loaded, file) == ratio
