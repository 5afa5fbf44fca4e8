"""Discovery of the models that are probed."""

from __future__ import annotations

from support.faulty_ollama import FaultyEngine
from support.probing import target_plan

from exporter.embedded.protocol import OllamaServer
from exporter.embedded.scripted import ScriptedModel
from exporter.ollama.client import OllamaClient
from exporter.plan import Discovery, ModelKey, ModelPlan
from exporter.probing.discovery import discover

MODELS = [
    ScriptedModel("qwen3:8b"),
    ScriptedModel("llama3.1"),
    ScriptedModel("nomic-embed-text", capabilities=("embedding",)),
    ScriptedModel("gpt-oss:120b-cloud", remote_host="https://ollama.com"),
]


async def discovered(server: OllamaServer, models: Discovery) -> dict[ModelKey, ModelPlan]:
    """Return what is discovered on a server."""
    plan = target_plan(server.url, models=models)
    async with OllamaClient(plan) as client:
        return await discover(plan, client)


async def test_installed_models_that_generate_are_found() -> None:
    """Embedding models and cloud models are excluded. Names are without `:latest`, in order."""
    async with OllamaServer(FaultyEngine(MODELS)) as server:
        found = await discovered(server, "installed")

    assert list(found) == [ModelKey("t", "llama3.1"), ModelKey("t", "qwen3:8b")]
    assert [(plan.model, plan.when_unloaded) for plan in found.values()] == [("llama3.1", "load"), ("qwen3:8b", "load")]


async def test_loaded_models_are_found_and_never_loaded_again() -> None:
    """Only what is loaded now is found, and probing it never loads it."""
    engine = FaultyEngine(MODELS)
    async with OllamaServer(engine) as server:
        assert await discovered(server, "loaded") == {}
        await engine.other_client("qwen3:8b", tokens=1)
        found = await discovered(server, "loaded")

    assert [(key.model, plan.when_unloaded) for key, plan in found.items()] == [("qwen3:8b", "skip")]
