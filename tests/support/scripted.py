"""A prober of a scripted server, and what a probe of it returns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.faulty_ollama import FaultyEngine
from support.probing import model_plan, probing

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.errors import ProbeError
from exporter.gpu.monitor import GpuMonitor
from exporter.ollama.chain import ChunkRecorder
from exporter.plan import ModelPlan
from exporter.probing.prober import Prober
from exporter.reading import Reading

FAST = ScriptedModel(tokens_per_second=400, load_seconds=0.1)


@contextlib.asynccontextmanager
async def scripted(
    *models: ScriptedModel, gpus: GpuMonitor | None = None, **target: Any
) -> AsyncIterator[tuple[Prober, FaultyEngine, OllamaServer]]:
    """Yield a prober, its server's engine, and the server. Further arguments change the target's plan."""
    engine = FaultyEngine(models or (FAST,))
    async with OllamaServer(engine) as server, probing(server.url, gpus, **target) as prober:
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
