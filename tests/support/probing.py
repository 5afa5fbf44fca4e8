"""A prober on a real HTTP server, and the plans that tests give it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from exporter.gpu.monitor import GpuMonitor
from exporter.ollama.chain import ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelPlan, TargetPlan, Workload
from exporter.probing.prober import Prober

QUESTION = "What are the 50 most imporant concepts in a college level course on deep learning?"
TEMPLATE = "Question: {question}\n\nAnswer: Let's think step by step."


def workload(**changes: Any) -> Workload:
    """Return the default workload with fewer tokens, so that a test is short."""
    fields: dict[str, Any] = {
        "template": TEMPLATE,
        "question": QUESTION,
        "num_predict": 32,
        "temperature": 0,
        "seed": 42,
        "reasoning": False,
    }
    return Workload(**(fields | changes))


def model_plan(model: str = "llama3.1", **changes: Any) -> ModelPlan:
    """Return a plan with short timeouts."""
    fields: dict[str, Any] = {
        "model": model,
        "workload": workload(),
        "interval_seconds": 60,
        "timeout_seconds": 5,
        "load_timeout_seconds": 5,
        "when_unloaded": "load",
    }
    return ModelPlan(**(fields | changes))


def target_plan(url: str, *models: ModelPlan, **changes: Any) -> TargetPlan:
    """Return a target named `t`."""
    fields: dict[str, Any] = {"name": "t", "url": url, "models": models, "defaults": model_plan("")}
    return TargetPlan(**(fields | changes))


@contextlib.asynccontextmanager
async def probing(url: str, gpus: GpuMonitor | None = None, **changes: Any) -> AsyncIterator[Prober]:
    """Yield a prober for the server at `url`, and close its connections at the end."""
    target = target_plan(url, **changes)
    client = OllamaClient(target)
    chain = ReferenceChain(target, client.auth)
    try:
        yield Prober(target, client, chain, gpus or GpuMonitor())
    finally:
        await chain.close()
        await client.close()


@contextlib.asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """Yield the URL of a server that answers every request with `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
