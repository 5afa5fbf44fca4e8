"""How a probe uses the GPU monitor and its observation."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from support.faults import Fault, FaultKind
from support.probing import model_plan, until
from support.readings import CARD, FULL
from support.scripted import FAST, failure, read, scripted

from exporter.errors import Reason
from exporter.gpu.base import Card, ProbedModel
from exporter.gpu.monitor import GpuMonitor, GpuWatch
from exporter.ollama.entries import ModelFile
from exporter.probing.prober import bandwidth_utilization_ratio
from exporter.reading import GpuObservation, InstalledModel, LoadedModel

OBSERVATION = GpuObservation(label="observed", contended={"gpu": True, "model": False})


class RecordingMonitor(GpuMonitor):
    """A monitor that records its calls."""

    def __init__(self, cards: tuple[Card, ...] = (CARD,)) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.watched: list[ProbedModel] = []
        self._given = cards

    def cards(self) -> tuple[Card, ...]:
        """Return the given GPUs."""
        return self._given

    async def watch(self, model: ProbedModel) -> GpuWatch:
        """Record the model."""
        self.watched.append(model)
        return RecordingWatch(self, model)


class RecordingWatch(GpuWatch):
    """Its watch."""

    def __init__(self, monitor: RecordingMonitor, model: ProbedModel) -> None:
        super().__init__(monitor, model, None)
        self._calls = monitor.calls

    def first_token(self) -> None:
        """Record the call."""
        self._calls.append("first_token")

    async def finish(self) -> GpuObservation:
        """Record the call."""
        self._calls.append("finish")
        return OBSERVATION

    def abandon(self) -> None:
        """Record the call."""
        self._calls.append("abandon")


async def test_the_gpus_are_watched_from_the_first_token_to_the_end() -> None:
    """The observation becomes the reading's."""
    gpus = RecordingMonitor()
    async with scripted(gpus=gpus) as (prober, _, _):
        reading = await read(prober)

    assert gpus.calls == ["first_token", "finish"]
    assert reading.gpu == OBSERVATION
    assert reading.contended["gpu"] is True


async def test_the_watch_of_a_failed_probe_is_abandoned() -> None:
    """Sampling stops."""
    gpus = RecordingMonitor()
    async with scripted(gpus=gpus) as (prober, engine, _):
        engine.inject(Fault(FaultKind.CUT, after_tokens=3))
        await failure(prober)

    assert gpus.calls == ["first_token", "abandon"]


async def test_the_watch_of_a_cancelled_probe_is_abandoned() -> None:
    """A reload cancels probes."""
    gpus = RecordingMonitor()
    async with scripted(gpus=gpus) as (prober, _, _):
        task = asyncio.create_task(prober.probe(model_plan()))
        await until(lambda: "first_token" in gpus.calls)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert gpus.calls == ["first_token", "abandon"]


@pytest.mark.parametrize(
    ("local", "cards", "requested"), [(True, (CARD,), True), (False, (CARD,), False), (True, (), False)]
)
async def test_the_model_file_is_requested_only_where_a_gpu_here_may_run_it(
    local: bool, cards: tuple[Card, ...], requested: bool
) -> None:
    """Its blob identifies the runner's process on this machine. `/api/show` is large."""
    gpus = RecordingMonitor(cards)
    async with scripted(gpus=gpus, local=local, gpu="configured") as (prober, _, server):
        await read(prober)

        assert ("/api/show" in {request.path for request in server.requests}) is requested
    [model] = gpus.watched
    assert (model.key, model.local, model.configured) == (("t", "llama3.1"), local, "configured")
    assert (model.blob is not None) is requested
    assert model.size_vram_bytes == FAST.resident_bytes()[1]


async def test_a_model_file_that_is_not_available_does_not_fail_the_probe() -> None:
    """The GPU is then found without it."""
    gpus = RecordingMonitor()
    async with scripted(gpus=gpus, local=True) as (prober, engine, _):
        engine.inject(Fault(FaultKind.SERVER_BUSY, path="/api/show"))
        await read(prober)

    assert gpus.watched[0].blob is None


async def test_a_model_can_be_described_without_a_probe() -> None:
    """The `gpus` command shows how its label would be chosen."""
    gpus = RecordingMonitor()
    async with scripted(gpus=gpus, local=True) as (prober, _, server):
        model = await prober.probed_model(model_plan())

        assert "/api/generate" not in {request.path for request in server.requests}
    assert model.blob is not None
    assert model.size_vram_bytes is None


async def test_an_error_of_the_gpu_monitor_is_internal() -> None:
    """It does not look like a fault of the server, and its cause is kept for the log."""

    class Broken(GpuMonitor):
        async def watch(self, *_: object) -> Any:
            raise RuntimeError("odd")

    async with scripted(gpus=Broken()) as (prober, _, _):
        error = await failure(prober)

    assert error.reason is Reason.INTERNAL
    assert isinstance(error.__cause__, RuntimeError)


FIGURES = replace(FULL.figures, decode_tokens_per_second=100)
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
