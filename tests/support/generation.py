"""Requests to a scripted engine in simulated time, in which durations are exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

import pytest
from support.faulty_ollama import FaultyEngine
from support.simulated import run_simulated

from exporter.embedded.messages import parse_keep_alive
from exporter.embedded.scripted import ScriptedEngine, ScriptedModel
from exporter.embedded.values import NANOSECONDS, GenerateRequest, Line

LLAMA = ScriptedModel("llama3.1", tokens_per_second=50, prefill_seconds=0.25, load_seconds=2, length=100)
QWEN = ScriptedModel("qwen3:8b", tokens_per_second=50, prefill_seconds=0.25, load_seconds=2)
RATE = LLAMA.tokens_per_second


def simulate(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a program in simulated time."""
    run_simulated(lambda _: program())


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def clock() -> int:
    """Return the loop's time as an engine's wall clock, in nanoseconds."""
    return round(now() * NANOSECONDS)


def make_engine(*models: ScriptedModel, **scheduling: Any) -> FaultyEngine:
    """Return an engine whose wall clock is the loop's."""
    return FaultyEngine(models or (LLAMA,), clock=clock, **scheduling)


async def stream(
    engine: ScriptedEngine, model: str = "llama3.1", prompt: str = "Why?", keep_alive: Any = None, **options: Any
) -> AsyncIterator[Line | bytes]:
    """Generate, by default 26 tokens: half a second from the first to the last."""
    found = engine.find(model)
    assert found
    request = GenerateRequest(
        model=found,
        requested_name=model,
        prompt=prompt,
        raw=False,
        think=bool(options.pop("think", False)),
        options={"num_predict": 26} | options,
        keep_alive_ns=parse_keep_alive(keep_alive),
        received_at=now(),
    )
    async with aclosing(engine.generate(request)) as lines:
        async for line in lines:
            yield line


async def generate(engine: ScriptedEngine, *args: Any, **options: Any) -> list[Any]:
    """Generate and return all lines."""
    return [line async for line in stream(engine, *args, **options)]


async def final(engine: ScriptedEngine, *args: Any, **options: Any) -> dict[str, Any]:
    """Generate and return the last line."""
    last = (await generate(engine, *args, **options))[-1]
    assert isinstance(last, dict)
    return last


def stages(line: Line) -> dict[str, float]:
    """Return the durations of a final line's stages, in seconds."""
    load, prefill, decode = (line.get(f"{part}_duration", 0) / 1e9 for part in ("load", "prompt_eval", "eval"))
    total = line["total_duration"] / 1e9
    return {"queue": round(total - load - prefill - decode, 6), "load": load, "prefill": prefill, "decode": decode}


def took(*, queue: float = 0, load: float = 0, prefill: float = 0.25, decode: float = 0.5) -> Any:
    """Return what `stages` must be equal to."""
    return pytest.approx({"queue": queue, "load": load, "prefill": prefill, "decode": decode}, abs=1e-6)


async def expires_at(engine: ScriptedEngine, model: str = "llama3.1:latest") -> float:
    """Return when a model will be unloaded, by the loop's clock."""
    runner = next(runner for runner in await engine.loaded() if runner.model.full_name == model)
    assert runner.expires_ns is not None
    return runner.expires_ns / NANOSECONDS
