"""What the commands that ask servers share: a prober per target, the models to probe, and how failures are printed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from exporter.errors import ProbeError, Reason
from exporter.gpu.monitor import GpuMonitor
from exporter.ollama.chain import ReferenceChain
from exporter.ollama.client import OllamaClient
from exporter.plan import ModelKey, ModelPlan, TargetPlan
from exporter.probing.discovery import discover
from exporter.probing.prober import Prober


@contextlib.asynccontextmanager
async def open_prober(target: TargetPlan, monitor: GpuMonitor) -> AsyncIterator[tuple[Prober, OllamaClient]]:
    """Yield a prober for a target and its client, and close their connections at the end."""
    client = OllamaClient(target)
    chain = ReferenceChain(target, client.auth)
    try:
        yield Prober(target, client, chain, monitor), client
    finally:
        await chain.close()
        await client.close()


async def models_to_probe(target: TargetPlan, client: OllamaClient) -> Sequence[ModelPlan]:
    """Return the configured models, or those that the server has. Raises ProbeError where it has none."""
    if not isinstance(target.models, str):
        return target.models
    found = await discover(target, client)
    if not found.models:
        if found.failed:
            raise next(iter(found.failed.values()))
        remedy = (
            "Load a model, or list models in the configuration."
            if target.models == "loaded"
            else "Pull a model on the server with `ollama pull`."
        )
        raise ProbeError(Reason.MODEL_MISSING, f"no {target.models} model on the server can generate", remedy)
    return tuple(found.models.values())


def print_failure(console: Console, what: str, error: ProbeError) -> None:
    """Print what failed, why, and what to do about it."""
    console.print(Text(f"{what} failed: {error.reason}: {error.detail}", style="red"))
    console.print(Text(f"Remedy: {error.remedy}"))


def print_failure_json(key: ModelKey, error: ProbeError) -> None:
    """Print a failure as one JSON object on standard output."""
    print_json(key, reason=error.reason, detail=error.detail, remedy=error.remedy)


def print_json(key: ModelKey, **fields: Any) -> None:
    """Print one JSON object on standard output, the target and the model first."""
    print(json.dumps(key._asdict() | fields))  # noqa: T201 - the command's output
